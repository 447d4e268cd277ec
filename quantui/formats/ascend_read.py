"""Reading what msModelSlim writes: a description that labels every tensor, and the tensors.

Both of its savers are read: safe_tensor, and ascendV1, whose description has a version and whose int4 is packed. W = (q -
weight_offset) * weight_scale in either. Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/save of 26.1.0.
"""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.files import Tensor, indexed, read_header, read_object, tensors_of
from quantui.errors import CheckpointError
from quantui.formats.ascend_labels import ATTENTION, CACHE, DYNAMIC_INT8, FLOAT, LEAVES, NEEDED, STATIC_INT8
from quantui.formats.ascend_ranks import RANKS, joined, ranks_of, sent_of
from quantui.formats.base import CacheScales, LayerPart, OpenFolder, Outline, QuantizedLayer, TensorPart
from quantui.formats.mindie import PARTS
from quantui.formats.tensors import named_dtype, need, read_tensor
from quantui.numerics.quantized import Weights
from quantui.numerics.sound import sound_cache, sound_layer

if TYPE_CHECKING:
    import torch

NOT_TENSORS = (
    "version", "model_quant_type", "kv_cache_type", "kv_quant_type", "fa_quant_type", "group_size", "reduce_quant_type",
    "metadata", "optional",
)  # fmt: skip
"""Keys of a description that are no names of tensors."""

ABSMAX = "nf4_absmax.safetensors"
"""Where the absmax of NF4 blocks is kept, which msModelSlim's own files have no place for: `<layer>.absmax` (blocks,) and
`<layer>.shape` (2,)."""

CACHE_LEAVES = ("kv_cache_scale", "kv_cache_offset")
REMEDY = "copy the folder again, or quantize the model again"


@dataclass(frozen=True)
class Described:
    """A folder's description and headers: labels and tensors by name, in the order of the description."""

    body: dict[str, Any]
    tensors: dict[str, Tensor]
    shapes: dict[str, Tensor]  # of ABSMAX

    @property
    def packed(self) -> bool:
        """Whether ascendV1 wrote it, and so packed int4."""
        return "version" in self.body

    def label(self, name: str) -> str:
        """The label of a tensor."""
        return str(self.body[name])


def description_of(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The description in a folder, whatever its file is called."""
    files = sorted(folder.glob("*.json"), key=lambda file: ("description" not in file.name, file.name))
    for file in files:
        if file.name not in ("config.json", "tokenizer.json") and not file.name.endswith(".index.json"):
            with contextlib.suppress(OSError, ValueError):
                text = file.read_text(encoding="utf-8")
                if '"model_quant_type"' in text and isinstance(body := json.loads(text), dict):
                    return file, body
    return None


def open_folder(folder: Path, name: str) -> OpenFolder:
    """The folder as layers and tensors.

    Raises:
        CheckpointError: a shard is missing or cut short, or description and tensors disagree (named).
    """
    found = description_of(folder)
    if found is None:
        what = "there is no quant_model_description in it"
        raise CheckpointError(what, where=str(folder), todo="give a folder that msModelSlim wrote")
    file, body = found
    held = Described(body, _ordered(body, _tensors(folder), file), _absmax(folder))
    layers = _layers(held, file)
    dtype = named_dtype({}, (tensor for key, tensor in held.tensors.items() if held.label(key) == FLOAT))
    parts: list[LayerPart | TensorPart] = []
    caches: dict[str, dict[str, Tensor]] = {}
    sent = sent_of(held.tensors, layers)
    for key, tensor in held.tensors.items():
        if key in sent:
            continue  # read with the layer it belongs to
        layer, _, leaf = key.rpartition(".")
        if leaf in CACHE_LEAVES:
            caches.setdefault(layer, {})[leaf] = tensor
        elif f"{layer}{RANKS}0" in layers:
            if leaf != "weight":
                what = f"{key} is that of a layer whose tensor-parallel ranks have their own"
                raise CheckpointError(what, where=str(file), todo=REMEDY)
            ranks = ranks_of(layer, layers)
            owned = [_part(rank, layers[rank], held, dtype) for rank in ranks]
            parts.append(joined(layer, owned, [layers[rank]["weight"] for rank in ranks], tensor, sent))
        elif layer in layers and leaf in (*LEAVES, "bias"):
            if leaf == "weight" and RANKS not in layer:
                parts.append(_part(layer, layers[layer], held, dtype))
        else:
            parts.append(TensorPart(tensor))
    extras = {"labels": {key: held.label(key) for key in held.tensors}, "wrapped": _wrapped(held)}
    extras |= {key: body[key] for key in ("model_quant_type", "reduce_quant_type") if key in body}
    config = _config(folder)
    if isinstance(settings := config.pop("quantization_config", None), dict):
        extras["quant_settings"] = settings
    names = {part.name for part in parts}
    return OpenFolder(folder, name, config, tuple(parts), tuple(_caches(caches, names, file)), dtype, extras)


def weight_files(folder: Path) -> list[str]:
    """The names of the safetensors files of weights in a folder, or of their index."""
    return sorted(file.name for file in folder.glob("*.safetensors*") if file.name != ABSMAX)


def _tensors(folder: Path) -> dict[str, Tensor]:
    for file in sorted(folder.glob("*.safetensors.index.json"))[:1]:
        return tensors_of(folder, *indexed(folder, file))
    return tensors_of(folder, [folder / name for name in weight_files(folder) if name.endswith(".safetensors")], {})


def _ordered(body: Mapping[str, Any], tensors: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The tensors in the order of the description; every name has to be in both."""
    described = [key for key in body if key not in NOT_TENSORS]
    for key in described:
        if key not in tensors:
            raise CheckpointError(f"it describes {key}, but no file holds it", where=str(file), todo=REMEDY)
    for key in tensors:
        if key not in body:
            raise CheckpointError(f"{key} is in the files, but not described", where=str(file), todo=REMEDY)
    return {key: tensors[key] for key in described}


def _absmax(folder: Path) -> dict[str, Tensor]:
    return read_header(folder / ABSMAX) if (folder / ABSMAX).is_file() else {}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    config = read_object(file) if file.exists() else {}
    for part in (config, *(config.get(name) for name in PARTS)):
        if isinstance(part, dict):
            part.pop("quantize", None)
    return config


def _wrapped(held: Described) -> tuple[str, ...]:
    """Norms that anti-outlier has wrapped: those of which the description has everything twice."""
    return tuple(key.removesuffix(".module.weight") for key in held.tensors if key.endswith("norm.module.weight"))


def _layers(held: Described, file: Path) -> dict[str, dict[str, Tensor]]:
    """Module -> leaf -> tensor of every quantized layer.

    Raises:
        CheckpointError: a layer lacks a tensor of its scheme, or its tensors have several labels.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key in held.tensors:
        layer, _, leaf = key.rpartition(".")
        label = held.label(key)
        if leaf == "weight" and label not in (FLOAT, CACHE, ATTENTION) and not layer.endswith("norm.module"):
            if f"{layer}{RANKS}0.weight" in held.tensors:
                continue  # what its ranks have it made of is read
            if label not in NEEDED:
                what = f"{layer} is {label}, which is not read here"
                raise CheckpointError(what, where=str(file), todo=f"read are {', '.join(NEEDED)}")
            owned = {leaf: held.tensors[f"{layer}.{leaf}"] for leaf in (*LEAVES, "bias") if f"{layer}.{leaf}" in held.tensors}
            for leaf in owned:
                if leaf != "bias" and held.label(f"{layer}.{leaf}") != label:
                    what = f"{layer}.{leaf} is labelled {held.label(f'{layer}.{leaf}')}, but {key} {label}"
                    raise CheckpointError(what, where=str(file), todo=REMEDY)
            needed = (*NEEDED[label], "weight_scale") if RANKS in layer else NEEDED[label]
            if absent := [leaf for leaf in needed if leaf not in owned]:
                raise CheckpointError(f"{layer} is {label}, but has no {absent[0]}", where=str(file), todo=REMEDY)
            layers[layer] = owned
    return layers


def _part(layer: str, owned: dict[str, Tensor], held: Described, dtype: str) -> LayerPart:
    label, weight = held.label(f"{layer}.weight"), owned["weight"]
    scale, offset = owned.get("weight_scale"), owned.get("weight_offset")
    rows, columns = _shape(layer, weight, label, scale, held)
    if label == "NF4":
        absmax = held.shapes.get(f"{layer}.absmax")
        if absmax is not None and (not absmax.elements or weight.elements * 2 % absmax.elements):
            what = f"{absmax.name} has {absmax.elements} blocks, which do not divide {weight.elements * 2} codes"
            raise CheckpointError(what, where=str(absmax.shard), todo=REMEDY)
        weights = Weights("nf4", 4, "group", weight.elements * 2 // absmax.elements if absmax else None)
        outline = Outline(layer, weights, None, rows, columns, "bias" in owned)
        return LayerPart(outline, functools.partial(_nf4, outline, owned, held, dtype))
    grouped = owned.get("weight_scale_second") or scale
    across = grouped.shape[-1] if grouped is not None and len(grouped.shape) == 2 else 1
    by_group = label == "W4A8_DYNAMIC" or across > 1
    if across < 1 or columns % across:
        what = f"{layer} has {across} scales a row, which do not divide its {columns} columns"
        raise CheckpointError(what, where=str(weight.shard), todo=REMEDY)
    weights = Weights(
        "int",
        4 if label.startswith("W4") else 8,
        "group"
        if by_group
        else "tensor"
        if scale is not None and scale.elements == 1 and (rows > 1 or len(scale.shape) == 1)
        else "channel",
        columns // across if by_group else None,
        symmetric=offset is None or not bool(read_tensor(offset).any()),
        two_stage=label == "W4A8_DYNAMIC",
        sparse=label == "W8A8S",
    )
    inputs = STATIC_INT8 if label in ("W8A8", "W8A8_MIX", "W8A8S") else DYNAMIC_INT8 if label.endswith("DYNAMIC") else None
    outline = Outline(layer, weights, inputs, rows, columns, "bias" in owned)
    load = functools.partial(_load, outline, owned, held.packed, dtype)
    if held.packed and weights.bits == 4:
        return LayerPart(outline, load)
    return LayerPart(outline, load, functools.partial(load, False, light=True), weight)


def _shape(layer: str, weight: Tensor, label: str, scale: Tensor | None, held: Described) -> tuple[int, int]:
    """Rows and columns of the weight before it was packed."""
    if label == "NF4":
        need(weight, "U8", shape=(weight.elements,))
        known = held.shapes.get(f"{layer}.shape")
        if known is None:
            return 1, weight.elements * 2  # msModelSlim's own file does not say
        need(known, "I64", shape=(2,))
        rows, columns = read_tensor(known).tolist()
        if rows < 1 or columns < 1 or rows * columns != weight.elements * 2:
            what = f"{known.name} says {rows}x{columns}, but {weight.name} has {weight.elements * 2} codes"
            raise CheckpointError(what, where=str(known.shard), todo=REMEDY)
        return rows, columns
    need(weight, "I8")
    rows, columns = weight.shape
    if held.packed and label in ("W4A16", "W4A8_DYNAMIC"):
        if label == "W4A16" and scale is not None and scale.shape[-1] == 1:
            columns *= 2
        else:
            rows *= 2
    if scale is not None and scale.elements > 1 and scale.shape[0] != rows:
        what = f"{scale.name} has {scale.shape[0]} rows, but the weight {rows}"
        raise CheckpointError(what, where=str(scale.shard), todo=REMEDY)
    return rows, columns


def _load(
    outline: Outline, owned: Mapping[str, Tensor], packed: bool, dtype: str, meta: bool, *, light: bool = False
) -> QuantizedLayer:
    from quantui.numerics.pack import from_pairs_along_columns, from_pairs_along_rows

    if deq_scale := owned.get("deq_scale"):
        need(deq_scale, "I64", "F32", shape=deq_scale.shape)
    read = {leaf: tensor for leaf, tensor in owned.items() if leaf != "scale_bias"}
    held = {leaf: read_tensor(tensor, meta=meta or (light and leaf == "weight")) for leaf, tensor in read.items()}
    codes, weights = held["weight"], outline.weights
    if packed and weights.bits == 4:
        by_columns = not weights.two_stage and held["weight_scale"].shape[-1] == 1
        codes = from_pairs_along_columns(codes) if by_columns else from_pairs_along_rows(codes)
    elif weights.bits == 4 and not codes.is_meta and not -8 <= int(codes.min()) <= int(codes.max()) <= 7:
        what = f"{outline.name} has codes of more than 4 bits, as packed ones look where the description has no version"
        raise CheckpointError(what, where=str(owned["weight"].shard), todo=REMEDY)
    deq = held.get("deq_scale")
    layer = QuantizedLayer(
        outline.name,
        weights,
        outline.inputs,
        codes,
        held.get("weight_scale"),
        None if weights.symmetric else held["weight_offset"],
        second=held.get("weight_scale_second"),
        bias=held.get("bias"),
        input_scale=held.get("input_scale"),
        input_zero=held.get("input_offset"),
        quant_bias=held.get("quant_bias"),
        deq_scale=None if deq is None else plain_deq_scale(deq),
        dtype=dtype,
    )
    return sound_layer(layer, str(owned["weight"].shard))


def plain_deq_scale(stored: torch.Tensor) -> torch.Tensor:
    """deq_scale (out,) as float32: int64 holds the bits of float32, sign-extended."""
    import torch

    return stored.to(torch.int32).view(torch.float32) if stored.dtype == torch.int64 else stored.float()


def _nf4(outline: Outline, owned: Mapping[str, Tensor], held: Described, dtype: str, meta: bool) -> QuantizedLayer:
    from quantui.numerics.pack import from_halves

    packed = read_tensor(owned["weight"], meta=meta)
    codes = from_halves(packed, first_high=True).reshape(outline.rows, outline.columns)
    absmax = held.shapes.get(f"{outline.name}.absmax")
    scale = None if absmax is None else read_tensor(absmax, meta=meta)
    bias = read_tensor(owned["bias"], meta=meta) if "bias" in owned else None
    layer = QuantizedLayer(outline.name, outline.weights, None, codes, scale, bias=bias, dtype=dtype)
    return sound_layer(layer, str(owned["weight"].shard))


def _caches(found: Mapping[str, Mapping[str, Tensor]], names: set[str], file: Path) -> list[CacheScales]:
    made = []
    stems = dict.fromkeys(key.removesuffix("k_proj").removesuffix("v_proj") for key in found)
    for stem in stems:
        key, value = f"{stem}k_proj", f"{stem}v_proj"
        for linear in (key, value):
            if "kv_cache_scale" not in found.get(linear, {}):
                raise CheckpointError(f"{linear} has no kv_cache_scale", where=str(file), todo=REMEDY)
        parent = key.rpartition(".")[0]
        fused = parent in names or f"{parent}.weight" in names
        (keys, key_zero), (values, value_zero) = (
            [read_tensor(found[linear][leaf]) if leaf in found[linear] else None for leaf in CACHE_LEAVES]
            for linear in (key, value)
        )
        assert keys is not None and values is not None
        owner = parent.rpartition(".")[0] if fused else parent
        cache = CacheScales(owner, "int", 8, "channel", True, keys, values, key_zero, value_zero, key, value)
        made.append(sound_cache(cache, str(file)))
    return made
