"""The bins that values are counted in, and what is read back from the counts. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

BINS = 2048
STEPS = 16
"""Bins an octave of magnitudes has: neighbouring edges are at most 1/16 apart."""

OCTAVES = BINS // 2 // STEPS
FINEST = 2.0**-32
"""Magnitudes below this share one bin with zero; the largest counted apart is 2^32."""

LEVELS = (0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
"""Quantiles that a table holds."""


def step_edges() -> Floats:
    """The BINS + 1 edges of the bins that widen with the magnitude."""
    octaves = FINEST * 2.0 ** np.arange(OCTAVES)
    upper = (octaves[:, None] * (1 + np.arange(1, STEPS + 1) / STEPS)).reshape(-1)  # (BINS / 2,)
    return np.concatenate((-upper[::-1], [0.0], upper))


def even_edges(reach: float) -> Floats:
    """The BINS + 1 edges of equal bins."""
    return np.linspace(-reach, reach, BINS + 1)


def quantiles(steps: npt.NDArray[np.int64], low: float, high: float, levels: tuple[float, ...] = LEVELS) -> Floats:
    """Values below which the given shares lie, interpolated inside their bin and never outside low .. high."""
    total = int(steps.sum())
    if total == 0:
        return np.full(len(levels), np.nan)
    below = np.concatenate(([0], np.cumsum(steps)))
    edges = np.clip(step_edges(), low, high)
    keep = np.concatenate(([True], np.diff(below) > 0))  # np.interp needs rising shares
    first = int(np.argmax(steps > 0))
    return np.asarray(np.interp(levels, below[keep] / total, np.where(np.arange(BINS + 1) <= first, edges[first], edges)[keep]))


def outside(steps: npt.NDArray[np.int64], low: float, high: float) -> float:
    """Share of values below `low` or above `high`, interpolated inside the two bins."""
    total = int(steps.sum())
    if total == 0:
        return 0.0
    below = np.concatenate(([0], np.cumsum(steps)))
    inside = np.diff(np.interp((low, high), step_edges(), below))[0]
    return max(float(1 - inside / total), 0.0)
