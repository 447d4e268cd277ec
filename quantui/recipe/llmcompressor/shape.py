"""Where the modifiers stand in a recipe, in the shape that the engine reads and in those that it reads as nothing.

The engine takes `<name>_stage: {<name>_modifiers: {Modifier: {...}}}` alone, and runs anything else "successfully" without
quantizing a layer. Here other shapes are understood and said, and what holds no modifier at all is refused.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

from quantui.recipe import text
from quantui.recipe.llmcompressor.names import DROPPED, FIELDS, QUANTIZATION_FIELDS, REMOVED, RENAMED

SHAPE = "quant_stage: {quant_modifiers: {QuantizationModifier: {...}}}"


@dataclass
class Found:
    """A modifier of a document: where it stands, its name, and its fields as the file has them."""

    path: text.Path
    name: str
    fields: dict[str, Any]


@dataclass
class Notes:
    """What was understood though the engine would not have, each with its line."""

    document: text.Document
    said: list[str] = field(default_factory=list)

    def add(self, what: str, path: text.Path) -> None:
        """Says it of this place."""
        self.said.append(f"line {self.document.line(path)}: {what}")


def find_modifiers(document: text.Document, notes: Notes) -> list[Found]:
    """Every modifier in the order of the file.

    Raises:
        RecipeError: something stands in the way that is neither a modifier nor holds one, or a modifier or field is unknown.
    """
    top = mapping(document, document.data, (), "the recipe")
    found: list[Found] = []
    for key, value in top.items():
        if str(key) == "args" and isinstance(value, dict):
            notes.add("args are left out: values are written into the recipe itself", (key,))
        else:
            found += _below(document, notes, (key,), value)
    return found


def mapping(document: text.Document, value: Any, path: text.Path, label: str) -> dict[str, Any]:
    """The value, which must be a mapping, and not an empty one at the top."""
    if not isinstance(value, dict) or not (value or path):
        raise document.fail(
            f"{label} must be a mapping of names", path, f"write it as {SHAPE}" if len(path) < 3 else "give it keys"
        )
    return value


def nearest(name: Any, valid: tuple[str, ...]) -> str:
    """The valid names, the likeliest first."""
    close = difflib.get_close_matches(str(name)[:100], valid, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}valid are {', '.join(valid)}"


def _below(document: text.Document, notes: Notes, path: text.Path, value: Any) -> list[Found]:
    """The modifiers at or below one key."""
    key, depth = path[-1], len(path)
    if _is_modifier(key) or (depth == 3 and str(path[0]).endswith("_stage") and str(path[1]).endswith("_modifiers")):
        _note_place(notes, path)
        return [_modifier(document, notes, path, value)]
    if depth > 2 or (not _holds_modifiers(value) and not _is_wrapper(path)):
        label = "at the top stand stages, whose names end in _stage" if depth == 1 else (
            "a stage holds groups, whose names end in _modifiers" if depth == 2 else "here stand modifiers")  # fmt: skip
        raise document.fail(f"unknown key {key!r}: {label}", path, f"write it as {SHAPE}")
    found: list[Found] = []
    if isinstance(value, list):
        for index, entry in enumerate(value):
            for name, body in mapping(document, entry, (*path, index), "an entry of a list of modifiers").items():
                _note_place(notes, (*path, index, name))
                found.append(_modifier(document, notes, (*path, index, name), body))
        return found
    for name, body in mapping(document, value, path, "a stage" if depth == 1 else "a group of modifiers").items():
        found += _below(document, notes, (*path, name), body)
    return found


def _is_modifier(key: Any) -> bool:
    return key in FIELDS or key in REMOVED or (str(key).endswith("Modifier") and str(key)[:1].isupper())


def _is_wrapper(path: text.Path) -> bool:
    """Whether the path is of the staged shape so far."""
    return str(path[0]).endswith("_stage") and (len(path) == 1 or str(path[1]).endswith("_modifiers"))


def _holds_modifiers(value: Any, depth: int = 0) -> bool:
    """Whether modifiers stand in a value, at most two levels down."""
    if depth > 2:
        return False
    if isinstance(value, list):
        return any(isinstance(entry, dict) and any(map(_is_modifier, entry)) for entry in value)
    if not isinstance(value, dict):
        return False
    return any(map(_is_modifier, value)) or any(_holds_modifiers(each, depth + 1) for each in value.values())


def _note_place(notes: Notes, path: text.Path) -> None:
    """Says of a modifier that it does not stand where the engine looks for it."""
    if len(path) == 3 and str(path[0]).endswith("_stage") and str(path[1]).endswith("_modifiers"):
        return
    place = f"in {'.'.join(map(str, path[:-1]))}" if len(path) > 1 else "at the top"
    notes.add(f"{path[-1]} stands {place}, where the engine reads nothing; it belongs into quant_stage.quant_modifiers", path)


def _modifier(document: text.Document, notes: Notes, path: text.Path, body: Any) -> Found:
    name = path[-1]
    if name in REMOVED:
        raise document.fail(f"{name} is no longer there", path, REMOVED[str(name)])
    if name not in FIELDS:
        raise document.fail(f"unknown modifier {name!r}", path, nearest(name, tuple(FIELDS)))
    if body is None:
        return Found(path, str(name), {})
    valid = FIELDS[str(name)] + (QUANTIZATION_FIELDS if name == "AWQModifier" else ())
    fields: dict[str, Any] = {}
    for key, value in mapping(document, body, path, str(name)).items():
        called = RENAMED.get(str(key), str(key))
        if key in valid and not (name == "SmoothQuantModifier" and key in DROPPED):
            fields[key] = value
        elif called in valid and called not in body:
            notes.add(f"{key} of {name} is called {called}", (*path, key))
            fields[called] = value
        elif key in DROPPED:
            notes.add(f"{key} of {name} is left out: {DROPPED[key]}", (*path, key))
        else:
            raise document.fail(f"unknown key {key!r} in {name}", (*path, key), nearest(key, FIELDS[str(name)]))
    return Found(path, str(name), fields)
