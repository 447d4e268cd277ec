"""What the charts of the Statistics tab are drawn from: plain lists of rounded numbers, small enough to send at every click."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from quantui.numerics.affine import step
from quantui.stats import channels as channel_lines
from quantui.stats.cache_size import CacheShape, cache_bytes
from quantui.stats.fit import fit
from quantui.stats.kinds import place_of
from quantui.stats.overview import cache_error, head_map, ranges
from quantui.stats.rope import rope_pairs
from quantui.stats.smoothed import sharing, smoothed, weight_columns
from quantui.stats.table import Array, Layer, StatsTable

DIGITS = 4
BITS = (2, 3, 4, 5, 6, 7, 8)
"""Widths of a cached number that the sliders offer beside 16, which is not quantized."""


def plain(values: Iterable[float] | Array, digits: int = DIGITS) -> list[float | None]:
    """Numbers with so many digits that count, None for what is no number."""
    array = np.asarray(values, np.float64)
    return [float(f"{value:.{digits}g}") if math.isfinite(value) else None for value in array.tolist()]


def overview(table: StatsTable, role: str) -> dict[str, Any]:
    """The range of every layer, one list a number."""
    found = ranges(table, role)
    told: dict[str, Any] = {
        "name": [layer.name for layer in found.layers],
        "kind": [layer.place.kind for layer in found.layers],
        "block": [layer.place.block for layer in found.layers],
        "expert": [layer.place.expert for layer in found.layers],
        "tokens": found.tokens.tolist(),
    }
    for name in ("low", "high", "absmax", "absmean", "ratio"):
        told[name] = plain(getattr(found, name))
    told["p1"] = plain(found.p1) if found.p1 is not None else None
    told["p99"] = plain(found.p99) if found.p99 is not None else None
    return told


def cache(table: StatsTable) -> dict[str, Any]:
    """Keys and values of every attention layer by head, the error of every width, and the bytes of a cached token."""
    geometry = table.meta.get("cache") or {}
    heads = [int(table.stat(name, "key", "max").shape[0]) for name in table.attention]
    widths = [int(table.stat(name, "key", "max").shape[1]) for name in table.attention]
    shape = CacheShape(1, sum(heads), max(widths, default=0))  # heads may differ from layer to layer
    return {
        "name": list(table.attention),
        "heads": max(heads, default=0),
        "all_heads": int(geometry.get("heads") or 0),
        "width": max(widths, default=0),
        "map": {role: [plain(row) for row in head_map(table, role)] for role in ("key", "value")},
        "errors": _errors(table),
        "relative": _knows_spread(table),
        "bits": [*BITS, 16],
        # Keys and values are half of the cache each.
        "token_bytes": {str(bits): cache_bytes(shape, 1, 1, bits) / 2 for bits in (*BITS, 16)},
    }


def profile(table: StatsTable, name: str, role: str, head: int, model: Path | None) -> dict[str, Any]:
    """One head of keys or values by dimension, and which dimensions rotary positions turn together.

    Args:
        model: its folder, whose config tells of the positions; None where it is not there.
    """
    low, high, mean = (table.stat(name, role, stat)[head] for stat in ("min", "max", "mean"))
    config = _config(model) if model is not None and role == "key" else {}
    pairs = rope_pairs(config, int(low.size)) if config else []
    return {"low": plain(low), "high": plain(high), "mean": plain(mean), "pairs": pairs}


def line(table: StatsTable, name: str, role: str, *, ordered: bool, first: int, last: int | None) -> dict[str, Any]:
    """A tensor channel by channel."""
    return _told(channel_lines.line(table, name, role, ordered=ordered, first=first, last=last))


def lost(errors: Array, *, ordered: bool, first: int, last: int | None) -> dict[str, Any]:
    """What each output channel of a weight loses, in percent of its size."""
    return _told(channel_lines.joined(*[errors * 100] * 3, ordered=ordered, first=first, last=last))


def _told(made: channel_lines.Line) -> dict[str, Any]:
    told: dict[str, Any] = {"first": made.first, "last": made.last, "count": made.count, "size": made.size}
    return told | {"channel": made.channel.tolist()} | {part: plain(getattr(made, part)) for part in ("low", "high", "mean")}


def spread(table: StatsTable, name: str, role: str, scheme: str, clip: float) -> dict[str, Any] | None:
    """The histogram of a tensor and the grid of a scheme over it; None without `--detail`."""
    counted, fitted = table.histogram(name, role), fit(table, name, role, scheme, clip)
    if counted is None or fitted is None:
        return None
    counts, edges = counted
    held = np.flatnonzero(counts)
    first, last = (int(held[0]), int(held[-1]) + 1) if held.size else (0, len(counts))
    return {
        "start": float(edges[first]),
        "step": float(edges[1] - edges[0]),
        "counts": counts[first:last].tolist(),
        "levels": plain(fitted.levels, 6),
        "low": fitted.low,
        "high": fitted.high,
        "clipped": fitted.clipped,
        "used": fitted.used,
        "error": fitted.error,
    }


def smooth(table: StatsTable, name: str, strength: float, model: Path) -> dict[str, Any]:
    """The input of a layer before and after smoothing, channels by falling magnitude before.

    Args:
        strength: 0 to 1.
        model: its folder.

    Raises:
        CheckpointError: the model's weights cannot be read.
    """
    layers = sharing(table, name)
    made = smoothed(table, name, _columns(model, layers), strength)
    low, high = table.stat(name, "input", "min"), table.stat(name, "input", "max")
    before, after = np.maximum(np.abs(low), np.abs(high)), np.maximum(np.abs(made.low), np.abs(made.high))
    order = np.argsort(-before, kind="stable")
    starts = np.arange(0, order.size, -(-order.size // channel_lines.POINTS))

    def joined(values: Array) -> list[float | None]:
        return plain(np.maximum.reduceat(values[order], starts))

    return {
        "usual": made.usual,
        "before": joined(before),
        "after": joined(after),
        "weight_before": joined(made.weight_before),
        "weight_after": joined(made.weight_after),
        "peaks": plain([before.max(), after.max(), made.weight_before.max(), made.weight_after.max()]),
        "ratios": plain([_ratio(values) for values in (before, after, made.weight_before, made.weight_after)]),
        "size": int(starts[1] - starts[0]) if starts.size > 1 else 1,
        "layers": [layer.name for layer in layers],
    }


def changes(found: list[tuple[str, float, float, float]], order: dict[str, int]) -> dict[str, Any]:
    """Every layer's change against another table, in the order of the forward pass."""
    rows = sorted(found, key=lambda row: order[row[0]])
    return {
        "name": [row[0] for row in rows],
        "kind": [place_of(row[0]).kind for row in rows],
        "block": [place_of(row[0]).block for row in rows],
        "here": plain([row[1] for row in rows]),
        "there": plain([row[2] for row in rows]),
        "change": plain([row[3] for row in rows]),
    }


def channels_csv(table: StatsTable, name: str, role: str) -> str:
    """Every channel of a tensor, with the sample and token that set its extremes."""
    stats = ["max", "min", "mean", "absmean", "absmax", "max_sample", "max_token", "min_sample", "min_token"]
    if "moments/std" in table.arrays and int(table.arrays["site/moments_start"][table.entries[name, role]]) >= 0:
        stats.append("std")
    columns = [table.stat(name, role, stat).reshape(-1).tolist() for stat in stats]
    rows = [
        ",".join([str(channel), *(f"{value:.7g}" for value in row)]) for channel, row in enumerate(zip(*columns, strict=True))
    ]
    return "\r\n".join([",".join(["channel", *stats]), *rows, ""])


def weight_csv(table: StatsTable, layer: Layer) -> str:
    """Every output channel of a weight, with its error relative to its size in each scheme."""
    columns = {stat: table.weight(layer, stat) for stat in ("max", "min", "absmax")} | table.channel_errors(layer)
    rows = [
        ",".join([str(channel), *(f"{value:.4g}" for value in row)])
        for channel, row in enumerate(zip(*(column.tolist() for column in columns.values()), strict=True))
    ]
    return "\r\n".join([",".join(["channel", *columns]), *rows, ""])


def _ratio(values: Array) -> float:
    return float(values.max() / max(float(np.median(values)), float(np.finfo(np.float32).tiny)))


def _errors(table: StatsTable) -> dict[str, dict[str, list[list[float | None]]]]:
    """[key or value][tensor or head]: a list a width in BITS, an error a layer."""
    relative = _knows_spread(table)
    found: dict[str, dict[str, list[list[float | None]]]] = {}
    for role in ("key", "value"):
        found[role] = {}
        for grain in ("tensor", "head"):
            whole = [_error(table, name, role, grain, relative=relative) for name in table.attention]
            # The error goes with the step, which the width alone scales.
            found[role][grain] = [plain(np.array(whole) * step(0.0, 1.0, bits, symmetric=False) * 255) for bits in BITS]
    return found


def _error(table: StatsTable, name: str, role: str, grain: str, *, relative: bool) -> float:
    """Root of the mean squared error at 8 bits, over that of the values where it is known."""
    lost = float(np.mean(np.square(cache_error(table, name, role, 8, grain), dtype=np.float64)))
    if not relative:
        return math.sqrt(lost)
    spread, mean = table.stat(name, role, "std"), table.stat(name, role, "mean")
    power = float(np.mean(np.square(spread, dtype=np.float64) + np.square(mean, dtype=np.float64)))
    return math.sqrt(lost / power) if power else 0.0


def _knows_spread(table: StatsTable) -> bool:
    """Whether standard deviations of keys and values are there; an imported table has none."""
    try:
        return bool(table.attention) and table.stat(table.attention[0], "key", "std").size > 0
    except KeyError:
        return False


@functools.lru_cache(maxsize=64)
def _columns(model: Path, layers: tuple[Layer, ...]) -> Array:
    return weight_columns(model, layers)


@functools.lru_cache(maxsize=16)
def _config(model: Path) -> dict[str, Any]:
    """config.json of a model that may be gone."""
    try:
        body = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
