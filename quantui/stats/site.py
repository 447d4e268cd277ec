"""What is kept of one observed tensor while samples pass: running extremes, who set them, and sums. Never a value itself.

All of it is kept off the device: by numpy an operation on a few thousand numbers costs a third of what it does by torch.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np

from quantui.stats.detail import Detail, Spread
from quantui.stats.table import Array

Role = Literal["input", "output", "key", "value"]
Entry = tuple[str, Role]
"""Module name and which of its tensors: an attention layer has keys and values, others inputs and outputs."""


class Part(NamedTuple):
    """One sample's share of a site, not yet added.

    Attributes:
        places: (n,) int64, which extremes were beaten, as positions in the flattened (2, channels).
        values: (n,) float32, the new extremes.
        tokens: (n,) int64, the token position of each place in its sample; -1 where it is not known.
        sums: (2, channels) float32, of values and of absolutes.
        rows: how many it had.
        powers: power sums around the shift of the site's detail, None without a detail.
        spread: counts of the distribution, None without one.
        again: whether the sample had another part of the site, which was compared with what was there before both.
    """

    places: Array
    values: Array
    tokens: Array
    sums: Array
    rows: int
    powers: Array | None = None
    spread: Spread | None = None
    again: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        held: list[Any] = [self.places, self.values, self.tokens, self.sums]
        held += [self.powers] if self.powers is not None else []
        held += [self.spread.even, self.spread.steps] if self.spread else []
        return sum(array.nbytes for array in held)


class Site:
    """One observed tensor, shared by every entry that sees the same one.

    Attributes:
        shape: of its channels, (channels,) or (heads, head_dim).
        extremes: (2, channels) float32; -inf before anything was seen.
        samples: (2, channels) int32, the sample that set each extreme.
        tokens: (2, channels) int32, the token position in it.
        sums: (2, channels) float64.
        count: rows seen.
        on_tokens: whether rows are the sample's text tokens; else they are picture patches or unknown.
        turn: the turn of the collector it was made in.
        entries: who sees it.
    """

    def __init__(self, shape: tuple[int, ...], *, on_tokens: bool, turn: int, detail: Detail | None) -> None:
        sides = (2, math.prod(shape))
        self.shape, self.on_tokens, self.turn, self.detail = shape, on_tokens, turn, detail
        self.extremes: Array = np.full(sides, -np.inf, np.float32)
        self.samples: Array = np.full(sides, -1, np.int32)
        self.tokens: Array = np.full(sides, -1, np.int32)
        self.sums: Array = np.zeros(sides, np.float64)
        self.count = 0
        self.entries: set[Entry] = set()

    def add(self, part: Part, sample: int) -> None:
        """Adds what one sample had."""
        places, values, tokens = part.places, part.values, part.tokens
        if places.size:
            extremes = self.extremes.ravel()
            if part.again:
                better = values > extremes[places]
                places, values, tokens = places[better], values[better], tokens[better]
            extremes[places] = values
            self.samples.ravel()[places] = sample
            self.tokens.ravel()[places] = tokens
        self.sums += part.sums
        self.count += part.rows
        if self.detail is not None:
            self.detail.add(part.powers, part.spread)

    def copy(self, entry: Entry) -> Site:
        """One with the same contents for an entry that shared it until now."""
        import copy

        self.entries.discard(entry)
        made = copy.deepcopy(self)
        made.entries = {entry}
        return made

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        own = (self.extremes, self.samples, self.tokens, self.sums)
        return sum(array.nbytes for array in own) + (self.detail.nbytes if self.detail else 0)
