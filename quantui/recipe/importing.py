"""A pasted text in any of the vocabularies engineers come with, as a recipe and an account of every parameter."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, get_args

from quantui.errors import RecipeError
from quantui.recipe import llmcompressor, lmdeploy, msmodelslim
from quantui.recipe.imported import LONGEST, WHERE, Imported, Line, Vocabulary
from quantui.recipe.text import Document, Path

__all__ = ["VOCABULARIES", "Imported", "Line", "Vocabulary", "detect", "import_text"]

VOCABULARIES: tuple[str, ...] = get_args(Vocabulary)
_YAML = re.compile(r"^\s*[\w\"'-]+\s*:|^\s*[{\[]|^---", re.MULTILINE)
_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def detect(text: str) -> Vocabulary | None:
    """Whose words a text is written in; None where nothing tells."""
    if lmdeploy.is_lmdeploy(text):
        return "lmdeploy"
    if msmodelslim.is_msmodelslim(text):
        return "msmodelslim"
    if _YAML.search(text):
        return "llmcompressor"
    return "msmodelslim" if re.search(r"--[aw]_bit\b", text) else None


def import_text(text: str, vocabulary: Literal["auto"] | Vocabulary = "auto") -> Imported:
    """The recipe a pasted text stands for, with what became of each of its parameters.

    Args:
        text: llm-compressor YAML, a command line, Python calls or practice YAML of msModelSlim, or `lmdeploy lite` commands.
        vocabulary: whose words they are; "auto" finds out.

    Raises:
        RecipeError: nobody's words, or what they say cannot be read or cannot work; with line and column.
    """
    if vocabulary not in ("auto", *VOCABULARIES):
        todo = f"use auto, {', '.join(VOCABULARIES)}"
        raise RecipeError(f"there is no vocabulary {vocabulary!r}", where=f"{WHERE}:1:1", todo=todo)
    if len(text) > LONGEST:
        what = f"it has {len(text):,} characters, more than {LONGEST:,}"
        raise RecipeError(what, where=f"{WHERE}:1:1", todo="paste the recipe only")
    if odd := _CONTROL.search(text):
        before = text[: odd.start()]
        place = f"{WHERE}:{before.count(chr(10)) + 1}:{odd.start() - before.rfind(chr(10))}"
        raise RecipeError("a character that cannot be shown stands in the text", where=place, todo="take it away")
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise RecipeError("the text is empty", where=f"{WHERE}:1:1", todo="paste a recipe, a command line or a call")
    found = detect(text) if vocabulary == "auto" else vocabulary
    if found == "lmdeploy":
        return lmdeploy.read(text)
    if found == "msmodelslim":
        return msmodelslim.read(text)
    if found == "llmcompressor":
        return _llmcompressor(text)
    todo = "paste llm-compressor YAML, a quant_*.py command line, a QuantConfig(...) call, or an `lmdeploy lite` command"
    raise RecipeError("nothing tells what the text is", where=f"{WHERE}:1:1", todo=todo)


def _llmcompressor(text: str) -> Imported:
    """Everything in it is kept, or the text is refused."""
    recipe, notes = llmcompressor.read(text, WHERE)
    document = Document(text.replace("\t", " "), WHERE, RecipeError)  # JSON may have tabs, which YAML may not
    carried = (
        Line(".".join(map(str, path)), _shown(value), "as it is", document.line(path)) for path, value in _leaves(document.data)
    )
    return Imported(recipe, "llmcompressor", carried=tuple(carried), notes=notes)


def _leaves(value: object, path: Path = ()) -> Iterator[tuple[Path, object]]:
    """Every value that holds no mapping, with its path."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, index))
    else:
        yield path, value


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
