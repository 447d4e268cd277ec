"""What `--detail` adds to a site: moments of every channel, and the distribution of the whole tensor.

Moments are exact. Distributions are counted on some rows of each sample, evenly spaced, all of them where there are few.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from quantui.stats.grid import BINS, FINEST, OCTAVES, STEPS
from quantui.stats.reduce import CHUNK_ELEMENTS, chunk_rows, scratch

if TYPE_CHECKING:
    from torch import Tensor

SPREAD_ROWS = 32
"""Rows of a sample that distributions are counted on."""


class Moments(NamedTuple):
    """Power sums of (rows, channels) less a shift.

    Attributes:
        shift: (channels,) float32.
        powers: (4, channels) float32, sums of (x - shift)^k, k = 1 .. 4; only k = 1, 2 where `powers` has two rows.
    """

    shift: Tensor
    powers: Tensor


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


def moments(x: Tensor, shift: Tensor | None, *, four: bool) -> Moments:
    """Power sums of the channels, a few rows at a time.

    Args:
        x: (rows, channels).
        shift: the shift so far; None takes the mean of these rows.
        four: whether third and fourth powers are wanted.
    """
    import torch

    if shift is None:
        shift = x.mean(0, dtype=torch.float32)
    rows = chunk_rows(x)
    powers = torch.zeros((4 if four else 2, x.shape[1]), dtype=torch.float32, device=x.device)
    for start in range(0, x.shape[0], rows):
        part = x[start : start + rows]
        off = torch.sub(part, shift, out=_room(part, 1))
        square = torch.mul(off, off, out=_room(part, 2))
        powers[0] += off.sum(0)
        powers[1] += square.sum(0)
        if four:
            powers[2] += off.mul_(square).sum(0)
            powers[3] += square.mul_(square).sum(0)
    return Moments(shift, powers)


def _room(part: Tensor, number: int) -> Tensor | None:
    """Somewhere to put a float32 of the same shape; None on accelerators, which keep freed memory at hand themselves."""
    import torch

    if part.device.type != "cpu":
        return None
    size = max(CHUNK_ELEMENTS * torch.get_num_threads(), part.numel())
    return scratch(size, torch.float32, part.device, number)[: part.numel()].view(part.shape)


def spread(x: Tensor, absmax: float, sample: int) -> Spread:
    """Counts of evenly spaced rows.

    Args:
        x: (rows, channels).
        absmax: of all rows.
        sample: which it is; the first row taken moves with it, so that no position is always or never there.
    """
    import torch

    stride = max(x.shape[0] // SPREAD_ROWS, 1)
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
        shift: (channels,) float32, what the powers are taken around; None before the first sample.
        powers: (4 or 2, channels) float64.
        reach: of `even`.
        even: (BINS,) int64, or None without a distribution.
        steps: (BINS,) int64, or None.
    """

    def __init__(self, *, four: bool) -> None:
        self.four = four
        self.shift: Tensor | None = None
        self.powers: Tensor | None = None
        self.reach = 0.0
        self.even: Tensor | None = None
        self.steps: Tensor | None = None

    def look(self, x: Tensor, absmax: float, sample: int) -> tuple[Moments, Spread | None]:
        """What (rows, channels) of one sample add."""
        return moments(x, self.shift, four=self.four), spread(x, absmax, sample) if self.four else None

    def add(self, found: Moments | None, counted: Spread | None) -> None:
        """Adds what `look` found."""
        import torch

        if found is not None:
            if self.shift is None or self.powers is None:
                wide = torch.float64 if found.shift.device.type in ("cpu", "cuda") else torch.float32
                self.shift, self.powers = found.shift, torch.zeros_like(found.powers, dtype=wide)
            self.powers += found.powers
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
        return sum(tensor.nbytes for tensor in (self.shift, self.powers, self.even, self.steps) if tensor is not None)


def widened(counts: Tensor, reach: float, target: float) -> Tensor:
    """The same counts over bins of a larger reach; two bins become one each time it doubles."""
    import torch

    while reach < target:
        half = counts.view(-1, 2).sum(1)
        empty = torch.zeros(BINS // 4, dtype=counts.dtype, device=counts.device)
        counts, reach = torch.cat((empty, half.to(counts.dtype), empty)), reach * 2
    return counts
