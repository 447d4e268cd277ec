"""What an import gives back: the recipe, and for every parameter of the text what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from quantui.errors import RecipeError
from quantui.recipe.schema import Recipe

Vocabulary = Literal["llmcompressor", "msmodelslim", "lmdeploy"]
WHERE = "pasted text"
LONGEST = 1_000_000
"""Characters of a pasted text."""
_CLIP = 200  # characters of a value that is shown


@dataclass(frozen=True)
class Line:
    """One parameter of an imported text.

    Attributes:
        parameter: its name there.
        value: what it was set to, as it was written.
        says: what it became here, or "not carried over, because ...".
        line: the line of the text it stands on; 0 when it stands nowhere.
    """

    parameter: str
    value: str
    says: str
    line: int = 0


@dataclass(frozen=True)
class Imported:
    """A recipe made of another tool's words.

    Attributes:
        recipe: the decision; quantizes nothing when `request` is statistics.
        vocabulary: whose words they were.
        carried: the parameters that are in the recipe.
        not_carried: those that are not, and why.
        notes: what else a reader should know: defaults that were filled in, names that were translated.
        request: "statistics" where the text asks for measuring only (`lmdeploy lite calibrate`).
    """

    recipe: Recipe
    vocabulary: Vocabulary
    carried: tuple[Line, ...] = ()
    not_carried: tuple[Line, ...] = ()
    notes: tuple[str, ...] = ()
    request: Literal["recipe", "statistics"] = "recipe"


@dataclass(frozen=True)
class Given:
    """A parameter as it was written, with its place; both count from 1."""

    name: str
    value: Any
    line: int = 1
    column: int = 1

    @property
    def shown(self) -> str:
        """The value as a person reads it, clipped."""
        text = ", ".join(map(str, self.value)) if isinstance(self.value, list | tuple) else str(self.value)
        return text if len(text) <= _CLIP else f"{text[:_CLIP]} ..."


@dataclass
class Report:
    """Collects what became of each parameter while a text is read."""

    carried: list[Line] = field(default_factory=list)
    not_carried: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def carry(self, given: Given, became: str) -> None:
        """It is in the recipe."""
        self.carried.append(Line(given.name, given.shown, became, given.line))

    def leave(self, given: Given, because: str) -> None:
        """It is not in the recipe."""
        self.not_carried.append(Line(given.name, given.shown, f"not carried over, because {because}", given.line))

    def note(self, text: str) -> None:
        """Something else to know, once."""
        if text not in self.notes:
            self.notes.append(text)

    def imported(self, recipe: Recipe, vocabulary: Vocabulary, request: Literal["recipe", "statistics"] = "recipe") -> Imported:
        """The whole, in the order of the text."""
        carried = tuple(sorted(self.carried, key=lambda line: line.line))
        not_carried = tuple(sorted(self.not_carried, key=lambda line: line.line))
        return Imported(recipe, vocabulary, carried, not_carried, tuple(self.notes), request)


def refuse(what: str, line: int, column: int, todo: str) -> RecipeError:
    """An error that points into the pasted text; raise it."""
    clipped = what if len(what) <= 3 * _CLIP else f"{what[: 3 * _CLIP]} ..."
    return RecipeError(clipped, where=f"{WHERE}:{line}:{column}", todo=todo)


def refuse_given(what: str, given: Given | None, todo: str) -> RecipeError:
    """An error about one parameter; the beginning of the text where it was not written."""
    return refuse(what, given.line if given else 1, given.column if given else 1, todo)
