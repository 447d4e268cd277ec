"""What pages over all layers of a table ask: ranges, rankings, maps of heads, differences. Pure, and quick on large tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantui.numerics.affine import step
from quantui.stats.table import Array, Layer, StatsTable


@dataclass(frozen=True)
class Ranges:
    """One row a layer, arrays of (layers,).

    Attributes:
        layers: the layers, in the order of the table; only those a token reached.
        low: smallest value; high: largest; absmax: largest magnitude.
        absmean: mean magnitude, over all channels and tokens.
        p1, p99: quantiles; None without `--detail`.
        ratio: absmax of the largest channel to that of the median channel, 1 where both are 0.
        tokens: rows seen.
    """

    layers: tuple[Layer, ...]
    low: Array
    high: Array
    absmax: Array
    absmean: Array
    p1: Array | None
    p99: Array | None
    ratio: Array
    tokens: Array


@dataclass(frozen=True)
class Offender:
    """A channel that stands out.

    Attributes:
        layers: names of the layers that see it; q, k and v share one.
        kind: of the first of them.
        block: of the first of them.
        channel: its number.
        absmax: its largest magnitude.
        ratio: that to the median channel's.
    """

    layers: tuple[str, ...]
    kind: str
    block: int | None
    channel: int
    absmax: float
    ratio: float


def ranges(table: StatsTable, role: str = "input") -> Ranges:
    """The range of every Linear's input or output."""
    layers = tuple(layer for layer in table.layers if table.has(layer.name, role))
    sites = np.array([table.entries[layer.name, role] for layer in layers], np.int64)
    low, high = table.arrays["site/min"][sites], table.arrays["site/max"][sites]
    p1 = p99 = None
    if "spread/quantiles" in table.arrays:
        levels, rows = table.meta["levels"], table.arrays["site/spread_row"][sites]
        p1 = table.arrays["spread/quantiles"][rows, levels.index(0.01)]
        p99 = table.arrays["spread/quantiles"][rows, levels.index(0.99)]
    absmax = np.maximum(np.abs(low), np.abs(high))
    ratio = _ratio(absmax, table.arrays["site/median_absmax"][sites])
    absmean, tokens = table.arrays["site/absmean"][sites], table.arrays["site/rows"][sites]
    return Ranges(layers, low, high, absmax, absmean, p1, p99, ratio, tokens)


def offenders(table: StatsTable, role: str = "input", limit: int = 50) -> list[Offender]:
    """The channels with the largest magnitude against the median channel of their tensor, worst first.

    A tensor gives at most the 16 channels its site ranks.
    """
    names: dict[int, list[Layer]] = {}
    for layer in table.layers:
        if table.has(layer.name, role):
            names.setdefault(table.entries[layer.name, role], []).append(layer)
    if not names:
        return []
    sites = np.fromiter(names, np.int64)
    channels, absmax = table.arrays["site/top_channel"][sites], table.arrays["site/top_absmax"][sites]
    ratio = np.where(channels >= 0, _ratio(absmax, table.arrays["site/median_absmax"][sites][:, None]), -1.0)
    found = []
    for flat in np.argsort(-ratio, axis=None, kind="stable")[:limit]:
        row, column = divmod(int(flat), ratio.shape[1])
        if channels[row, column] < 0:
            break
        layers = names[int(sites[row])]
        place = layers[0].place
        who = tuple(layer.name for layer in layers)
        values = int(channels[row, column]), float(absmax[row, column]), float(ratio[row, column])
        found.append(Offender(who, place.kind, place.block, *values))
    return found


def head_map(table: StatsTable, role: str, stat: str = "absmax") -> Array:
    """Keys or values of all attention layers by head: the largest absmax or max (the smallest min) of each head.

    Returns:
        (layers, heads) float32, NaN where a layer has fewer heads than another.
    """
    rows = [table.stat(name, role, stat) for name in table.attention]
    width = max((row.shape[0] for row in rows), default=0)
    found = np.full((len(rows), width), np.nan, np.float32)
    for number, row in enumerate(rows):
        found[number, : row.shape[0]] = row.min(1) if stat == "min" else row.max(1)
    return found


def cache_error(table: StatsTable, name: str, role: str, bits: int, grain: str, *, symmetric: bool = False) -> Array:
    """Expected error of a quantized K or V by channel, from ranges alone.

    Rounding to a step s errs by s / sqrt(12) on average (root of the mean square) where values fill many steps.

    Args:
        grain: which channels share a scale: tensor, head or channel.

    Returns:
        (heads, head_dim) float32 in the unit of the values; divide by `stat(.., "std")` for a relative one.
    """
    low, high = table.stat(name, role, "min"), table.stat(name, role, "max")
    axes = {"tensor": (0, 1), "head": (1,), "channel": ()}[grain]
    low, high = np.min(low, axis=axes, keepdims=True), np.max(high, axis=axes, keepdims=True)
    each = np.broadcast_to(step(low, high, bits, symmetric=symmetric), table.stat(name, role, "min").shape)
    return np.asarray(each / np.sqrt(12.0), np.float32)


def differences(table: StatsTable, other: StatsTable, role: str = "input") -> list[tuple[str, float, float, float]]:
    """(layer, absmax here, absmax there, log2 of there / here) of every layer both tables have, largest change first.

    Args:
        role: input or output of Linears; key or value of attention layers.
    """
    rows = []
    names = table.attention if role in ("key", "value") else [layer.name for layer in table.layers]
    for name in names:
        if not (table.has(name, role) and other.has(name, role)):
            continue
        here, there = (float(_absmax(one, name, role)) for one in (table, other))
        change = float(np.log2(there / here)) if here > 0 and there > 0 else float("inf") if here != there else 0.0
        rows.append((name, here, there, change))
    return sorted(rows, key=lambda row: -abs(row[3]))


def _absmax(table: StatsTable, name: str, role: str) -> float:
    site = table.entries[name, role]
    return max(abs(float(table.arrays["site/min"][site])), abs(float(table.arrays["site/max"][site])))


def _ratio(absmax: Array, median: Array) -> Array:
    floor = np.finfo(np.float32).tiny
    return np.where(absmax > 0, absmax / np.maximum(median, floor), 1.0)
