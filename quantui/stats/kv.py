"""Scales and zero points of a quantized K/V cache, from the ranges of a table, in the files three readers want. No torch."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from quantui.errors import CheckpointError, InputError, OutputError
from quantui.numerics.affine import middle_range, symmetric_range
from quantui.stats.table import Array, StatsTable

Grain = Literal["tensor", "head", "channel"]
FLOAT16_MAX = 65504.0

ENGINE_SAFE_NOTE = (
    "a symmetric file of lmdeploy holds two numbers, but the engine that reads it takes exactly four and ignores it; "
    "--engine-safe writes four, with both zero points 0"
)


@dataclass(frozen=True)
class Scale:
    """What keys or values of one layer and rank are quantized with.

    Attributes:
        scale: () for grain tensor, (heads,), or (heads, head_dim).
        zero: the same shape, in the unit of the values; 0 where symmetric.
    """

    scale: Array
    zero: Array


def scales(
    table: StatsTable, role: str, *, bits: int = 8, symmetric: bool = False, tp: int = 1, grain: Grain = "tensor",
    half: bool = False,
) -> list[list[Scale]]:  # fmt: skip
    """Scales of every attention layer and tensor-parallel rank: `scales(...)[layer][rank]`.

    Heads are dealt to ranks in order, the same number to each.

    Args:
        role: key or value.
        bits: width of a code.
        half: compute in float16, as lmdeploy does with the statistics of a float16 model.

    Raises:
        InputError: the heads of a layer cannot be dealt evenly.
        CheckpointError: the table has no keys and values.
    """
    if not table.attention:
        what = "the table holds no keys and values, so there is nothing to take cache scales from"
        raise CheckpointError(what, todo="collect the statistics of a model with attention layers")
    found = []
    for name in table.attention:
        low, high = table.stat(name, role, "min"), table.stat(name, role, "max")
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise CheckpointError(f"the {role} ranges of {name} are no finite numbers", todo="collect the statistics again")
        if tp < 1 or low.shape[0] % tp:
            what = f"the {low.shape[0]} K/V heads of {name} cannot be dealt to {tp} ranks evenly"
            raise InputError(what, where="--tp", todo=f"choose a number that divides {low.shape[0]}")
        pairs = zip(np.split(low, tp), np.split(high, tp), strict=True)
        found.append([_scale(part_low, part_high, bits, symmetric, grain, half) for part_low, part_high in pairs])
    return found


def write_lmdeploy(
    table: StatsTable, folder: Path, *, symmetric: bool = False, tp: int = 1, engine_safe: bool = False, bits: int = 8
) -> list[str]:
    """Writes lmdeploy's `layers.{i}.past_kv_scale.{j}.weight` files and returns the lines it would print.

    Each is raw float32: k_scale, k_zp, v_scale, v_zp, or the two scales where symmetric. For a float16 model the arithmetic
    is float16, as it was there, so that files agree byte for byte.

    Args:
        engine_safe: write four numbers where symmetric too, since the engine reads no other file.

    Source: lmdeploy v0.1.0, lmdeploy/lite/apis/kv_qparams.py.
    """
    half = table.meta.get("dtype") == "float16"
    sides = [scales(table, role, bits=bits, symmetric=symmetric, tp=tp, half=half) for role in ("key", "value")]
    layers, names = len(table.attention), "layers.{}.past_kv_scale.{}.weight"
    _make(
        folder, "layers.*.past_kv_scale.*.weight", {names.format(layer, rank) for layer in range(layers) for rank in range(tp)}
    )
    lines = []
    for layer, (keys, values) in enumerate(zip(*sides, strict=True)):
        for rank, (k, v) in enumerate(zip(keys, values, strict=True)):
            shown = [k.scale, v.scale] if symmetric else [k.scale, k.zero, v.scale, v.zero]
            stored = [k.scale, k.zero, v.scale, v.zero] if engine_safe else shown
            np.array(stored, np.dtype("<f4")).tofile(folder / names.format(layer, rank))
            numbers = " \t".join(str(float(value)) for value in shown)
            lines.append(f"Layer {layer} MP {rank} qparam: " + ("" if symmetric else "\t") + numbers)
    return lines


def write_msmodelslim(table: StatsTable, folder: Path, *, symmetric: bool = True) -> list[str]:
    """Writes the cache part of msModelSlim's C8: scale and offset by channel of the k and v projection outputs, before RoPE.

    `<linear>.kv_cache_scale` and `.kv_cache_offset`, (kv channels,) float32, in kv_cache.safetensors, and the entries for
    quant_model_description.json.

    Raises:
        CheckpointError: a layer has no k and v projection of its own.

    Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/quant_tools.py, lines 301 to 422.
    """
    from safetensors.numpy import save_file

    tensors: dict[str, Array] = {}
    for attention in table.attention:
        for name, low, high in _projections(table, attention):
            if symmetric:
                scale, offset = symmetric_range(np.maximum(np.abs(low), np.abs(high))), np.zeros_like(low)
            else:
                scale = middle_range(low, high)[0]
                offset = np.round(-low / np.where(scale > 0, scale, 1)) - 128
            tensors[f"{name}.kv_cache_scale"] = np.asarray(scale, np.float32)
            tensors[f"{name}.kv_cache_offset"] = np.asarray(offset, np.float32)
    _make(folder)
    save_file(tensors, str(folder / "kv_cache.safetensors"))
    description = {"kv_cache_type": "C8", "kv_quant_type": "C8"} | dict.fromkeys(tensors, "C8")
    (folder / "quant_model_description.json").write_text(json.dumps(description, indent=2), encoding="utf-8")
    return [f"{len(tensors)} tensors in kv_cache.safetensors, their entries in quant_model_description.json"]


def write_json(
    table: StatsTable, folder: Path, *, symmetric: bool = False, tp: int = 1, grain: Grain = "tensor", bits: int = 8
) -> list[str]:
    """Writes kv_scales.json: scale and zero of keys and values by layer and rank, for any reader."""
    sides = {role: scales(table, role, bits=bits, symmetric=symmetric, tp=tp, grain=grain) for role in ("key", "value")}
    layers = [
        {"layer": name, **{role: [_plain(scale) for scale in sides[role][number]] for role in sides}}
        for number, name in enumerate(table.attention)
    ]
    head: dict[str, Any] = {"format": "quantui-kv-scales", "version": 1, "bits": bits, "symmetric": symmetric, "tp": tp}
    body = head | {"grain": grain, "formula": "q = round((x - zero) / scale), x = q * scale + zero", "layers": layers}
    _make(folder)
    (folder / "kv_scales.json").write_text(json.dumps(body, indent=1), encoding="utf-8")
    return [f"{len(layers)} layers in kv_scales.json"]


def _make(folder: Path, pattern: str = "", written: Collection[str] = ()) -> None:
    """Makes the folder where it is not there, now that everything is known that goes into it.

    Args:
        pattern: of files that belong together.
        written: which of those will be written.

    Raises:
        OutputError: it cannot be made, or holds files of the pattern that would stay among the new ones.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made ({error.strerror})", where=str(folder), todo="check the path") from error
    if stale := sorted(file.name for file in folder.glob(pattern) if file.name not in written) if pattern else []:
        what = f"it holds {stale[0]}, which would be taken for one of the new files"
        raise OutputError(what, where=str(folder), todo="choose another folder, or delete the old files")


def _scale(low: Array, high: Array, bits: int, symmetric: bool, grain: Grain, half: bool) -> Scale:
    axis = {"tensor": (0, 1), "head": (1,), "channel": ()}[grain]
    low, high = np.min(low, axis=axis), np.max(high, axis=axis)
    if half and max(np.abs(low).max(), np.abs(high).max()) * 2 < FLOAT16_MAX:  # beyond, float16 arithmetic gives infinity
        low, high = low.astype(np.float16), high.astype(np.float16)
    if symmetric:
        scale = symmetric_range(np.maximum(np.abs(low), np.abs(high)), bits)
        return Scale(np.asarray(scale, np.float32), np.zeros_like(scale, np.float32))
    scale, zero = middle_range(low, high, bits)
    return Scale(np.asarray(scale, np.float32), np.asarray(zero, np.float32))


def _projections(table: StatsTable, attention: str) -> list[tuple[str, Array, Array]]:
    """(name, low, high) of the k and the v projection of an attention layer, by output channel."""
    found = []
    for kind in ("k", "v"):
        layer = next((one for one in table.layers if one.name.startswith(f"{attention}.") and one.place.kind == kind), None)
        if layer is not None:
            found.append((layer.name, table.stat(layer.name, "output", "min"), table.stat(layer.name, "output", "max")))
    fused = next((one for one in table.layers if one.name == f"{attention}.qkv_proj"), None)
    if len(found) == 2:
        return found
    if fused is None:
        what = f"{attention} has no k and v projection that can be told apart"
        raise CheckpointError(what, where="--format msmodelslim", todo="use --format lmdeploy or json")
    heads, width = table.stat(attention, "key", "max").shape
    low, high = table.stat(fused.name, "output", "min"), table.stat(fused.name, "output", "max")
    first = low.size - 2 * heads * width  # the queries come first, then keys, then values
    cuts = [first, first + heads * width]
    parts = zip(("k_proj", "v_proj"), np.split(low, cuts)[1:], np.split(high, cuts)[1:], strict=True)
    return [(f"{fused.name}.{part}", part_low, part_high) for part, part_low, part_high in parts]


def _plain(scale: Scale) -> dict[str, Any]:
    return {"scale": scale.scale.tolist(), "zero": scale.zero.tolist()}
