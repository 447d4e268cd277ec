"""One tensor of rows and channels reduced over its rows, without a copy of it in another dtype.

Few operations: each reading of a tensor drives the program's own code out of the processor's cache, so that the next call of
anything costs 20 to 50 us, ten times what it else does. What is small is done by numpy, off the device. `torch.aminmax`, `max`
with indices and `vector_norm` are left out on purpose: over the first axis they take several times longer on a CPU than `amax`,
`amin` and `sum`, and `max` wakes all threads even for a handful of numbers.
"""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantui.stats.table import Array

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Rows reduced together before the rows of the extremes are looked for: only one block a channel is searched then."""

CHUNK_ELEMENTS = 1 << 17
"""Elements a core works on at once: all reductions of them run while they are in its cache, beside as many for each of the
values made of them."""

ACCELERATOR_ELEMENTS = 1 << 24
"""The same on an accelerator, where what is made of them is new memory: 64 MiB in float32."""

SEARCHED = 1 << 12
"""Channels whose rows are looked for at once."""


class Reduced(NamedTuple):
    """What (rows, channels) come to, off the device.

    Attributes:
        extremes: (2, channels) float32, the largest values and the negated smallest ones; NaN if the channel holds one.
        beaten: (n,) int64, where `beat` is beaten, as positions in the flattened (2, channels).
        rows: (n,) int64, the row of each.
        sums: (2, channels) float32, of the values and of their absolutes.
        number: how many rows.
        powers: (2 or 4, channels) float32, sums of (x - shift)^k for k = 1, 2 and, where asked for, 3, 4; None without a shift.
    """

    extremes: Array
    beaten: Array
    rows: Array
    sums: Array
    number: int
    powers: Array | None


def reduce_rows(x: Tensor, beat: Array, shift: Tensor | None = None, *, four: bool = False) -> Reduced:
    """Extremes, the rows of those that beat what was there, sums and absolute sums.

    Args:
        x: (rows, channels) of any floating dtype, at least one row.
        beat: (2, channels) float32 extremes so far, -inf at first.
        shift: (channels,) float32 near the mean, to take powers around; None where none are wanted.
        four: whether third and fourth powers are wanted too.
    """
    layout = _pass(x, shift, four=four)
    extremes, sums = layout.joined()
    beaten = (extremes > beat).ravel().nonzero()[0]
    rows = _rows_of(x, layout.blocks, beaten) if beaten.size else beaten
    if shift is None:
        return Reduced(extremes, beaten, rows, sums, x.shape[0], None)
    sums[0] = sums[2] + shift.cpu().numpy() * x.shape[0]
    return Reduced(extremes, beaten, rows, sums[:2], x.shape[0], sums[2:])


class _Chunk(NamedTuple):
    """Where the numbers of some rows and columns go.

    Attributes:
        high, low: (blocks, channels) each, the largest and smallest values of every BLOCK rows.
        totals: (1, channels) each: sums of values, of absolutes, and of powers where those are wanted.
        rooms: (rows, channels) each, for values of another dtype, magnitudes, values less a shift, and squares of those; None
            on accelerators.
        ones: (1, rows), which sum rows as a product: that takes two thirds of the time of `sum`. None on accelerators.
    """

    high: Tensor
    low: Tensor
    totals: tuple[Tensor, ...]
    rooms: tuple[Tensor | None, ...]
    ones: Tensor | None


class _Layout(NamedTuple):
    """How a tensor of one shape is read: `wide` columns and `step` rows at once.

    Attributes:
        chunks: by stretch of columns, then by rows.
        blocks: (blocks, 2, channels), all of `high` and `low`; arrays on the CPU.
        totals: (kinds, chunks, channels), all of `totals`; arrays on the CPU.
    """

    wide: int
    step: int
    chunks: list[list[_Chunk]]
    blocks: Any
    totals: Any

    def joined(self) -> tuple[Array, Array]:
        """The largest and negated smallest values, (2, channels), and sums, (kinds, channels), of all; negates the lows."""
        if isinstance(self.blocks, np.ndarray):
            np.negative(self.blocks[:, 1], out=self.blocks[:, 1])
            return np.maximum.reduce(self.blocks, 0), np.add.reduce(self.totals, 1)
        self.blocks[:, 1].neg_()
        return self.blocks.amax(0).cpu().numpy(), self.totals.sum(1).cpu().numpy()


@functools.lru_cache(maxsize=256)
def _kept_layout(count: int, channels: int, kinds: int, elements: int) -> _Layout:
    """A layout on the CPU, kept: making its views costs as much as the work of a small tensor. All share their memory."""
    return _layout(count, channels, kinds, elements, None)


_memory: dict[str, Tensor] = {}


def release() -> None:
    """Gives back the memory that is kept from one tensor to the next."""
    _kept_layout.cache_clear()
    _memory.clear()


def _room(name: str, shape: tuple[int, ...], device: Any) -> Tensor:
    """Memory that is used again by whoever asks for the same name; new memory on accelerators."""
    import torch

    if device is not None:
        return torch.empty(shape, device=device)
    size = math.prod(shape)
    if name not in _memory or _memory[name].numel() < size:
        _memory[name] = torch.empty(size)  # layouts made before keep the smaller one alive until they go
    return _memory[name][:size].view(shape)


def _layout(count: int, channels: int, kinds: int, elements: int, device: Any) -> _Layout:
    import torch

    wide = min(channels, max(elements // BLOCK, 1))
    step = max(elements // wide // BLOCK, 1) * BLOCK
    blocks = _room("blocks", (-(-count // BLOCK), 2, channels), device)
    totals = _room("totals", (kinds, -(-count // step), channels), device)
    chunks: list[list[_Chunk]] = []
    for left in range(0, channels, wide):
        chunks.append([])
        at = slice(left, left + wide)
        for number, start in enumerate(range(0, count, step)):
            rows, width = min(step, count - start), min(wide, channels - left)
            of = slice(start // BLOCK, -(-(start + rows) // BLOCK))
            rooms: tuple[Tensor | None, ...] = (None,) * 4
            if device is None:
                rooms = tuple(_room(str(one), (rows, width), None) for one in range(4))
            ones = torch.ones(1, rows) if device is None else None
            sums = tuple(totals[kind, number : number + 1, at] for kind in range(kinds))
            chunks[-1].append(_Chunk(blocks[of, 0, at], blocks[of, 1, at], sums, rooms, ones))
    return _Layout(wide, step, chunks, *((blocks.numpy(), totals.numpy()) if device is None else (blocks, totals)))


def _pass(x: Tensor, shift: Tensor | None, *, four: bool) -> _Layout:
    """One reading of x.

    Returns:
        where it left the largest and smallest values of blocks of rows, of which the last block may be short, and the sums by
        chunks of rows: of values (not where there is a shift), of absolutes, and powers as in Reduced. Good until
        the next pass.
    """
    import torch

    count, channels = x.shape
    kinds = 2 if shift is None else 6 if four else 4
    if x.device.type == "cpu":
        layout = _kept_layout(count, channels, kinds, CHUNK_ELEMENTS * torch.get_num_threads())
    else:
        layout = _layout(count, channels, kinds, ACCELERATOR_ELEMENTS, x.device)
    centers = [None] * len(layout.chunks) if shift is None else shift.split(layout.wide)
    stretches = x.split(layout.wide, 1) if len(layout.chunks) > 1 else (x,)
    for columns, chunks, center in zip(stretches, layout.chunks, centers, strict=True):
        for part, chunk in zip(columns.split(layout.step) if len(chunks) > 1 else (columns,), chunks, strict=True):
            wide, absolute, *_ = chunk.rooms
            values = part if part.dtype == torch.float32 else part.float() if wide is None else wide.copy_(part)
            # First what reads row by row, which memory is quickest with: what follows finds the numbers in the cache.
            _sum_rows(torch.abs(values, out=absolute), chunk.ones, chunk.totals[1])
            _block_extremes(values, chunk.high, chunk.low)
            if center is None:
                _sum_rows(values, chunk.ones, chunk.totals[0])
            else:
                _sum_powers(values, center, chunk)
    return layout


def _sum_rows(values: Tensor, ones: Tensor | None, into: Tensor) -> None:
    """Writes the sum over rows into (1, channels)."""
    import torch

    if ones is None:
        torch.sum(values, 0, keepdim=True, out=into)
    else:
        torch.mm(ones, values, out=into)


def _sum_powers(values: Tensor, shift: Tensor, chunk: _Chunk) -> None:
    """Writes power sums of (rows, channels)."""
    import torch

    off = torch.sub(values, shift, out=chunk.rooms[2])
    square = torch.mul(off, off, out=chunk.rooms[3])
    _sum_rows(off, chunk.ones, chunk.totals[2])
    _sum_rows(square, chunk.ones, chunk.totals[3])
    if len(chunk.totals) == 6:
        _sum_rows(off.mul_(square), chunk.ones, chunk.totals[4])
        _sum_rows(square.mul_(square), chunk.ones, chunk.totals[5])


def _block_extremes(part: Tensor, high: Tensor, low: Tensor) -> None:
    """Writes the largest and smallest values of every BLOCK rows of `part` into (blocks, channels) each."""
    import torch

    rows = part.shape[0]
    whole = rows // BLOCK
    if rows <= BLOCK:
        torch.amax(part, 0, keepdim=True, out=high)
        torch.amin(part, 0, keepdim=True, out=low)
        return
    body = part.view(whole, BLOCK, -1) if whole * BLOCK == rows else part[: whole * BLOCK].view(whole, BLOCK, -1)
    torch.amax(body, 1, out=high[:whole] if whole < len(high) else high)
    torch.amin(body, 1, out=low[:whole] if whole < len(low) else low)
    if whole < len(high):
        torch.amax(part[whole * BLOCK :], 0, keepdim=True, out=high[whole:])
        torch.amin(part[whole * BLOCK :], 0, keepdim=True, out=low[whole:])


def _rows_of(x: Tensor, blocks: Any, places: Array) -> Array:
    """The first rows at which channels have their extremes; (n,) int64.

    Args:
        blocks: (blocks, 2, channels), the largest and negated smallest values of every BLOCK rows.
        places: (n,) int64, rising, positions in the flattened (2, channels), whose largest, or negated smallest, is looked for.
    """
    import torch

    wide = min(BLOCK, x.shape[0])
    windows = x.unfold(0, wide, 1)  # (rows - wide + 1, channels, wide), no copy
    sides = blocks.reshape(len(blocks), -1)
    found = []
    for start in range(0, places.size, SEARCHED):
        some = places[start : start + SEARCHED]
        if isinstance(sides, np.ndarray):
            block = sides.take(some, 1).argmax(0)
        else:
            block = sides.index_select(1, torch.from_numpy(some).to(x.device)).cpu().numpy().argmax(0)
        first = np.minimum(block * BLOCK, x.shape[0] - wide)  # a short last block with rows before it, all smaller
        at = (torch.from_numpy(index).to(x.device) for index in (first, some % x.shape[1]))
        values = windows[tuple(at)].float().cpu().numpy()
        lows = values[some.searchsorted(x.shape[1]) :]
        np.negative(lows, out=lows)
        found.append(first + values.argmax(1))
    return np.concatenate(found)
