"""Writing what msModelSlim writes, byte for byte, in either of its two layouts.

Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/save of 26.1.0; what is stored is in docs/formats.md, tensor by tensor.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.errors import OutputError
from quantui.formats.ascend_labels import ATTENTION, CACHE, FLOAT, LEAVES, SPLIT, is_split, label_of, of_rank
from quantui.formats.ascend_ranks import RANKS, SENT, rank_layers, sent_tensors
from quantui.formats.ascend_read import ABSMAX
from quantui.formats.base import LayerPart, OpenFolder, QuantizedLayer
from quantui.formats.mindie import with_mindie_keys
from quantui.formats.shards import ShardFiles
from quantui.formats.stream import Emission, Named, emit
from quantui.formats.tensors import read_tensor
from quantui.numerics.pack import halves, pairs_along_columns, pairs_along_rows

if TYPE_CHECKING:
    from torch import Tensor

FAMILY = ("msmodelslim", "ascend-v1", "numpy")
"""Formats whose labels mean the same."""

SCALE_BIAS_FACTOR = 8
"""What the sum of the dequantized weights is multiplied by: the shift of unsigned 4-bit codes."""


BIAS_CODES = 2**24
"""What the bias of a row of zeros becomes in quant_bias: float32 still holds it exactly."""


def write(source: OpenFolder, folder: Path, *, part_bytes: int | None, packed: bool) -> None:
    """Writes weights, description and config.json.

    Args:
        packed: as ascendV1 does it, else as safe_tensor.
    """
    source = replace(source, parts=tuple(part for part in source.parts if not (packed and ".module." in part.name)))
    kind = quant_type(source)
    stem = f"quant_model_weight_{kind.lower()}"
    emission = Emission(
        lambda layer: tensors_of(layer, packed=packed),
        cache_tensors(source),
        after=norm_tensors(source, twice=not packed),
        naming=lambda number, total: f"{stem}-{number:05}-of-{total:05}.safetensors" if part_bytes else f"{stem}.safetensors",
        full_at_limit=True,
        light=lambda part: part.stored is not None and stands_alone(part, packed=packed),
        part_bytes=part_bytes,
    )
    entries, files = emit(source, folder, emission)
    if part_bytes is not None:
        index = {"metadata": {"total_size": files.total}, "weight_map": files.weight_map}
        write_json(folder / f"{stem}.safetensors.index.json", index)
    body = description(source, [entry.name for entry in entries], packed=packed)
    name = "quant_model_description.json" if packed else f"quant_model_description_{kind.lower()}.json"
    write_json(folder / name, body)
    write_absmax(source, folder)
    if source.config:
        # MindIE looks for the dtype under the name it had before transformers 5
        dtype = {"torch_dtype": source.config["dtype"]} if "dtype" in source.config else {}
        source = replace(source, config=source.config | dtype)
        write_json(folder / "config.json", source.config if packed else with_mindie_keys(source, kind))


def stands_alone(part: LayerPart, *, packed: bool) -> bool:
    """Whether the codes are stored as they are, and no other tensor is computed from them."""
    outline = part.outline
    if of_rank(outline) is not outline:
        return False
    return label_of(outline) not in ("W8A8", "W8A8S") and not (packed and outline.weights.bits == 4)


def quant_type(source: OpenFolder) -> str:
    """The scheme of the model: what the source says, else what most of its layers have."""
    if source.format in FAMILY and "model_quant_type" in source.extras:
        return str(source.extras["model_quant_type"])
    labels = Counter(label_of(part.outline) or FLOAT for part in source.layers)
    return labels.most_common(1)[0][0] if labels else FLOAT


def description(source: OpenFolder, names: list[str], *, packed: bool) -> dict[str, Any]:
    """quant_model_description: every tensor and its label, in the order of the model."""
    labels = {f"{part.name}.{leaf}": _label(source, part) for part in source.layers for leaf in LEAVES}
    said: Mapping[str, str] = source.extras.get("labels", {}) if source.format in FAMILY else {}
    for name in names:
        leaf = name.rpartition(".")[2]
        if leaf.startswith("kv_cache_"):
            labels[name] = CACHE
        elif ".module." in name and name not in said:
            labels[name] = quant_type(source)
        else:
            sent = SENT.fullmatch(name)
            whole = f"{sent[1] if sent else name.partition(RANKS)[0]}.weight" if sent or RANKS in name else name
            labels.setdefault(name, labels.get(whole) or said.get(name, FLOAT))
    body: dict[str, Any] = {"version": "1.0.0"} if packed else {}
    body["model_quant_type"] = quant_type(source)
    if source.caches:
        body |= {"kv_cache_type": CACHE, "kv_quant_type": CACHE}
    if ATTENTION in labels.values():
        body["fa_quant_type"] = ATTENTION
    size = group_size(source)
    if packed and size:
        body["group_size"] = size
    if packed and any(map(SENT.fullmatch, names)):
        body["reduce_quant_type"] = "per_channel"
    elif packed and "reduce_quant_type" in source.extras:
        body["reduce_quant_type"] = source.extras["reduce_quant_type"]
    return body | {name: labels[name] for name in names}


def _label(source: OpenFolder, part: LayerPart) -> str:
    said = source.extras.get("labels", {}).get(f"{part.name}.weight") if source.format in FAMILY else None
    return str(said or label_of(part.outline))


def group_size(source: OpenFolder) -> int:
    """Columns of a group; 0 where no layer is quantized by group, or all columns are one."""
    outlines = (of_rank(part.outline) for part in source.layers)
    by_group = (outline for outline in outlines if outline.weights.kind == "int")
    return next((size for o in by_group if (size := o.weights.group_size) and (size < o.columns or o.weights.two_stage)), 0)


def tensors_of(layer: QuantizedLayer, *, packed: bool) -> Named:
    """The tensors of a layer, in the order msModelSlim writes them in."""
    import torch

    if ranks := rank_layers(layer):
        held = {name: tensor for rank in ranks for name, tensor in tensors_of(rank, packed=packed).items()}
        whole = torch.cat([held[f"{rank.name}.weight"] for rank in ranks], 1)
        return sent_tensors(layer) | {f"{layer.name}.weight": whole} | held
    label = label_of(layer.outline)
    own: dict[str, Tensor | None] = {"weight": codes_of(layer, packed=packed)}
    if layer.weights.kind == "int" and label != "W8A8S":
        scale = _scale(layer)
        own["weight_scale"] = scale
        zero = None if layer.weights.symmetric else layer.zero
        own["weight_offset"] = scale.new_zeros(scale.shape) if zero is None else zero.reshape(scale.shape).to(scale.dtype)
    if label == "W4A8_DYNAMIC" and layer.second is not None:
        own["weight_scale_second"] = layer.second
        own["weight_offset_second"] = layer.second.new_zeros(layer.second.shape, dtype=torch.int64)
        if packed:
            own["scale_bias"] = scale_bias(layer)
    if label in ("W8A8", "W8A8S"):
        own |= activation_tensors(layer)
    own["bias"] = layer.bias
    return {f"{layer.name}.{leaf}": tensor for leaf, tensor in own.items() if tensor is not None}


def _scale(layer: QuantizedLayer) -> Tensor:
    if layer.scale is None:
        if layer.deq_scale is None or layer.input_scale is None:
            raise OutputError("its scales are not kept in the files it comes from", where=layer.name, todo="quantize it again")
        return (layer.deq_scale / layer.input_scale.float()).to(layer.input_scale.dtype).reshape(-1, 1)
    return layer.scale.reshape(1) if layer.weights.strategy == "tensor" else layer.scale.reshape(layer.scale.shape[0], -1)


def codes_of(layer: QuantizedLayer, *, packed: bool) -> Tensor:
    """The stored weight: int8 one by one, int4 in pairs where packed, NF4 flat with the first code high."""
    if layer.weights.kind == "nf4":
        return halves(layer.codes.reshape(-1), first_high=True)
    if packed and layer.weights.bits == 4:
        one = layer.scale is not None and layer.scale.shape[-1] == 1 and not layer.weights.two_stage
        return pairs_along_columns(layer.codes) if one else pairs_along_rows(layer.codes)
    return layer.codes


def activation_tensors(layer: QuantizedLayer) -> dict[str, Tensor | None]:
    """What a static int8 input needs: y = (x_q W_q^T + quant_bias) * deq_scale.

    Source: complex_quantifier.py, lines 51 to 79 and 383 to 406.
    """
    import torch

    assert layer.input_scale is not None  # its inputs are static
    scale = layer.input_scale.reshape(1)
    zero = scale.new_zeros(scale.shape) if layer.input_zero is None else layer.input_zero.reshape(1).to(scale.dtype)
    deq = layer.deq_scale
    if deq is None:
        wide = torch.float32 if scale.dtype == torch.float16 else scale.dtype  # whose least numbers such products fall among
        deq = (scale.to(wide) * _scale(layer).to(wide)).float().reshape(-1)
    quant_bias = layer.quant_bias
    if quant_bias is None:
        quant_bias, deq = _quant_bias(layer, zero.float(), deq)
    stored = deq if scale.dtype == torch.bfloat16 else deq.contiguous().view(torch.int32).to(torch.int64)
    return {"input_scale": scale, "input_offset": zero, "quant_bias": quant_bias, "deq_scale": stored}


def _quant_bias(layer: QuantizedLayer, zero: Tensor, deq: Tensor) -> tuple[Tensor, Tensor]:
    """quant_bias (out,) int32 beside the deq_scale (out,) or (1,) it goes with.

    A row of zeros gets a scale that its bias fits: where its own is the least there is, msModelSlim's wraps around.

    Raises:
        OutputError: the bias of another row is too large for its scale.
    """
    import torch

    correction = layer.codes.float().sum(1) * zero
    bias = correction.new_zeros(correction.shape) if layer.bias is None else layer.bias.float()
    made = (bias / deq - correction).round()
    if made.is_meta or bool((made.abs() < 2**31).all()):
        return made.to(torch.int32), deq
    if deq.shape == bias.shape:
        empty = (layer.codes == 0).all(1) & ~(made.abs() < 2**31)
        deq = torch.where(empty, torch.where(bias == 0, 1.0, bias.abs() / BIAS_CODES), deq)
        made = (bias / deq - correction).round()
    for row in (~(made.abs() < 2**31)).nonzero()[:1].flatten().tolist():
        step = float(deq.expand(bias.shape)[row])
        what = f"its bias of {float(bias[row]):g} in row {row} is too large for int32 in steps of {step:g}"
        raise OutputError(what, where=layer.name, todo="leave it in float, or quantize its inputs by token")
    return made.to(torch.int32), deq


def scale_bias(layer: QuantizedLayer) -> Tensor:
    """(out, 1) or (out, 16) float32: what shifting 4-bit codes by 8 adds, in parts where ranks share the input.

    Source: complex_quantifier.py, lines 192 to 211, with scales rounded to bfloat16; names it does not know get one part.
    """
    import torch

    assert layer.second is not None and layer.scale is not None
    rounded = [tensor.to(torch.bfloat16).float() for tensor in (layer.second, layer.scale)]
    columns = layer.codes.shape[1] // rounded[0].shape[1]
    values = layer.codes.float() * rounded[0].repeat_interleave(columns, 1) * rounded[1]
    parts = SPLIT if is_split(layer.name) else 1
    return SCALE_BIAS_FACTOR * values.unflatten(1, (parts, -1)).sum(-1)


def cache_tensors(source: OpenFolder) -> dict[str, Named]:
    """Scales and offsets of the K/V cache, by the module they stand before."""

    modules = {part.name if isinstance(part, LayerPart) else part.name.rpartition(".")[0] for part in source.parts}
    made: dict[str, Named] = {}
    for cache in source.caches:
        sides = ((cache.key, cache.key_scale, cache.key_zero), (cache.value, cache.value_scale, cache.value_zero))
        for linear, scale, zero in sides:
            owner = linear if linear in modules else linear.rpartition(".")[0]
            offset = scale.new_zeros(scale.shape) if zero is None else zero.to(scale.dtype)
            made.setdefault(owner, {}).update({f"{linear}.kv_cache_scale": scale, f"{linear}.kv_cache_offset": offset})
    return made


def norm_tensors(source: OpenFolder, *, twice: bool) -> dict[str, Named]:
    """What anti-outlier adds to every norm: a bias of zeros, and in safe_tensor everything once more under `.module`."""

    made: dict[str, Named] = {}
    for norm in source.extras.get("norms_with_bias", ()):
        part = next(part for part in source.tensors if part.name == f"{norm}.weight")
        weight = read_tensor(part.tensor)
        zeros = weight.new_zeros(weight.shape)
        made[norm] = {f"{norm}.bias": zeros}
        if twice:
            made[norm] |= {f"{norm}.module.weight": weight, f"{norm}.module.bias": zeros}
    return made


def write_absmax(source: OpenFolder, folder: Path) -> None:
    """Keeps what NF4 needs to be read back, in a file that msModelSlim itself does not write."""
    import torch

    held: Named = {}
    for part in source.layers:
        if part.outline.weights.kind == "nf4" and part.load(True).scale is not None:
            scale = part.load(False).scale
            assert scale is not None
            held[f"{part.name}.absmax"] = scale.reshape(-1).clone()
            held[f"{part.name}.shape"] = torch.tensor([part.outline.rows, part.outline.columns])
    if held:
        from quantui.formats.stream import entry_of

        with ShardFiles(folder, [[entry_of(name, tensor) for name, tensor in held.items()]], lambda *_: ABSMAX, None) as files:
            for name, tensor in held.items():
                files.put(name, tensor)


def write_json(path: Path, body: Mapping[str, Any]) -> None:
    """Writes JSON as msModelSlim does: in the order it is given, without a newline at the end."""
    path.write_text(json.dumps(body, indent=2, ensure_ascii=False), encoding="utf-8")
