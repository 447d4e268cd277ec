"""One tensor of rows and channels reduced over its rows, without a copy of it in another dtype.

Few operations: each reading of a tensor drives the program's own code out of the processor's cache, so that the next call of
anything costs 20 to 50 us, ten times what it else does. What is small is done by numpy, off the device. `torch.aminmax`, `max`
with indices and `vector_norm` are left out on purpose: over the first axis they take several times longer on a CPU than `amax`,
`amin` and `sum`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantui.stats.chunks import BLOCK, read
from quantui.stats.table import Array

if TYPE_CHECKING:
    from torch import Tensor

ACCELERATOR_ELEMENTS = 1 << 24
"""Elements an accelerator works on at once, where what is made of them is new memory: 64 MiB in float32."""

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


def reduce_rows(x: Tensor, beat: Array, shift: Array | None = None, *, four: bool = False) -> Reduced:
    """Extremes, the rows of those that beat what was there, sums and absolute sums.

    Args:
        x: (rows, channels) of any floating dtype, at least one row.
        beat: (2, channels) float32 extremes so far, -inf at first.
        shift: (channels,) float32 near the mean, to take powers around; None where none are wanted.
        four: whether third and fourth powers are wanted too.
    """
    kinds = 2 if shift is None else 6 if four else 4
    blocks: Any
    if x.device.type == "cpu":
        blocks, sums = read(x, shift, kinds)
        extremes = np.maximum.reduce(blocks, 0)
    else:
        blocks, sums = read_on_device(x, shift, kinds)
        extremes = blocks.amax(0).cpu().numpy()
    beaten = (extremes > beat).ravel().nonzero()[0]
    rows = _rows_of(x, blocks, beaten) if beaten.size else beaten
    if shift is None:
        return Reduced(extremes, beaten, rows, sums, x.shape[0], None)
    sums[0] = sums[2] + shift * x.shape[0]
    return Reduced(extremes, beaten, rows, sums[:2], x.shape[0], sums[2:])


def read_on_device(x: Tensor, shift: Array | None, kinds: int) -> tuple[Tensor, Array]:
    """The same as chunks.read for tensors of any device, with the blocks left there; on a CPU it takes longer."""
    import torch

    blocks, sums = [], torch.zeros(kinds, x.shape[1], device=x.device)
    center = None if shift is None else torch.from_numpy(shift).to(x.device)
    for part in x.split(max(ACCELERATOR_ELEMENTS // x.shape[1] // BLOCK, 1) * BLOCK):
        values = part.float()
        whole = len(values) // BLOCK * BLOCK
        bodies = [values[:whole].unflatten(0, (-1, BLOCK))] if whole else []
        bodies += [values[whole:].unsqueeze(0)] if whole < len(values) else []
        blocks += [torch.stack((body.amax(1), body.amin(1).neg_()), 1) for body in bodies]
        made = [values.sum(0), values.abs().sum(0)]
        if center is not None:
            off = power = values - center
            made.append(power.sum(0))
            for _ in range(3, kinds):
                power = power * off
                made.append(power.sum(0))
        sums += torch.stack(made)
    return torch.cat(blocks), sums.cpu().numpy()


def _rows_of(x: Tensor, blocks: Any, places: Array) -> Array:
    """The first rows at which channels have their extremes; (n,) int64.

    Args:
        blocks: (blocks, 2, channels), the largest and negated smallest values of every BLOCK rows.
        places: (n,) int64, rising, positions in the flattened (2, channels), whose largest, or negated smallest, is looked for.
    """
    wide, sides = min(BLOCK, x.shape[0]), blocks.reshape(len(blocks), -1)
    windows, found = x.unfold(0, wide, 1), []
    for start in range(0, places.size, SEARCHED):
        some = places[start : start + SEARCHED]
        block = (sides if isinstance(sides, np.ndarray) else sides.cpu().numpy()).take(some, 1).argmax(0)
        first = np.minimum(block * BLOCK, len(windows) - 1)  # a short last block with rows before it, all smaller
        values = _picked(windows, first, some % x.shape[1])
        lows = values[some.searchsorted(x.shape[1]) :]
        np.negative(lows, out=lows)
        found.append(first + values.argmax(1))
    return np.concatenate(found)


def _picked(windows: Tensor, first: Array, channels: Array) -> Array:
    """Some of (starts, channels, rows), of any device; (n, rows) float32."""
    import torch

    if windows.device.type == "cpu" and windows.dtype == torch.float32:
        values: Array = windows.numpy()[first, channels]
        return values
    some = (torch.from_numpy(places).to(windows.device) for places in (first, channels))
    return np.asarray(windows[tuple(some)].float().cpu())
