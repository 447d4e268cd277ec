"""One reading of a tensor on the CPU: all reductions of a stretch of rows and columns while it is in the cache, then the next.

By numpy, which reduces over rows in the order they lie in memory, in two thirds of torch's time, and without torch's threads:
where a core is busy with something else, each operation of theirs waits for it. Threads of our own take whole stretches.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from quantui.stats.table import Array

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 32
"""Rows reduced together before the rows of the extremes are looked for: only one block a channel is searched then."""

ELEMENTS = 1 << 17
"""Elements of a stretch: they stay in the cache beside as many made of them, and are many enough for what a call costs."""

WIDEST, LONGEST = 1 << 13, 1 << 9
"""Columns and rows of a stretch, at most: more rows lose digits, since they are added up one after the other."""

LINE = 16
"""Elements of a cache line: what begins with one is read and written in a tenth less time."""

GRAIN = 1 << 14
"""Elements torch converts at once: with twice as many it would wake its threads."""


class _Chunk(NamedTuple):
    """Some rows and columns, and where what they come to goes.

    Attributes:
        rows, columns: of the tensor.
        high, low: (blocks, columns) each, the largest and smallest values of every BLOCK rows.
        totals: (columns,) each: sums of values, of absolutes, and of powers where those are wanted.
    """

    rows: slice
    columns: slice
    high: Array
    low: Array
    totals: tuple[Array, ...]


class _Layout(NamedTuple):
    """How a tensor of one shape is read.

    Attributes:
        chunks: its stretches.
        blocks: (blocks, 2, channels), all of `high` and `low`.
        totals: (kinds, chunks of rows, channels), all of `totals`.
    """

    chunks: list[_Chunk]
    blocks: Array
    totals: Array


def read(x: Tensor, shift: Array | None, kinds: int) -> tuple[Array, Array]:
    """Extremes of every BLOCK rows, and sums.

    Args:
        x: (rows, channels) of any floating dtype, on the CPU.
        shift: (channels,) float32, to take powers around; None without powers.
        kinds: 2, or 4 or 6 with powers up to the second or fourth.

    Returns:
        (blocks, 2, channels) float32, largest and negated smallest values, good until the next reading; the last block may be
        short. (kinds, channels) float32: sums of the values (not where there is a shift), of their absolutes, and of powers.
    """
    import torch

    count, channels = x.shape
    layout = _layout(count, channels, kinds)
    source = x.numpy() if x.dtype == torch.float32 else None
    chunks = iter(layout.chunks)  # every thread takes the next one

    def work(thread: int) -> None:
        first, second, third = _memory_of(f"thread {thread}", 3 * WIDEST * BLOCK).reshape(3, -1)
        with np.errstate(all="ignore"):
            for chunk in chunks:
                if source is not None:
                    values = source[chunk.rows, chunk.columns]
                else:
                    values = _widened(x[chunk.rows, chunk.columns], third)
                _reduce(values, chunk, None if shift is None else shift[chunk.columns], first, second)

    _share(work, min(torch.get_num_threads(), len(layout.chunks)))
    np.negative(layout.blocks[:, 1], out=layout.blocks[:, 1])
    with np.errstate(all="ignore"):  # what is not finite is found by its extremes
        return layout.blocks, np.add.reduce(layout.totals, 1)


def release() -> None:
    """Gives back the memory and the threads that are kept from one tensor to the next."""
    _layout.cache_clear()
    _memory.clear()
    if _pools:
        _pools.pop().shutdown()


_memory: dict[str, Array] = {}
_pools: list[ThreadPoolExecutor] = []


def _memory_of(name: str, size: int) -> Array:
    """(size,) float32 that is used again by whoever asks for the same name."""
    if name not in _memory or _memory[name].size < size:
        room = np.empty(size + LINE, np.float32)
        _memory[name] = room[-(room.ctypes.data // 4) % LINE :]  # layouts made before keep the smaller one alive until they go
    return _memory[name][:size]


def _share(work: Callable[[int], None], threads: int) -> None:
    """Has several threads do the work, this one among them."""
    if threads < 2:
        work(0)
        return
    if not _pools:
        _pools.append(ThreadPoolExecutor())
    others = [_pools[0].submit(work, thread) for thread in range(1, threads)]
    work(0)
    for other in others:
        if not other.cancel():  # those that never began have nothing left to do
            other.result()


@functools.lru_cache(maxsize=256)
def _layout(count: int, channels: int, kinds: int) -> _Layout:
    """Kept, since making its views costs as much as the work of a small tensor. All share their memory."""
    wide = min(channels, WIDEST)
    step = min(max(ELEMENTS // wide // BLOCK, 1) * BLOCK, LONGEST)
    heights = -(-count // BLOCK), -(-count // step)
    blocks = _memory_of("blocks", heights[0] * 2 * channels).reshape(heights[0], 2, channels)
    totals = _memory_of("totals", kinds * heights[1] * channels).reshape(kinds, heights[1], channels)
    return _Layout(list(_chunks(blocks, totals, count, wide, step)), blocks, totals)


def _chunks(blocks: Array, totals: Array, count: int, wide: int, step: int) -> Iterator[_Chunk]:
    for left in range(0, blocks.shape[2], wide):
        columns = slice(left, left + wide)
        for number, start in enumerate(range(0, count, step)):
            stop = min(start + step, count)
            of = slice(start // BLOCK, -(-stop // BLOCK))
            sums = tuple(totals[:, number, columns])
            yield _Chunk(slice(start, stop), columns, blocks[of, 0, columns], blocks[of, 1, columns], sums)


def _widened(part: Tensor, room: Array) -> Array:
    """Values of another dtype as float32, in the room."""
    import torch

    wide = room[: part.numel()].reshape(part.shape)
    rows = max(GRAIN // part.shape[1], 1)
    for some, into in zip(part.split(rows), torch.from_numpy(wide).split(rows), strict=True):
        into.copy_(some)
    return wide


def _reduce(values: Array, chunk: _Chunk, shift: Array | None, first: Array, second: Array) -> None:
    """Writes what the values of a chunk come to; `first` and `second` are rooms for as many values."""
    room = first[: values.size].reshape(values.shape)
    np.add.reduce(np.absolute(values, out=room), 0, out=chunk.totals[1])
    whole = len(values) // BLOCK
    if whole:
        body = values[: whole * BLOCK].reshape(whole, BLOCK, -1)
        np.maximum.reduce(body, 1, out=chunk.high[:whole])
        np.minimum.reduce(body, 1, out=chunk.low[:whole])
    if whole < len(chunk.high):
        np.maximum.reduce(values[whole * BLOCK :], 0, out=chunk.high[whole])
        np.minimum.reduce(values[whole * BLOCK :], 0, out=chunk.low[whole])
    if shift is None:
        np.add.reduce(values, 0, out=chunk.totals[0])
        return
    off = np.subtract(values, shift, out=room)
    square = np.multiply(off, off, out=second[: values.size].reshape(values.shape))
    np.add.reduce(off, 0, out=chunk.totals[2])
    np.add.reduce(square, 0, out=chunk.totals[3])
    if len(chunk.totals) == 6:
        np.add.reduce(np.multiply(off, square, out=room), 0, out=chunk.totals[4])
        np.add.reduce(np.multiply(square, square, out=square), 0, out=chunk.totals[5])
