"""The lines of `ignore` alone while nothing else is edited: the round trip of a whole text costs ten times as much."""

from __future__ import annotations

import re

from quantui.errors import RecipeError
from quantui.recipe.llmcompressor.names import QUANTIZERS
from quantui.recipe.llmcompressor.read import read
from quantui.recipe.llmcompressor.shortened import Shortened
from quantui.recipe.schema import Recipe

KEY = re.compile(r"^( +)ignore:", re.MULTILINE)


def narrowed(source: str, old: Recipe, new: Recipe, offset: int) -> Shortened | None:
    """The same edit of a text that has `ignore` and what it stands in, and little else; None where more is edited.

    What it makes is to be read again: a text may be written in a way that this does not see through.

    Args:
        offset: blanks by which lists of the text are indented.
    """
    keys = KEY.findall(source)
    if len(keys) != 1 or old.model_copy(update={"ignore": new.ignore}) != new:
        return None
    lines, indent = source.splitlines(keepends=True), keys[0]
    begin = next(at for at, line in enumerate(lines) if KEY.match(line))
    end = begin + 1
    for at in range(begin + 1, len(lines)):
        text = lines[at].lstrip(" ")
        if text.strip() and not text.startswith("#"):
            if len(lines[at]) - len(text) <= len(indent) - text.startswith("-"):
                break
            end = at + 1
    above = _parents(lines[:begin], len(indent))
    if above[-1:] and above[-1].strip().rstrip(":") not in QUANTIZERS:
        return None
    head = [*above, f"{indent}scheme: W8A16\n", f"{indent}targets:\n", f"{indent}{' ' * offset}- Linear\n"]
    part = "".join(head + lines[begin:end])
    try:
        was = read(part).recipe
    except RecipeError:
        return None

    def whole(made: str) -> str:
        block = made.splitlines(keepends=True)[len(head) :]
        return "".join([*lines[:begin], *block, *lines[end:]])

    return Shortened(part, was, was.model_copy(update={"ignore": new.ignore}), whole) if was.ignore == old.ignore else None


def _parents(lines: list[str], indent: int) -> list[str]:
    """The lines that a line stands in, each less indented than the next."""
    found: list[str] = []
    for line in reversed(lines):
        text = line.lstrip(" ")
        if text.strip() and not text.startswith("#") and len(line) - len(text) < indent:
            found.insert(0, line)
            indent = len(line) - len(text)
    return found
