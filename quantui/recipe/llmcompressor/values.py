"""Lists of names, observers and checked models out of a document, each with the place of what is wrong."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quantui.recipe import text
from quantui.recipe.args import OBSERVERS, QuantArgs, known_observer
from quantui.recipe.llmcompressor.shape import mapping, nearest

M = TypeVar("M", bound=BaseModel)


def given(body: dict[str, Any], key: str, default: Any) -> Any:
    """The value of a key, or the default where it is absent or null."""
    return default if body.get(key) is None else body[key]


def names(document: text.Document, value: Any, path: text.Path) -> tuple[str, ...]:
    """A target or ignore list; each `re:` entry must be a regular expression."""
    entries = (value,) if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(name, str) for name in entries):
        raise document.fail(f"{path[-1]} must be a name or a list of names", path, "for example [Linear] or ['re:.*lm_head']")
    for index, name in enumerate(entries):
        if name.startswith("re:"):
            try:
                with warnings.catch_warnings(action="ignore"):  # of Python about "[[", which means what it says today
                    re.compile(name[3:])
            except (re.error, OverflowError, RecursionError) as error:
                what = f"{name!r} is not a regular expression ({error})"
                raise document.fail(what, (*path, index), "escape special characters, for example \\. for a dot") from error
    return tuple(entries)


def args(document: text.Document, entry: Any, path: text.Path) -> QuantArgs:
    """How one kind of tensor is quantized."""
    fields = dict(mapping(document, entry, path, str(path[-1])))
    for key in fields:
        if key not in QuantArgs.model_fields:
            raise document.fail(f"unknown key {key!r} in {path[-1]}", (*path, key), nearest(key, tuple(QuantArgs.model_fields)))
    fields["observer"] = observer(document, fields.get("observer"), (*path, "observer"))
    return validated(document, QuantArgs, fields, path)


def observer(document: text.Document, name: Any, path: text.Path) -> str | None:
    """The observer's name as it is spelled here."""
    if name is None:
        return None
    try:
        return known_observer(str(name))
    except ValueError as error:
        raise document.fail(f"unknown observer {name!r}", path, nearest(str(name).lower(), OBSERVERS)) from error


def validated(
    document: text.Document,
    model: type[M],
    fields: dict[str, Any],
    path: text.Path,
    keys: Mapping[str, str] = MappingProxyType({}),
) -> M:
    """The model of these fields; `keys` are the fields that the file spells otherwise."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problems = [
            (tuple(keys.get(str(part), part) for part in problem["loc"]), problem["msg"].removeprefix("Value error, "))
            for problem in error.errors()
        ]
        last = path[-1] if path else "recipe"
        what = "; ".join(f"{'.'.join(map(str, place)) or last}: {message}" for place, message in problems)
        raise document.fail(what, (*path, *problems[0][0]), "correct the value") from error
