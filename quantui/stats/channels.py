"""One tensor channel by channel, as many points as a picture can show, and the channels that stand out with who caused them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantui.stats.table import Array, Cause, StatsTable

POINTS = 1024
"""Points of a line; more channels than this are joined, each group keeping its extremes."""


@dataclass(frozen=True)
class Line:
    """Channels of one tensor in some order, neighbours joined where there are many.

    Attributes:
        first, last: the stretch of places shown, `last` excluded; of `count` in all.
        size: channels joined into one point.
        channel: (points,) the channel with the largest magnitude of each point.
        low, high: (points,) smallest and largest value.
        mean: (points,) mean of the means.
    """

    first: int
    last: int
    count: int
    size: int
    channel: Array
    low: Array
    high: Array
    mean: Array


def line(table: StatsTable, name: str, role: str, *, ordered: bool = False, first: int = 0, last: int | None = None) -> Line:
    """The channels of a tensor.

    Args:
        ordered: by falling magnitude instead of by number.
        first, last: the stretch of places wanted, `last` excluded; of a tensor of at most POINTS channels all are given.
    """
    low, high, mean = (table.stat(name, role, stat).reshape(-1) for stat in ("min", "max", "mean"))
    return joined(low, high, mean, ordered=ordered, first=first, last=last)


def joined(low: Array, high: Array, mean: Array, *, ordered: bool = False, first: int = 0, last: int | None = None) -> Line:
    """The same of any three numbers a channel, (channels,) each; its magnitude is the larger of the first two."""
    absmax = np.maximum(np.abs(low), np.abs(high))
    places = np.argsort(-absmax, kind="stable") if ordered else np.arange(low.size)
    last = low.size if last is None or low.size <= POINTS else min(max(last, 1), low.size)
    first = min(max(first, 0), last - 1) if low.size > POINTS else 0
    chosen = places[first:last]
    size = -(-chosen.size // POINTS)
    starts = np.arange(0, chosen.size, size)
    if ordered or size == 1:
        worst = chosen[starts]  # the first of each stretch is its largest
    else:
        worst = np.array([part[np.argmax(absmax[part])] for part in np.split(chosen, starts[1:])])
    counts = np.diff(np.append(starts, chosen.size))
    return Line(
        first=first,
        last=last,
        count=int(low.size),
        size=size,
        channel=worst.astype(np.int64),
        low=np.minimum.reduceat(low[chosen], starts),
        high=np.maximum.reduceat(high[chosen], starts),
        mean=np.add.reduceat(mean[chosen], starts) / counts,
    )


@dataclass(frozen=True)
class Outlier:
    """A channel that stands out: its largest magnitude, that to the median channel's, and what set it."""

    channel: int
    absmax: float
    ratio: float
    cause: Cause


def outliers(table: StatsTable, name: str, role: str) -> list[Outlier]:
    """The channels of a tensor with the largest magnitude, at most as many as its site ranks."""
    site = table.entries[name, role]
    median = max(float(table.arrays["site/median_absmax"][site]), float(np.finfo(np.float32).tiny))
    ranked = zip(table.arrays["site/top_channel"][site], table.arrays["site/top_absmax"][site], strict=True)
    return [
        Outlier(int(channel), float(absmax), float(absmax) / median, table.cause(name, role, channel=int(channel)))
        for channel, absmax in ranked
        if channel >= 0
    ]
