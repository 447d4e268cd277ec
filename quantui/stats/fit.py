"""How the grid of a per-tensor scheme fits what a tensor held: what it clips, how many steps the usual values get. No torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantui.stats.table import Array, StatsTable

FP8_MAX = 448.0
SCHEMES = ("int8", "int8-asym", "fp8", "int4", "int4-asym")
CLIPS = (1.0, 0.999, 0.99)
"""Share of all values that the range has to hold; 1 takes the whole range."""
PARTS = 4
"""Points each bin is split into, since values inside a bin are not all at its middle."""


@dataclass(frozen=True)
class Fit:
    """One grid over one distribution.

    Attributes:
        levels: (n,) values the grid can hold, rising.
        low, high: where values begin to be clipped.
        clipped: share of values beyond these.
        used: levels that the middle 98 % of values are rounded to.
        error: root of the mean squared error over that of the values themselves, 0 to 1 and beyond.
    """

    levels: Array
    low: float
    high: float
    clipped: float
    used: int
    error: float


def levels_of(scheme: str, low: float, high: float) -> Array:
    """The values a scheme can hold where its range is set from low and high.

    Integers have 2^b levels: around zero where symmetric, with a scale of absmax / ((2^b - 1) / 2); with a
    whole-number zero point where not. fp8 is e4m3 scaled so that absmax becomes 448.

    Source: compressed_tensors/quantization/utils/helpers.py of 0.19.0, calculate_qparams.
    """
    reach = max(abs(low), abs(high)) or 1.0
    if scheme == "fp8":
        mantissa = np.arange(8) / 8
        normal = ((1 + mantissa)[None, :] * 2.0 ** np.arange(-6, 9)[:, None]).reshape(-1)[:-1]  # the last code is NaN
        positive = np.concatenate((mantissa[1:] * 2.0**-6, normal)) * (reach / FP8_MAX)
        return np.concatenate((-positive[::-1], [0.0], positive))
    bits = int(scheme[3])
    codes = np.arange(-(2 ** (bits - 1)), 2 ** (bits - 1))
    if scheme.endswith("-asym"):
        low, high = min(low, 0.0), max(high, 0.0)
        step = (high - low) / (2**bits - 1) or 1.0
        zero = np.clip(np.round(codes[0] - low / step), codes[0], codes[-1])
        return np.asarray((codes - zero) * step)
    return np.asarray(codes * (reach / ((2**bits - 1) / 2)))


def fit(table: StatsTable, name: str, role: str, scheme: str, clip: float = 1.0) -> Fit | None:
    """How a scheme fits a tensor; None where the table has no distribution of it."""
    counted = table.histogram(name, role)
    if counted is None:
        return None
    counts, edges = counted
    low, high = _range(table, name, role, counts, edges, clip)
    levels = levels_of(scheme, low, high)
    middles = (levels[1:] + levels[:-1]) / 2
    values = (edges[:-1, None] + np.diff(edges)[:, None] * ((np.arange(PARTS) + 0.5) / PARTS)).reshape(-1)
    weights = np.repeat(counts / PARTS, PARTS)
    codes = np.searchsorted(middles, values)
    power = float(np.sum(weights * values**2)) or 1.0
    lost = float(np.sum(weights * (levels[codes] - values) ** 2))
    ends = _quantile(counts, edges, 0.01), _quantile(counts, edges, 0.99)
    first, last = np.searchsorted(middles, ends)
    reach = levels[0] - (levels[1] - levels[0]) / 2, levels[-1] + (levels[-1] - levels[-2]) / 2
    below, above = _below(counts, edges, reach[0]), 1 - _below(counts, edges, reach[1])
    return Fit(levels, float(reach[0]), float(reach[1]), max(below + above, 0.0), int(last - first) + 1, (lost / power) ** 0.5)


def _range(table: StatsTable, name: str, role: str, counts: Array, edges: Array, clip: float) -> tuple[float, float]:
    low, high = (float(f(table.stat(name, role, stat))) for f, stat in ((np.min, "min"), (np.max, "max")))
    if clip >= 1:
        return low, high
    outside = (1 - clip) / 2
    return max(_quantile(counts, edges, outside), low), min(_quantile(counts, edges, 1 - outside), high)


def _quantile(counts: Array, edges: Array, share: float) -> float:
    below = np.concatenate(([0], np.cumsum(counts)))
    return float(np.interp(share * below[-1], below, edges))


def _below(counts: Array, edges: Array, value: float) -> float:
    """Share of values under `value`."""
    below = np.concatenate(([0], np.cumsum(counts)))
    return float(np.interp(value, edges, below)) / max(int(below[-1]), 1)
