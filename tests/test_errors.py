"""The tree of errors, and how each of them reads."""

from __future__ import annotations

import inspect
import json
import pickle
import re

import pytest

from quantui import errors
from quantui.errors import InputError, QuantUIError, RunError

CLASSES = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]


def test_the_tree_at_the_head_of_the_module_is_the_tree_of_classes() -> None:
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in errors.__doc__.splitlines():
        if found := re.match(r"([│ ]*(?:[├└]── )?)(\w+Error)\b", line):
            depth = len(found[1]) // 4
            above[depth] = found[2]
            parents[found[2]] = above[depth - 1] if depth else "Exception"
    assert parents == {cls.__name__: cls.__bases__[0].__name__ for cls in CLASSES}


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_exit_codes_tell_input_from_running(cls: type[QuantUIError]) -> None:
    assert cls("x").exit_code == (2 if issubclass(cls, InputError) else 1)
    assert issubclass(cls, QuantUIError) and (cls is QuantUIError or issubclass(cls, InputError) != issubclass(cls, RunError))
    assert cls.__doc__


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (QuantUIError("it is wrong"), "it is wrong."),
        (QuantUIError("it is wrong", where="file:3"), "file:3: it is wrong."),
        (QuantUIError("it is wrong", todo="mend it"), "it is wrong; mend it."),
        (QuantUIError("it is wrong", where="file:3", todo="mend it"), "file:3: it is wrong; mend it."),
    ],
)
def test_an_error_is_one_sentence(error: QuantUIError, text: str) -> None:
    assert str(error) == text


def test_an_error_keeps_its_parts_on_the_way_to_another_process() -> None:
    error = errors.RecipeError("it is wrong", where="名:3", todo="mend it")
    other = pickle.loads(pickle.dumps(error))
    assert (type(other), other.what, other.where, other.todo) == (type(error), error.what, error.where, error.todo)
    assert str(other) == str(error)
    assert json.loads(json.dumps(str(error))) == "名:3: it is wrong; mend it."
