"""The range of an activation that loses least: what clipping its tails costs against the finer steps it buys.

Counts are kept over the true range. msModelSlim's act_method 2 cuts the range to integers first, so that tails are dropped
and small activations lose all detail.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

BINS = 8192
"""Bins from -reach to reach; a power of two, so that doubling the reach adds neighbours and moves nothing."""
CUTS = 256
"""Candidates for either end of the range."""
COUNTED = 1 << 24
"""Values counted at once: torch counts in float32, which adds no 1 to more."""


class Histogram:
    """Counts of values, of any magnitude and in any number of looks.

    Attributes:
        counts: float64, (BINS,), on the CPU: no NPU computes in float64.
        reach: a power of two that no value exceeds; 0 before the first look.
        low: the smallest value seen, and 0.
        high: the largest value seen, and 0.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None
        self.reach = self.low = self.high = 0.0

    def add(self, values: Tensor) -> None:
        """Counts the values of a tensor of any shape; what is not finite is left out."""
        import torch

        flat = values.detach().flatten().float()
        flat = flat[flat.isfinite()]
        if not len(flat):
            return
        low, high = float(flat.amin()), float(flat.amax())
        self.low, self.high = min(self.low, low), max(self.high, high)
        needed = 2.0 ** math.ceil(math.log2(max(-low, high, 2.0**-100)))
        if self.counts is None:
            self.counts, self.reach = torch.zeros(BINS, dtype=torch.float64), needed
        while self.reach < needed:
            self._widen()
        for part in flat.split(COUNTED):
            self.counts += torch.histc(part, BINS, -self.reach, self.reach).cpu().double()

    def _widen(self) -> None:
        """Twice the reach: two bins become one."""
        assert self.counts is not None
        pairs = self.counts.unflatten(0, (-1, 2)).sum(1)
        self.counts = self.counts.new_zeros(BINS)
        self.counts[BINS // 4 : 3 * BINS // 4] = pairs
        self.reach *= 2

    def best_range(self, bits: int = 8) -> tuple[float, float]:
        """Both ends of the range, 0 inside, with the least expected squared error of codes of so many bits."""
        import torch

        if self.counts is None or self.high == self.low:
            return self.low, self.high
        width = 2 * self.reach / BINS
        middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) * width - self.reach
        middles = middles.clamp(self.low, self.high)
        share = torch.linspace(0, 1, CUTS, dtype=torch.float64)
        lows, highs = self.low * (1 - share), self.high * (1 - share)
        # (CUTS,) each: what values beyond an end lose when they are clipped to it
        under = _clipped(-middles.flip(0), self.counts.flip(0), -lows)
        over = _clipped(middles, self.counts, highs)
        step = (highs.unsqueeze(0) - lows.unsqueeze(1)) / (2**bits - 1)
        noise = step.square() / 12 * self.counts.sum()
        at = int((under.unsqueeze(1) + over.unsqueeze(0) + noise).argmin())
        return float(lows[at // CUTS]), float(highs[at % CUTS])


def _clipped(values: Tensor, counts: Tensor, ends: Tensor) -> Tensor:
    """Squared error of clipping counted values, ascending, to each end: (ends,)."""
    import torch

    def beyond(what: Tensor) -> Tensor:  # sums from each bin to the last, and 0 after it
        return torch.cat((what.flip(0).cumsum(0).flip(0), what.new_zeros(1)))

    first = torch.searchsorted(values.contiguous(), ends.contiguous(), right=True)
    none, one, two = (beyond(part)[first] for part in (counts, counts * values, counts * values.square()))
    return (two - 2 * ends * one + ends.square() * none).clamp(min=0)
