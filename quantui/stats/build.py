"""Makes a StatsTable of sites: flat arrays of all channels, and one row a site for pages over all layers. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from quantui.stats.grid import BINS, LEVELS, outside, quantiles
from quantui.stats.table import VERSION, Array, StatsTable

TOP = 16
"""Channels a site keeps in its ranking of the largest."""

CHANNEL = ("max", "min", "mean", "absmean", "max_sample", "max_token", "min_sample", "min_token")


@dataclass
class SiteArrays:
    """One site, off its device.

    Attributes:
        shape: of its channels.
        rows: how many it saw.
        on_tokens: whether rows are text tokens.
        channel: by the names in CHANNEL, (channels,) each.
        std: (channels,) float32 or None.
        kurtosis: (channels,) float32, excess (0 for a normal distribution), or None.
        mean_square: mean of all squared values, NaN where it is not known.
        even, steps: counts of the distribution or None; `reach` of `even`.
    """

    shape: tuple[int, ...]
    rows: int
    on_tokens: bool
    channel: dict[str, Array]
    std: Array | None = None
    kurtosis: Array | None = None
    mean_square: float = float("nan")
    reach: float = 0.0
    even: Array | None = None
    steps: Array | None = None


@dataclass
class Weights:
    """Weights of all Linears, their output channels one after the other.

    Attributes:
        schemes: names of what they were rounded to.
        low, high: (channels,) float32.
        errors: (linears, schemes) float32, |W - Q(W)|^2 / |W|^2.
        roots: (schemes, channels) float16, |w - Q(w)| / |w| of each channel; None where that is not known.
    """

    schemes: tuple[str, ...]
    low: Array
    high: Array
    errors: Array
    roots: Array | None = None


def build(
    sites: Sequence[SiteArrays],
    entries: Sequence[tuple[str, str, int]],
    linears: Sequence[dict[str, Any]],
    meta: dict[str, Any],
    *,
    weights: Weights | None = None,
    samples: Sequence[Sequence[int]] = (),
) -> StatsTable:
    """A table.

    Args:
        sites: each is emptied once it is copied, so that memory does not hold two of everything.
        entries: (module, role, number of the site).
        linears: {"name", "in", "out", "weights"} each.
        meta: what goes into stats.json beside the structure; "samples" names where each sample came from.
        samples: token ids of every sample.
    """
    sizes = np.array([int(np.prod(site.shape)) for site in sites], np.int64)
    starts = np.concatenate(([0], np.cumsum(sizes)))[:-1] if len(sites) else np.zeros(0, np.int64)
    arrays: dict[str, Array] = {"site/start": starts, "site/size": sizes}
    arrays |= _per_site(sites) | _moments(sites, sizes) | _spreads(sites)
    for stat in CHANNEL:
        kind = np.int32 if stat.endswith(("sample", "token")) else np.float32
        flat = np.empty(int(sizes.sum()), kind)
        for site, start, size in zip(sites, starts, sizes, strict=True):
            flat[start : start + size] = site.channel.pop(stat)
        arrays[f"channel/{stat}"] = flat
    if weights is not None:
        arrays |= {"weight/min": weights.low, "weight/max": weights.high, "weight/errors": weights.errors}
        if weights.roots is not None:
            arrays["weight/channel_errors"] = weights.roots
    lengths = np.array([len(ids) for ids in samples], np.int64)
    arrays["samples/ids"] = np.array([number for ids in samples for number in ids], np.int32)
    arrays["samples/starts"] = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    structure = {
        "format": "quantui-stats",
        "version": VERSION,
        "entries": [list(entry) for entry in entries],
        "shapes": [list(site.shape) for site in sites],
        "linears": list(linears),
        "levels": list(LEVELS),
        "schemes": list(weights.schemes) if weights else [],
    }
    return StatsTable(arrays, {"samples": [], "pieces": {}} | meta | structure)


def _per_site(sites: Sequence[SiteArrays]) -> dict[str, Array]:
    """One number a site: its range, its mean absolute, its largest channels and the median one."""
    count = len(sites)
    rows = {name: np.zeros(count, np.float32) for name in ("min", "max", "absmean", "median_absmax")}
    channels, largest = np.full((count, TOP), -1, np.int32), np.zeros((count, TOP), np.float32)
    for number, site in enumerate(sites):
        high, low = site.channel["max"], site.channel["min"]
        absmax = np.maximum(np.abs(high), np.abs(low))
        top = np.argpartition(-absmax, min(TOP, absmax.size) - 1)[:TOP]
        top = top[np.argsort(-absmax[top], kind="stable")]
        channels[number, : top.size], largest[number, : top.size] = top, absmax[top]
        rows["min"][number], rows["max"][number] = low.min(), high.max()
        rows["absmean"][number], rows["median_absmax"][number] = np.mean(site.channel["absmean"]), np.median(absmax)
    found: dict[str, Array] = {f"site/{name}": values for name, values in rows.items()}
    found |= {"site/top_channel": channels, "site/top_absmax": largest}
    found["site/rows"] = np.array([site.rows for site in sites], np.int64)
    found["site/on_tokens"] = np.array([site.on_tokens for site in sites], np.uint8)
    found["site/mean_square"] = np.array([site.mean_square for site in sites], np.float32)
    return found


def _moments(sites: Sequence[SiteArrays], sizes: Array) -> dict[str, Array]:
    starts, at = np.full(len(sites), -1, np.int64), 0
    stds, kurtoses = [], []
    for number, (site, size) in enumerate(zip(sites, sizes, strict=True)):
        if site.std is None:
            continue
        starts[number], at = at, at + int(size)
        stds.append(site.std)
        kurtoses.append(site.kurtosis)
    found: dict[str, Array] = {"site/moments_start": starts}
    if stds:
        found["moments/std"] = np.concatenate(stds).astype(np.float32)
        if all(kurtosis is not None for kurtosis in kurtoses):
            found["moments/kurtosis"] = np.concatenate([k for k in kurtoses if k is not None]).astype(np.float32)
    return found


def _spreads(sites: Sequence[SiteArrays]) -> dict[str, Array]:
    rows = np.full(len(sites), -1, np.int32)
    counted = [number for number, site in enumerate(sites) if site.even is not None]
    rows[counted] = np.arange(len(counted))
    found: dict[str, Array] = {"site/spread_row": rows}
    if not counted:
        return found
    even, levels = np.zeros((len(counted), BINS), np.int64), np.zeros((len(counted), len(LEVELS)), np.float32)
    reach, outliers = np.zeros(len(counted), np.float32), np.zeros(len(counted), np.float32)
    for row, number in enumerate(counted):
        site = sites[number]
        assert site.even is not None and site.steps is not None
        mean = float(np.mean(site.channel["mean"], dtype=np.float64))
        sigma = float(np.sqrt(max(site.mean_square - mean**2, 0.0)))
        even[row], reach[row] = site.even, site.reach
        levels[row] = quantiles(site.steps, float(site.channel["min"].min()), float(site.channel["max"].max()))
        outliers[row] = outside(site.steps, mean - 6 * sigma, mean + 6 * sigma)
    return found | {"spread/even": even, "spread/reach": reach, "spread/quantiles": levels, "spread/outliers": outliers}
