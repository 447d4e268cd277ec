"""YAML with lines, and every way in which a text is not that."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import RecipeError
from quantui.recipe import text
from quantui.recipe.llmcompressor import load
from quantui.recipe.text import Document

BASE = """\
# a comment
stage:
  first:   # behind a key

    list:
      - one
      - {deep: 1, er: 2}
  "second": x
3: number
"""
MANY = "".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]\n" for i in range(1, 13))
ENDLESS = {
    "billion laughs": f"k0: &k0 [x, x, x, x, x, x, x, x, x]\n{MANY}",
    "aliases in a chain": "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 2000)),
    "merges of merges": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 40)),
    "a list in itself": "&a [*a]",
    "a mapping in itself": "&a {x: *a}",
    "deep brackets": "[" * 100_000,
    "deep braces": "{a: " * 100_000,
    "deep dashes": "- " * 100_000,
    "deep keys": "? " * 100_000,
    "too long": "a: " + "x" * (text.LONGEST + 1),
    "too many": "a: [" + "x, " * (text.LARGEST + 1) + "]",
}
BROKEN = {
    "a tab": ("a:\n\t- b", 2),
    "a key twice": ("a: 1\nb: 2\na: 3", 3),
    "a key twice deep down": ("a:\n  - {b: 1, c: 2,\n     b: 3}", 3),
    "a key twice in two spellings": ('a: 1\n"a": 2', 2),
    "two documents": ("a: 1\n---\nb: 2", 2),
    "an open bracket": ("a: [1\nb: 2", 2),
    "an alias of nothing": ("a: 1\nb: *x", 2),
    "a Python object": ("a: 1\nb: !!python/object/apply:os.getcwd []", 2),
    "an unhashable key": ("{[1]: 2}", 1),
}
NO_LINE = {
    "NUL": "a: \0",
    "half a character": "a: \ud800",
    "a bad date": "a: 2001-99-99",
    "a bad number": "a: !!int x",
    "a bad truth": "a: !!bool x",
    "a bad time": "a: !!timestamp x",
    "a number of 10 000 digits": "a: " + "9" * 10_000,
}


def refused(source: str) -> RecipeError:
    """The error that this text raises."""
    with pytest.raises(RecipeError, match="not valid YAML") as caught:
        Document(source, "r.yaml", RecipeError)
    assert len(str(caught.value)) < 1000 and "\n" not in caught.value.what
    return caught.value


def test_a_document_is_plain_data() -> None:
    made = {"stage": {"first": {"list": ["one", {"deep": 1, "er": 2}]}, "second": "x"}, 3: "number"}
    assert Document(BASE, "r", RecipeError).data == made
    assert Document("", "r", RecipeError).data is None
    assert Document("\ufeffa: 1", "r", RecipeError).data == {"a": 1}
    assert Document("a: &x [1]\nb: *x\n<<: {c: 2}", "r", RecipeError).data == {"a": [1], "b": [1], "c": 2}


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ((), 2), (("stage",), 2), (("stage", "first"), 3), (("stage", "first", "list"), 5), (("stage", "first", "list", 0), 6),
        (("stage", "first", "list", 1), 7), (("stage", "first", "list", 1, "er"), 7), (("stage", "second"), 8), ((3,), 9),
        (("stage", "first", "gone", "deeper"), 3), (("gone",), 2),
    ],
)  # fmt: skip
def test_every_key_and_item_has_its_line(path: text.Path, line: int) -> None:
    assert Document(BASE, "r", RecipeError).line(path) == line


def test_an_error_names_file_line_and_advice() -> None:
    error = Document(BASE, "r.yaml", RecipeError).fail("it is wrong", ("stage", "second"), "mend it")
    assert isinstance(error, RecipeError)
    assert str(error) == "r.yaml:8: it is wrong; mend it."


@pytest.mark.parametrize(("source", "line"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_not_yaml_names_the_line(source: str, line: int) -> None:
    assert refused(source).where.split(":")[:2] == ["r.yaml", str(line)]


@pytest.mark.parametrize("source", NO_LINE.values(), ids=NO_LINE.keys())
def test_what_is_not_yaml_at_no_certain_place_names_the_file(source: str) -> None:
    assert refused(source).where == "r.yaml"


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS.keys())
def test_what_stands_for_too_much_is_refused_at_once(source: str) -> None:
    began = time.process_time()
    refused(source)
    assert time.process_time() - began < 3


def test_a_long_list_of_layers_is_read_fast() -> None:
    source = "ignore:\n" + "".join(f"  - model.layers.{i}.mlp.experts.{i}.down_proj\n" for i in range(20_000))
    began = time.process_time()
    document = Document(source, "r", RecipeError)
    assert len(document.data["ignore"]) == 20_000 and document.line(("ignore", 19_999)) == 20_001
    assert time.process_time() - began < 3


@given(source=st.text(alphabet=st.sampled_from("ab:-?*&!|>{}[],'\"#%@` \n\t\\0<"), max_size=40))
def test_no_text_raises_anything_but_the_error_asked_for(source: str) -> None:
    try:
        Document(source, "r", RecipeError)
    except RecipeError as error:
        assert "not valid YAML" in error.what


def test_a_device_is_not_read_without_end() -> None:
    for path in (Path("/dev/zero"), Path(__file__).parent):
        with pytest.raises(RecipeError, match="folder or device"):
            load(path)
