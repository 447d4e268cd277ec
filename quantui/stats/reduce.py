"""One tensor of rows and channels reduced over its rows, without a copy of it in another dtype.

Few operations, since on small tensors each costs more than its work. `torch.aminmax`, `max` with indices and `vector_norm` are
left out on purpose: over the first axis they take several times longer on a CPU than `amax`, `amin` and `sum`, and `max` wakes
all threads even for a handful of numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Rows reduced together before the rows of the extremes are looked for: only one block a channel is searched then."""

ABS_ELEMENTS = 1 << 18
"""Elements of the one temporary copy, that of absolute values: 1 MB in float32."""

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

    blocks = _blocks(x)
    extremes = (blocks.amax(1) if blocks.shape[1] > 1 else blocks[:, 0]).float()
    beaten = (extremes > beat).view(-1).nonzero().squeeze(1)
    found = [_rows_of(x, blocks, part) for part in beaten.split(SEARCHED)] if beaten.numel() else []
    rows = torch.cat(found) if found else beaten
    return Reduced(extremes, beaten, rows, torch.stack((x.sum(0, dtype=torch.float32), absolute_sum(x))), x.shape[0])


def absolute_sum(x: Tensor) -> Tensor:
    """Sum over rows of absolute values, (channels,) float32; a few rows at a time."""
    import torch

    step = max(ABS_ELEMENTS // x.shape[1], 1)
    total = x[:step].abs().sum(0, dtype=torch.float32)
    for start in range(step, x.shape[0], step):
        total += x[start : start + step].abs().sum(0, dtype=torch.float32)
    return total


def _blocks(x: Tensor) -> Tensor:
    """Largest and negated smallest values of blocks of rows, (2, blocks, channels); the last block may be short."""
    import torch

    whole, rows = x.shape[0] // BLOCK * BLOCK, x.shape[0]
    made = x.new_empty((2, -(-rows // BLOCK), x.shape[1]))
    if whole:
        body = x[:whole].unflatten(0, (-1, BLOCK))  # (blocks, BLOCK, channels)
        torch.amax(body, 1, out=made[0, : whole // BLOCK])
        torch.amin(body, 1, out=made[1, : whole // BLOCK])
    if whole < rows:
        torch.amax(x[whole:], 0, out=made[0, -1])
        torch.amin(x[whole:], 0, out=made[1, -1])
    made[1].neg_()
    return made


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
