"""What `--detail` adds to a site: moments of every channel, and the distribution of the whole tensor.

Moments are exact. Distributions are counted on some rows of each sample, evenly spaced, all of them where there are few.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantui.stats.grid import BINS, FINEST, OCTAVES, STEPS
from quantui.stats.table import Array

if TYPE_CHECKING:
    from torch import Tensor

SPREAD_ROWS = 32
"""Rows of a sample that distributions are counted on, at most."""

SPREAD_FEWEST = 8
"""The same at least, where SPREAD_ELEMENTS is fewer."""

SPREAD_ELEMENTS = 1 << 14
"""Values of a sample that distributions are counted on, where that leaves enough rows."""


class Spread(NamedTuple):
    """Counts of the values of some rows.

    Attributes:
        reach: a power of two no value exceeds in magnitude.
        even: (BINS,) int32 counts of equal bins between -reach and reach.
        steps: (BINS,) int32 counts of bins that widen with the magnitude, as quantui.stats.grid lays them out.
    """

    reach: float
    even: Tensor
    steps: Tensor


def spread(x: Tensor, absmax: float, sample: int) -> Spread:
    """Counts of evenly spaced rows.

    Args:
        x: (rows, channels).
        absmax: of all rows.
        sample: which it is; the first row taken moves with it, so that no position is always or never there.
    """
    import torch

    wanted = min(max(SPREAD_ELEMENTS // x.shape[1], SPREAD_FEWEST), SPREAD_ROWS)
    stride = max(x.shape[0] // wanted, 1)
    values = x[sample % stride :: stride].float().reshape(-1)
    reach = 2.0 ** math.ceil(math.log2(max(absmax, FINEST)))
    even = torch.bincount(((values + reach) * (BINS / 2 / reach)).to(torch.int32).clamp_(max=BINS - 1), minlength=BINS)
    bits = values.view(torch.int32)
    octave = ((bits & 0x7FFFFFFF) >> 19) - (127 + int(math.log2(FINEST))) * STEPS  # exponent and 4 bits of mantissa
    octave.clamp_(0, OCTAVES * STEPS - 1)
    place = torch.where(bits < 0, BINS // 2 - 1 - octave, BINS // 2 + octave)
    return Spread(reach, even.to(torch.int32), torch.bincount(place, minlength=BINS).to(torch.int32))


class Detail:
    """The running detail of a site.

    Attributes:
        four: whether kurtosis and distribution are wanted, not the standard deviation alone.
        shift: (channels,) float32, off the device, what the powers are taken around; None before anything was seen.
        powers: (4 or 2, channels) float64, off the device, or None.
        reach: of `even`.
        even: (BINS,) int64, or None without a distribution.
        steps: (BINS,) int64, or None.
    """

    def __init__(self, *, four: bool) -> None:
        self.four = four
        self.shift: Array | None = None
        self.powers: Array | None = None
        self.reach = 0.0
        self.even: Tensor | None = None
        self.steps: Tensor | None = None

    def around(self, x: Tensor) -> Array:
        """What powers of (rows, channels) are taken around: about the mean of the first rows there were."""
        import torch

        if self.shift is None:
            self.shift = x[:SPREAD_ROWS].mean(0, dtype=torch.float32).cpu().numpy()
        return self.shift

    def add(self, powers: Array | None, counted: Spread | None) -> None:
        """Adds what one sample had."""
        import torch

        if powers is not None:
            self.powers = powers.astype(np.float64) if self.powers is None else np.add(self.powers, powers, out=self.powers)
        if counted is not None:
            if self.even is None or self.steps is None:
                self.reach = counted.reach
                self.even, self.steps = torch.zeros_like(counted.even, dtype=torch.int64), counted.steps.to(torch.int64)
            else:
                self.steps += counted.steps
            reach = max(self.reach, counted.reach)
            self.even = widened(self.even, self.reach, reach) + widened(counted.even, counted.reach, reach)
            self.reach = reach

    @property
    def nbytes(self) -> int:
        """Bytes it holds."""
        held: tuple[Any, ...] = (self.shift, self.powers, self.even, self.steps)
        return sum(array.nbytes for array in held if array is not None)


def widened(counts: Tensor, reach: float, target: float) -> Tensor:
    """The same counts over bins of a larger reach; two bins become one each time it doubles."""
    import torch

    while reach < target:
        half = counts.view(-1, 2).sum(1)
        empty = torch.zeros(BINS // 4, dtype=counts.dtype, device=counts.device)
        counts, reach = torch.cat((empty, half.to(counts.dtype), empty)), reach * 2
    return counts
