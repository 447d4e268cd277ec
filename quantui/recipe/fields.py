"""Every parameter of a recipe, described once: form, command line, documentation and validation all come from here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

from quantui.errors import RecipeError
from quantui.recipe.access import Value, access, as_text, data_of, text_of
from quantui.recipe.llmcompressor.shape import nearest
from quantui.recipe.schema import Recipe
from quantui.recipe.terms import CALLED, MODIFIERS, ROWS, WORDS

Kind = Literal["choice", "int", "float", "bool", "names", "text", "data"]
SECTIONS = ("scheme", "weights", "activations", "cache", "outliers", "rounding", "layers", "sparse", "fallback", "rare")


@dataclass(frozen=True)
class Field:
    """One parameter.

    Attributes:
        name: its name here; `recipe.field.<name>` and `recipe.help.<name>` are its keys for a page.
        section: the group of the form it stands in.
        term: what the field calls it.
        help: one line on what it does.
        kind: what its values are; names are layer names or patterns, data is a list or mapping written as JSON or YAML.
        default: its value in a recipe that says nothing of it.
        get: its value in a recipe; None where it has none there.
        set: the recipe with another value.
        choices: of a choice, in the order to offer them.
        low, high: of a number.
        written: how a text is written.
        optional: whether None is a value.
        llmcompressor, msmodelslim, lmdeploy: what those call it, "" where they have no such thing.
        needs: the field and value without which it has no meaning, for example ("rounding", "gptq").
    """

    name: str
    section: str
    term: str
    help: str
    kind: Kind
    default: Value
    get: Callable[[Recipe], Value]
    set: Callable[[Recipe, Any], Recipe]
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    written: str = ""
    optional: bool = False
    llmcompressor: str = ""
    msmodelslim: str = ""
    lmdeploy: str = ""
    needs: tuple[str, tuple[Value, ...]] | None = None

    @property
    def help_key(self) -> str:
        """The key of its line of help."""
        return f"recipe.help.{self.name}"

    def is_used(self, recipe: Recipe) -> bool:
        """Whether it has a meaning in this recipe, so that a form shows it."""
        return self.needs is None or field_named(self.needs[0]).get(recipe) in self.needs[1]


def field_named(name: str) -> Field:
    """The field of this name.

    Raises:
        RecipeError: there is none; the nearest are named.
    """
    if name not in FIELDS:
        raise RecipeError(f"there is no field {name!r}", where="recipe", todo=nearest(name, tuple(FIELDS)))
    return FIELDS[name]


def parsed(field: Field, value: Any) -> Value:
    """A value as the field takes it, from a form or a command line.

    Raises:
        RecipeError: it is not one of its values; those are named.
    """
    if value is None or (
        isinstance(value, str) and value.strip().lower() in ("", "null", "auto", "default") and field.optional
    ):
        if not field.optional:
            raise _refused(field, value)
        return None
    if field.kind == "names":
        if not isinstance(value, str | list | tuple):
            raise _refused(field, value)
        if not isinstance(value, str):
            return tuple(dict.fromkeys(str(entry) for entry in value))
        entries = value.splitlines() if "\n" in value else re.split(r",(?![^{]*\})", value)  # not the comma of a{1,2}
        return tuple(dict.fromkeys(entry.strip() for entry in entries if entry.strip()))
    if field.kind == "choice":
        known = {choice.lower(): choice for choice in field.choices}
        if str(value).lower() not in known:
            raise _refused(field, value)
        return known[str(value).lower()]
    if field.kind == "data":
        return _data(field, value)
    if field.kind == "bool":
        truth = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}.get(str(value).lower())
        if truth is None:
            raise _refused(field, value)
        return truth
    return str(value) if field.kind == "text" else _number(field, value)


def _data(field: Field, value: Any) -> Value:
    """A list or mapping in its one spelling, None for an empty one."""
    try:
        data = data_of(value) if isinstance(value, str) else value
        if isinstance(data, dict | list):
            return text_of(data)
    except (ValueError, TypeError, RecursionError, RecipeError) as error:
        raise _refused(field, value) from error
    raise _refused(field, value)


def _number(field: Field, value: Any) -> int | float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise _refused(field, value) from error
    low, high = field.low, field.high
    whole = field.kind == "int"
    if isinstance(value, bool) or (low is not None and not number >= low) or (high is not None and not number <= high):
        raise _refused(field, value)
    if number != number or abs(number) == float("inf") or (whole and number != int(number)):
        raise _refused(field, value)
    return int(number) if whole else number


def _refused(field: Field, value: Any) -> RecipeError:
    return RecipeError(f"{field.name} cannot be {str(value)[:100]!r}", where=field.name, todo=f"it is {values_of(field)}")


def values_of(field: Field) -> str:
    """The values of a field in words: "2 to 8", "one of rtn, gptq", "true or false"."""
    kinds = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false",
        "text": field.written,
        "data": "a list or mapping",
        "names": "names or re: patterns",
    }
    words = f"one of {', '.join(field.choices)}" if field.kind == "choice" else kinds[field.kind]
    if field.low is not None and field.high is not None:
        words = f"{field.low:g} to {field.high:g}"
    elif field.low is not None:
        words += f" from {field.low:g}"
    return f"{words}, or none" if field.optional else words


def table() -> str:
    """docs/recipes.md: every field, what it may be, and what each vocabulary calls it."""
    lines = [
        "# The fields of a recipe", "",
        "Made from `quantui/recipe/terms.py` by `python -m quantui.recipe.fields`; a test compares the two.", "",
    ]  # fmt: skip
    for section in SECTIONS:
        lines += [
            f"## {section.capitalize()}",
            "",
            "| field | meaning | values | default | llm-compressor | msModelSlim | lmdeploy |",
        ]
        lines.append("|---|---|---|---|---|---|---|")
        for field in FIELDS.values():
            if field.section == section:
                default = "none" if field.default in (None, ()) else str(field.default).lower()
                names = [f"`{name}`" if name else "" for name in (field.llmcompressor, field.msmodelslim, field.lmdeploy)]
                cells = [f"`{field.name}`", f"{field.term}: {field.help}", values_of(field), default, *names]
                lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        lines.append("")
    return "\n".join(lines)


def _field(name: str, section: str, part: str, key: str, kind: str, default: Any, values: Any, needs: Any) -> Field:
    """The field of one row of the table."""
    get, put = as_text(*access(part, key)) if kind.startswith("data") else access(part, key)
    where = MODIFIERS[part] + (key if MODIFIERS[part].endswith(".") or part == "recipe" else "")
    plain, (term, text), (slim, lmdeploy) = kind.rstrip("?"), WORDS[name], CALLED.get(name, ("", ""))
    low, high = values if plain in ("int", "float") else (None, None)
    return Field(
        name=name, section=section, term=term, help=text, kind=cast(Kind, plain), default=default, get=get, set=put,
        choices=values if plain == "choice" else (), written=values if plain == "text" else "", low=low, high=high,
        optional=kind.endswith("?"), llmcompressor=where, msmodelslim=slim, lmdeploy=lmdeploy, needs=needs,
    )  # fmt: skip


FIELDS: Mapping[str, Field] = MappingProxyType({row[0]: _field(*row) for row in ROWS})
"""Every field by name, in the order of a form."""

if __name__ == "__main__":
    print(table(), end="")
