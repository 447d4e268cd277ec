"""Token ids as text while they come, one piece a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoders give for the bytes of a character that is not whole yet."""
HELD = 8
"""Tokens a character may take before what there is of it is shown."""


class Writer:
    """Turns ids into text that is final: what a later token may still change is held back.

    Args:
        tokenizer: whose ids they are.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # decoding starts here: some tokenizers look at the token before
        self._told = 0

    def add(self, token: int) -> str:
        """The text that this token makes certain; empty while a character is unfinished."""
        self._ids.append(token)
        before = self._decode(self._ids[self._start : self._told])
        whole = self._decode(self._ids[self._start :])
        if whole.endswith(UNFINISHED) and len(self._ids) - self._told < HELD:
            return ""
        self._start, self._told = self._told, len(self._ids)
        return whole[len(before) :]

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of every token; one that ends no character has none, the one that ends it has all of it."""
    writer = Writer(tokenizer)
    return [writer.add(token) for token in ids]


def one_token(tokenizer: Any, token: int) -> str:
    """A token by itself, special ones by their name."""
    return str(tokenizer.decode([token], skip_special_tokens=False))
