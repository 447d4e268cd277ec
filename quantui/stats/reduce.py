"""One tensor of rows and channels reduced over its rows, without a copy of it in another dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Rows reduced together before the rows of the extremes are looked for: only one block a channel is searched then."""

ABS_ELEMENTS = 1 << 19
"""Elements of the one temporary copy, that of absolute values: 2 MB in float32."""


class Reduced(NamedTuple):
    """What (rows, channels) come to.

    Attributes:
        extremes: (2, channels) float32, the largest values and the negated smallest ones; NaN if the channel holds one.
        rows: (2, channels) int64, the row of each; 0 where `beat` was not beaten.
        sums: (2, channels) float32, of the values and of their absolutes.
        number: how many rows.
    """

    extremes: Tensor
    rows: Tensor
    sums: Tensor
    number: int


def reduce_rows(x: Tensor, beat: Tensor | None) -> Reduced:
    """Extremes with their rows, sums and absolute sums.

    Args:
        x: (rows, channels) of any floating dtype, at least one row.
        beat: (2, channels) float32 extremes so far; rows are only looked up where they are beaten. None: everywhere.
    """
    import torch

    highs, lows = _blocks(x)
    top, high_block = highs.max(0)
    bottom, low_block = lows.min(0)
    extremes = torch.stack((top.float(), -bottom.float()))
    rows = torch.zeros(extremes.shape, dtype=torch.int64, device=x.device)
    for side, (best, block) in enumerate(((top, high_block), (bottom, low_block))):
        wanted = None if beat is None else extremes[side] > beat[side]
        rows[side] = _rows_of(x, best, block, wanted, rows[side])
    return Reduced(extremes, rows, torch.stack((x.sum(0, dtype=torch.float32), absolute_sum(x))), x.shape[0])


def absolute_sum(x: Tensor) -> Tensor:
    """Sum over rows of absolute values, (channels,) float32; a few rows at a time."""
    import torch

    step = max(ABS_ELEMENTS // x.shape[1], 1)
    total = x[:step].abs().sum(0, dtype=torch.float32)
    for start in range(step, x.shape[0], step):
        total += x[start : start + step].abs().sum(0, dtype=torch.float32)
    return total


def _blocks(x: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and smallest values of blocks of rows, each (blocks, channels); the last block may be short."""
    import torch

    whole = x.shape[0] // BLOCK * BLOCK
    highs, lows = [], []
    if whole:
        body = x[:whole].unflatten(0, (-1, BLOCK))  # (blocks, BLOCK, channels)
        highs.append(body.amax(1))
        lows.append(body.amin(1))
    if whole < x.shape[0]:
        highs.append(x[whole:].amax(0, keepdim=True))
        lows.append(x[whole:].amin(0, keepdim=True))
    return (highs[0], lows[0]) if len(highs) == 1 else (torch.cat(highs), torch.cat(lows))


def _rows_of(x: Tensor, best: Tensor, block: Tensor, wanted: Tensor | None, rows: Tensor) -> Tensor:
    """`rows` with the first row of its block at which a channel has its best value, where it is wanted."""
    import torch

    if wanted is None or x.device.type != "cpu":  # elsewhere counting the wanted ones would wait for the device
        channels = torch.arange(x.shape[1], device=x.device)
    else:
        channels = wanted.nonzero().squeeze(1)
        if not channels.numel():
            return rows
    within = torch.arange(min(BLOCK, x.shape[0]), device=x.device)
    candidates = (block[channels].unsqueeze(1) * BLOCK + within).clamp_(max=x.shape[0] - 1)  # (channels, BLOCK)
    hit = x[candidates, channels.unsqueeze(1)] == best[channels].unsqueeze(1)
    rows[channels] = candidates.gather(1, hit.to(torch.uint8).argmax(1, keepdim=True)).squeeze(1)
    return rows
