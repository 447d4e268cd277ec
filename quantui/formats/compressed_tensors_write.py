"""Writing compressed-tensors folders: what transformers and vLLM load.

Source: compressed_tensors/compressors and quantization/quant_config.py of 0.19.0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.errors import OutputError
from quantui.formats.base import CacheOutline, CacheScales, LayerPart, OpenFolder, Outline, QuantizedLayer
from quantui.formats.integral import whole
from quantui.formats.model_files import PART_BYTES, check_config, float_linears, write_config, write_index
from quantui.formats.names import aliases
from quantui.formats.schemes import input_args, weight_args
from quantui.formats.stream import Emission, Named, emit
from quantui.numerics.minmax import joint_scale
from quantui.numerics.quantized import Inputs, Weights

if TYPE_CHECKING:
    from torch import Tensor

VERSION = "0.19.0"


def format_of(weights: Weights, inputs: Inputs | None) -> str:
    """The format that the engine would choose for a layer.

    Source: compressed_tensors/compressors/format.py, `COMPRESSION_FORMAT_PRIORITY`.
    """
    if weights.kind == "float4":
        return "mxfp4-pack-quantized" if weights.group_size == 32 else "nvfp4-pack-quantized"
    if weights.kind == "float8":
        if weights.power_of_two:
            return "mxfp8-quantized"
        return "float-quantized" if inputs is not None else "naive-quantized"
    return "int-quantized" if inputs is not None else "pack-quantized"


def refusal(outline: Outline) -> str | None:
    """Why a layer cannot be held, or None if it can."""
    weights = outline.weights
    if weights.kind == "nf4":
        return "its codes are NF4 levels, which compressed-tensors has not: quantize it to int4 or float4"
    if weights.kind == "float4" and weights.group_size not in (16, 32):
        return f"float4 goes in groups of 16 or 32, not {weights.group_size}"
    if weights.kind == "float4" and outline.columns % 2:
        return f"float4 is stored in pairs, and it has {outline.columns} columns: leave it in float"
    return None


def refusal_of_cache(cache: CacheOutline | CacheScales) -> str | None:
    """Why scales of a K/V cache cannot be held, or None if they can."""
    if cache.strategy == "channel":
        return "it has a K/V scale a channel, and compressed-tensors has one by tensor or head"
    if cache.before_rope:
        return "its key scales are for keys before RoPE, and compressed-tensors has those after it"
    return None


def write(source: OpenFolder, folder: Path, *, part_bytes: int | None, dense: bool) -> None:
    """Writes weights and config.json.

    Args:
        dense: weights stay in the model's dtype beside their scales.

    Raises:
        OutputError: the source has no config.json, or K/V caches in several schemes.
    """
    check_config(source)
    body = quantization_config(source, dense=dense)
    before = {cache.name: _cache_tensors(cache) for cache in source.caches}
    made = Emission(dense_tensors if dense else tensors_of, {}, part_bytes=part_bytes or PART_BYTES, metadata={"format": "pt"})
    if not dense:
        made = dataclasses.replace(made, light=_may_be_light)
    owners = {_first_of(source, name): named for name, named in before.items()}
    _, files = emit(source, folder, dataclasses.replace(made, before=owners))
    write_index(folder, files)
    write_config(folder, source.config, body if body["config_groups"] or body["kv_cache_scheme"] else None)


def _may_be_light(part: LayerPart) -> bool:
    """Whether the codes are stored here as they stand in the source: one by one on both sides, or packed on both."""
    return (part.stored is None) == (format_of(part.outline.weights, part.outline.inputs) == "pack-quantized")


def tensors_of(layer: QuantizedLayer) -> Named:
    """The tensors of a layer, compressed."""
    import torch

    from quantui.numerics.pack import dense_words, halves

    stored = format_of(layer.weights, layer.inputs)
    held: dict[str, Tensor | None] = {}
    if stored == "pack-quantized":
        held["weight_packed"] = dense_words(layer.codes, layer.weights.bits)
        held["weight_shape"] = torch.tensor(layer.codes.shape)
    elif layer.weights.kind == "float4":
        held["weight_packed"] = halves(layer.codes)
    else:
        held["weight"] = layer.codes
    return _with_scales(layer, held, packed_zero=stored == "pack-quantized")


def dense_tensors(layer: QuantizedLayer) -> Named:
    """The tensors of a layer, its weight in float as it comes back.

    Raises:
        OutputError: that float cannot tell its codes apart.
    """
    from quantui.formats.tensors import torch_dtype

    if layer.dtype == "bfloat16" and layer.weights.kind == "int" and layer.weights.bits == 8 and not layer.weights.symmetric:
        what = "its 8-bit codes about a zero point take 9 bits, and a bfloat16 weight keeps 8 of them"
        raise OutputError(what, where=layer.name, todo="export to compressed-tensors, which keeps the codes")
    return _with_scales(layer, {"weight": layer.dequantize(torch_dtype(layer.dtype))}, packed_zero=False)


def _with_scales(layer: QuantizedLayer, held: dict[str, Tensor | None], *, packed_zero: bool) -> Named:
    import torch

    from quantui.numerics.pack import dense_words

    scale, zero = _one_scale(layer), None if layer.weights.symmetric else layer.zero
    if layer.weights.power_of_two:
        scale = (torch.log2(scale.float()).round() + 127).to(torch.uint8)
    if zero is not None:
        zero = whole(zero, layer.name)
        if packed_zero and layer.weights.strategy in ("group", "channel"):
            zero = dense_words(zero.reshape(zero.shape[0], -1).t(), layer.weights.bits).t()
    input_scale, input_zero = layer.input_scale, layer.input_zero
    if input_scale is not None and layer.inputs is not None and layer.inputs.by_rank:
        input_scale, input_zero = _joint(input_scale, input_zero, layer.inputs.bits)
    input_zero = None if layer.inputs is None or layer.inputs.symmetric else input_zero
    held |= {
        "weight_scale": scale,
        "weight_zero_point": zero,
        "weight_global_scale": layer.divisor,
        "weight_g_idx": layer.group_index,
        "bias": layer.bias,
        "input_scale": input_scale,
        "input_zero_point": None if input_zero is None else whole(input_zero, layer.name),
        "input_global_scale": layer.input_divisor,
    }
    return {f"{layer.name}.{leaf}": tensor for leaf, tensor in held.items() if tensor is not None}


def _joint(scale: Tensor, zero: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
    """The one input scale that stands for those of all ranks."""
    if scale.is_meta:
        return scale[:1], None if zero is None else zero[:1]
    return joint_scale(scale, zero, bits)


def _one_scale(layer: QuantizedLayer) -> Tensor:
    """The scale of a layer; of two stages their product, and of W8A8S what its products were accumulated with."""
    if layer.scale is None and layer.deq_scale is not None and layer.input_scale is not None:
        return (layer.deq_scale.float() / layer.input_scale.float()).reshape(-1, 1)
    if layer.scale is None:
        raise OutputError("its scales are not kept in the files it comes from", where=layer.name, todo="quantize it again")
    return layer.scale if layer.second is None else layer.scale.float() * layer.second.float()


def _cache_tensors(cache: CacheScales) -> Named:
    shape = (-1, 1, 1) if cache.strategy == "head" else (-1,)
    held = {"k_scale": cache.key_scale, "v_scale": cache.value_scale}
    if cache.key_zero is not None and cache.value_zero is not None:
        held |= {"k_zero_point": whole(cache.key_zero, cache.name), "v_zero_point": whole(cache.value_zero, cache.name)}
    return {f"{cache.name}.{leaf}": tensor.reshape(shape) for leaf, tensor in held.items()}


def _first_of(source: OpenFolder, attention: str) -> str:
    """The first module below an attention layer, before which its scales are written."""
    inside = (part.name for part in source.parts if part.name.startswith(f"{attention}."))
    first = next(inside, attention)
    return first if any(part.name == first for part in source.layers) else first.rpartition(".")[0]


def quantization_config(source: OpenFolder, *, dense: bool) -> dict[str, Any]:
    """What config.json says of the quantized layers."""
    names: dict[tuple[Weights, Inputs | None], list[str]] = {}
    for part in source.layers:
        names.setdefault(_scheme(part), []).append(part.name)
    largest = max(names, key=lambda scheme: len(names[scheme]), default=None)
    groups: dict[str, Any] = {}
    formats: list[str] = []
    for number, ((weights, inputs), layers) in enumerate(names.items()):
        formats.append("dense" if dense else format_of(weights, inputs))
        exact = [alias for layer in layers for alias in aliases(layer, source.config)]
        groups[f"group_{number}"] = {
            "format": formats[-1],
            "input_activations": input_args(inputs),
            "output_activations": None,
            "targets": ["Linear"] if (weights, inputs) == largest else exact,
            "weights": weight_args(weights),
        }
    return {
        "config_groups": groups,
        "format": formats[0] if len(set(formats)) == 1 else "mixed-precision" if formats else "dense",
        "global_compression_ratio": None,
        "ignore": float_linears(source),
        "kv_cache_scheme": _cache_args(source.caches),
        "quant_method": "compressed-tensors",
        "quantization_status": "frozen" if dense else "compressed",
        "sparsity_config": {},
        "transform_config": source.extras.get("transform_config") or {},
        "version": VERSION,
    }


def _scheme(part: LayerPart) -> tuple[Weights, Inputs | None]:
    """How a layer is quantized, as far as compressed-tensors tells schemes apart."""
    weights, inputs = part.outline.weights, part.outline.inputs
    if weights.kind == "int" and (weights.two_stage or weights.sparse):
        weights = Weights("int", weights.bits, "group" if weights.two_stage else "channel", weights.group_size)
    if inputs is not None and inputs.by_rank:
        inputs = dataclasses.replace(inputs, strategy="tensor", group_size=None)
    return weights, inputs


def _cache_args(caches: Sequence[CacheScales]) -> dict[str, Any] | None:
    if not caches:
        return None
    first = caches[0]
    symmetric = first.key_zero is None
    for cache in caches:
        if (cache.kind, cache.bits, cache.strategy, cache.key_zero is None) != (
            first.kind,
            first.bits,
            first.strategy,
            symmetric,
        ):
            todo = "quantize every K/V cache alike"
            raise OutputError(f"its K/V cache is quantized otherwise than that of {first.name}", where=cache.name, todo=todo)
    strategy: Any = "tensor" if first.strategy == "tensor" else "attn_head"
    made = input_args(Inputs("int" if first.kind == "int" else "float8", first.bits, "tensor", False, symmetric))
    assert made is not None
    return made | {"strategy": strategy}
