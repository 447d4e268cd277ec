"""What is kept of one observed tensor while samples pass: running extremes, who set them, and sums. Never a value itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from quantui.stats.detail import Detail, Spread

if TYPE_CHECKING:
    from torch import Tensor

Role = Literal["input", "output", "key", "value"]
Entry = tuple[str, Role]
"""Module name and which of its tensors: an attention layer has keys and values, others inputs and outputs."""


@dataclass(frozen=True)
class Part:
    """One sample's share of a site, not yet added.

    Attributes:
        places: (n,) int64, which extremes were beaten, as positions in the flattened (2, channels).
        values: (n,) float32, the new extremes.
        tokens: (n,) int64, the token position of each in its sample; -1 where it is not known.
        sums: (2, channels) float32, of values and of absolutes.
        count: rows.
        powers: power sums around the shift of the site's detail, None without a detail.
        spread: counts of the distribution, None without one.
        again: whether the sample had another part of the site, which was compared with what was there before both.
    """

    places: Tensor
    values: Tensor
    tokens: Tensor
    sums: Tensor
    count: int
    powers: Tensor | None = None
    spread: Spread | None = None
    again: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes it holds on its device."""
        held = [self.places, self.values, self.tokens, self.sums]
        held += [self.powers] if self.powers is not None else []
        held += [self.spread.even, self.spread.steps] if self.spread else []
        return int(sum(tensor.nbytes for tensor in held))


class Site:
    """One observed tensor, shared by every entry that sees the same one.

    Attributes:
        shape: of its channels, (channels,) or (heads, head_dim).
        extremes: (2, channels) float32; -inf before anything was seen.
        samples: (2, channels) int32, the sample that set each extreme.
        tokens: (2, channels) int32, the token position in it.
        sums: (2, channels) float64 where the device has it.
        count: rows seen.
        on_tokens: whether rows are the sample's text tokens; else they are picture patches or unknown.
        turn: the turn of the collector it was made in.
        entries: who sees it.
    """

    def __init__(self, shape: tuple[int, ...], device: Any, *, on_tokens: bool, turn: int, detail: Detail | None) -> None:
        import torch

        channels = torch.Size(shape).numel()
        wide = torch.float64 if torch.device(device).type in ("cpu", "cuda") else torch.float32
        self.shape, self.on_tokens, self.turn, self.detail = shape, on_tokens, turn, detail
        self.extremes = torch.full((2, channels), float("-inf"), dtype=torch.float32, device=device)
        self.samples = torch.full((2, channels), -1, dtype=torch.int32, device=device)
        self.tokens = torch.full((2, channels), -1, dtype=torch.int32, device=device)
        self.sums = torch.zeros((2, channels), dtype=wide, device=device)
        self.count = 0
        self.entries: set[Entry] = set()

    def add(self, part: Part, sample: int) -> None:
        """Adds what one sample had."""
        import torch

        if part.places.numel():
            places, values, tokens = part.places, part.values, part.tokens
            extremes = self.extremes.view(-1)
            if part.again:
                better = values > extremes[places]
                places, values, tokens = places[better], values[better], tokens[better]
            extremes.index_copy_(0, places, values)
            self.samples.view(-1).index_fill_(0, places, sample)
            self.tokens.view(-1).index_copy_(0, places, tokens.to(torch.int32))
        self.sums += part.sums
        self.count += part.count
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
        """Bytes it holds on its device."""
        own = (self.extremes, self.samples, self.tokens, self.sums)
        return int(sum(tensor.nbytes for tensor in own)) + (self.detail.nbytes if self.detail else 0)
