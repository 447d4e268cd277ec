"""One tensor of rows and channels reduced over its rows, without a copy of it in another dtype.

Few operations, since on small tensors each costs more than its work. `torch.aminmax`, `max` with indices and `vector_norm` are
left out on purpose: over the first axis they take several times longer on a CPU than `amax`, `amin` and `sum`, and `max` wakes
all threads even for a handful of numbers.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 32
"""Rows reduced together before the rows of the extremes are looked for: only one block a channel is searched then."""

CHUNK_ELEMENTS = 1 << 17
"""Elements a core works on at once: all reductions of them run while they are in its cache. 512 kB in float32, and as much for
their absolute values, the only copy there is."""

SEARCHED = 1 << 12
"""Channels whose rows are looked for at once."""


class Reduced(NamedTuple):
    """What (rows, channels) come to.

    Attributes:
        extremes: (2, channels) float32, the largest values and the negated smallest ones; NaN if the channel holds one.
        beaten: (n,) int64, where `beat` is beaten, as positions in the flattened (2, channels).
        rows: (n,) int64, the row of each.
        sums: (2, channels) float32, of the values and of their absolutes.
        number: how many rows.
    """

    extremes: Tensor
    beaten: Tensor
    rows: Tensor
    sums: Tensor
    number: int


def reduce_rows(x: Tensor, beat: Tensor) -> Reduced:
    """Extremes, the rows of those that beat what was there, sums and absolute sums.

    Args:
        x: (rows, channels) of any floating dtype, at least one row.
        beat: (2, channels) float32 extremes so far, -inf at first.
    """
    import torch

    blocks, sums = _pass(x)
    extremes = (blocks.amax(1) if blocks.shape[1] > 1 else blocks[:, 0]).float()
    beaten = (extremes > beat).view(-1).nonzero().squeeze(1)
    found = [_rows_of(x, blocks, part) for part in beaten.split(SEARCHED)] if beaten.numel() else []
    return Reduced(extremes, beaten, torch.cat(found) if found else beaten, sums, x.shape[0])


def chunk_rows(x: Tensor) -> int:
    """Rows to work on at once: as many as the caches of all cores hold, a multiple of BLOCK; all on an accelerator."""
    import torch

    if x.device.type != "cpu":
        return int(x.shape[0])
    return max(int(CHUNK_ELEMENTS * torch.get_num_threads() // x.shape[1] // BLOCK), 1) * BLOCK


@functools.lru_cache(maxsize=4)
def scratch(elements: int, dtype: torch.dtype, device: torch.device, number: int = 0) -> Tensor:
    """A buffer that is used again and again: fresh memory costs more than the work done in it.

    Args:
        number: tells several of one size apart.
    """
    import torch

    return torch.empty(elements, dtype=dtype, device=device)


def _pass(x: Tensor) -> tuple[Tensor, Tensor]:
    """One reading of x.

    Returns:
        largest and negated smallest values of blocks of rows, (2, blocks, channels), of which the last block may be short; and
        sums of values and absolutes, (2, channels) float32.
    """
    import torch

    count, channels = x.shape
    blocks = x.new_empty((2, -(-count // BLOCK), channels))
    sums = torch.zeros((2, channels), dtype=torch.float32, device=x.device)
    on_cpu = x.device.type == "cpu"
    wide = CHUNK_ELEMENTS * torch.get_num_threads() // BLOCK if on_cpu else channels
    step = chunk_rows(x[:, :wide])
    room = scratch(CHUNK_ELEMENTS * torch.get_num_threads(), x.dtype, x.device) if on_cpu else None
    for left in range(0, channels, wide):
        stretch = slice(left, left + wide)
        for start in range(0, count, step):
            part = x[start : start + step, stretch]
            _block_extremes(part, blocks[:, start // BLOCK :, stretch])
            absolute = torch.abs(part, out=None if room is None else room[: part.numel()].view(part.shape))
            sums[0, stretch].add_(part.sum(0, dtype=torch.float32))
            sums[1, stretch].add_(absolute.sum(0, dtype=torch.float32))
    blocks[1].neg_()
    return blocks, sums


def _block_extremes(part: Tensor, blocks: Tensor) -> None:
    """Writes the largest and smallest values of every BLOCK rows of `part` into the first of `blocks`."""
    import torch

    whole = part.shape[0] // BLOCK
    if whole:
        body = part[: whole * BLOCK].unflatten(0, (whole, BLOCK))  # (blocks, BLOCK, channels)
        torch.amax(body, 1, out=blocks[0, :whole])
        torch.amin(body, 1, out=blocks[1, :whole])
    if whole * BLOCK < part.shape[0]:
        torch.amax(part[whole * BLOCK :], 0, out=blocks[0, whole])
        torch.amin(part[whole * BLOCK :], 0, out=blocks[1, whole])


def _rows_of(x: Tensor, blocks: Tensor, beaten: Tensor) -> Tensor:
    """The first row at which a channel has its extreme, for the channels of `beaten`; (n,) int64."""
    import torch

    side = beaten // x.shape[1]
    channel = beaten - side * x.shape[1]
    mine = blocks[side, :, channel]  # (n, blocks)
    best = mine.amax(1, keepdim=True)
    rows = torch.arange(min(BLOCK, x.shape[0]), device=x.device).unsqueeze(0)
    if mine.shape[1] > 1:
        rows = (_first(mine == best) * BLOCK + rows).clamp_(max=x.shape[0] - 1)  # (n, BLOCK)
    flat = rows * x.shape[1] + channel.unsqueeze(1)  # indexing with two tensors would wake all threads for a handful of numbers
    values = x.reshape(-1).index_select(0, flat.view(-1)).view(flat.shape)
    found = _first(values == torch.where(side.unsqueeze(1) == 1, -best, best))
    return (rows.expand(values.shape).gather(1, found) if mine.shape[1] > 1 else found).squeeze(1)


def _first(hit: Tensor) -> Tensor:
    """(n, width) bool -> (n, 1) int64, the first that is true."""
    import torch

    return hit.view(torch.uint8).argmax(1, keepdim=True)
