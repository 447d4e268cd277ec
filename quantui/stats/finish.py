"""From an observation to a table: sites off their device one by one, names, geometry and hashes beside them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantui.stats.build import SiteArrays, build
from quantui.stats.chunks import release
from quantui.stats.observe import Observation
from quantui.stats.site import Site
from quantui.stats.table import StatsTable
from quantui.stats.weights import joined, weights_of

if TYPE_CHECKING:
    from torch import Tensor


def finish(
    model: Any, made: Observation, weights: dict[str, Any] | None, meta: dict[str, Any], tokenizer: Any = None
) -> StatsTable:
    """The table of an observation, which is emptied.

    Args:
        model: for the names and sizes of its Linears.
        weights: what `look_at_weights` found, or None.
        meta: what stats.json holds beside the structure.
        tokenizer: for the texts of tokens.
    """
    sites = made.collector.sites
    numbers: dict[int, int] = {}
    kept: list[Site] = []
    entries = []
    for (name, role), site in sites.items():
        if id(site) not in numbers:
            numbers[id(site)] = len(kept)
            kept.append(site)
        entries.append((name, role, numbers[id(site)]))
    shapes = {name: tuple(weight.shape) for name, weight in weights_of(model)}
    reached = [name for name, role in sites if role == "output" and name in shapes]
    order = [*reached, *(name for name in shapes if name not in set(reached))]
    linears, at = [], 0
    for name in order:
        out, inputs = shapes[name]
        linears.append({"name": name, "in": inputs, "out": out, "weights": at if weights is not None else None})
        at += out
    sites.clear()
    release()
    arrays = []
    while kept:
        arrays.append(_off_device(kept.pop(0)))
    texts = pieces(tokenizer, made.ids) if tokenizer is not None else {}
    dtype = str(model.dtype).removeprefix("torch.")
    meta = {
        "dtype": dtype,
        "skipped": [error.sample for error in made.skipped],
        "pieces": texts,
        "cache": _geometry(model),
    } | meta
    return build(
        arrays, entries, linears, meta, weights=joined(weights, order) if weights is not None else None, samples=made.ids
    )


def pieces(tokenizer: Any, ids: list[list[int]]) -> dict[str, str]:
    """The text of every token id that occurs."""
    used = sorted({number for sample in ids for number in sample})
    return {str(number): str(tokenizer.decode([number])) for number in used}


def model_hash(folder: Path) -> str:
    """SHA-256 over the config and the names, sizes and headers of the weight files: the same folder, the same hash.

    The bytes of weights are not read, since that would take longer than the pass on large models.
    """
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*")):
        if file.name == "config.json":
            digest.update(file.read_bytes())
        elif file.suffix in (".safetensors", ".bin"):
            with file.open("rb") as opened:
                digest.update(f"{file.name} {file.stat().st_size}".encode() + opened.read(1 << 20))
    return digest.hexdigest()


def samples_hash(ids: list[list[int]]) -> str:
    """SHA-256 over the token ids of all samples."""
    return hashlib.sha256(json.dumps(ids).encode()).hexdigest()


def _geometry(model: Any) -> dict[str, int]:
    """What the memory of a K/V cache follows from."""
    config = model.config.get_text_config()
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    width = int(getattr(config, "head_dim", 0) or 0) or (int(config.hidden_size) // heads if heads else 0)
    shared = int(getattr(config, "num_key_value_heads", 0) or heads)
    return {"layers": int(getattr(config, "num_hidden_layers", 0) or 0), "heads": heads, "kv_heads": shared, "head_dim": width}


def _off_device(site: Site) -> SiteArrays:
    high, low = site.extremes
    channel = {"max": high, "min": 0.0 - low}
    for stat, sums in zip(("mean", "absmean"), site.sums, strict=True):
        channel[stat] = (sums / site.count).astype(np.float32)
    for side, number in (("max", 0), ("min", 1)):
        channel[f"{side}_sample"], channel[f"{side}_token"] = site.samples[number], site.tokens[number]
    made = SiteArrays(site.shape, site.count, site.on_tokens, channel)
    detail = site.detail
    if detail is not None and detail.powers is not None and detail.shift is not None:
        powers = detail.powers / site.count
        variance = np.maximum(powers[1] - powers[0] ** 2, 0.0)
        made.std = np.sqrt(variance).astype(np.float32)
        mean = powers[0] + detail.shift.astype(np.float64)
        made.mean_square = float(np.mean(variance + mean**2))
        if detail.four:
            made.kurtosis = _kurtosis(powers, variance)
    if detail is not None and detail.even is not None and detail.steps is not None:
        made.even, made.steps, made.reach = _numpy(detail.even), _numpy(detail.steps), detail.reach
    return made


def _kurtosis(powers: Any, variance: Any) -> Any:
    """Excess kurtosis of every channel from its mean power sums around a shift; 0 where a channel is constant."""
    first, second, third, fourth = powers
    central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
    return np.where(variance > 1e-12 * second, central / np.maximum(variance, 1e-300) ** 2 - 3, 0.0).astype(np.float32)


def _numpy(tensor: Tensor) -> Any:
    return tensor.cpu().numpy()
