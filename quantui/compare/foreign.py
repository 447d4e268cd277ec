"""Quantized folders that transformers does not open here: the original's class, with weights read layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from quantui.compare.rounding import Round, affine, rounding
from quantui.compare.sites import CacheSite, Site, parameters_of
from quantui.errors import CheckpointError
from quantui.formats.base import CacheScales, Inputs, OpenFolder, QuantizedLayer
from quantui.formats.names import aliases
from quantui.formats.tensors import read_tensor
from quantui.numerics.layerfiles import layer_files, load_layer


def dress(model: Any, twin: Any, opened: OpenFolder, config: Mapping[str, Any]) -> tuple[list[Site], list[CacheSite]]:
    """Gives a copy of the original the quantized weights of a folder, and says where it can be switched.

    Args:
        model: the copy; its parameters are replaced one by one.
        twin: the original.
        config: the original's config.json.

    Raises:
        CheckpointError: a layer of the folder is none of the model's, or has another shape; it is named.
    """
    modules, others = dict(model.named_modules()), dict(twin.named_modules())
    sites = []
    for layer in opened.read():
        name = _module_name(layer.name, config, modules, opened.folder)
        sites.append(_site(name, modules[name], others[name], layer))
    _load_rest(model, opened, config)
    caches = [_cache_site(cache, config, modules, opened.folder) for cache in opened.caches]
    return sites, caches


def _module_name(name: str, config: Mapping[str, Any], modules: Mapping[str, Any], folder: Path) -> str:
    for known in reversed(aliases(name, config)):
        if known in modules:
            return known
    what = f"it has a layer {name!r} that the original has not"
    raise CheckpointError(what, where=str(folder), todo="choose the model that the quantized one was made from")


def _site(name: str, module: Any, other: Any, layer: QuantizedLayer) -> Site:
    weight = layer.dequantize(module.weight.dtype).to(module.weight.device)
    if weight.shape != module.weight.shape:
        what = f"its weight is {tuple(weight.shape)} and the original's {tuple(module.weight.shape)}"
        raise CheckpointError(what, where=name, todo="choose the model that the quantized one was made from")
    module.weight = torch.nn.Parameter(weight, requires_grad=False)
    if layer.bias is not None:
        module.bias = torch.nn.Parameter(layer.bias.to(weight), requires_grad=False)
    inputs = _inputs(layer, module.weight) if layer.inputs is not None else None
    return Site(
        name,
        module,
        _words(layer),
        layer.weights.bits,
        parameters_of(module),
        parameters_of(other),
        inputs=inputs,
        outputs=None,
    )


def deal_inputs(sites: list[Site], folder: Path) -> None:
    """Has layers whose inputs have a scale for each tensor-parallel rank, kept beside the model in a folder, round them so."""
    files = layer_files(folder)
    for site in sites:
        if site.name in files and (layer := load_layer(files[site.name])).inputs is not None and layer.inputs.by_rank:
            site.inputs = _inputs(layer, site.module.weight)


def _inputs(layer: QuantizedLayer, like: torch.Tensor) -> Round:
    from compressed_tensors.quantization import QuantizationArgs

    given: Inputs | None = layer.inputs
    assert given is not None
    args = QuantizationArgs(
        num_bits=given.bits,
        type="int" if given.kind == "int" else "float",
        strategy=given.strategy,
        dynamic=given.dynamic,
        symmetric=given.symmetric,
        group_size=given.group_size,
    )
    shape = (1, -1) if given.by_rank else (-1,)  # the engine takes one dimension for rows
    scale = None if layer.input_scale is None else layer.input_scale.to(like).reshape(shape)
    zero = None if layer.input_zero is None else layer.input_zero.to(like.device).reshape(shape)
    whole = None if layer.input_divisor is None else layer.input_divisor.to(like.device)
    return rounding(args, scale, zero, whole)


def _load_rest(model: Any, opened: OpenFolder, config: Mapping[str, Any]) -> None:
    """Tensors that quantization left alone may still be other than the original's, as norms are after smoothing."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for part in opened.tensors:
        module, _, leaf = part.name.rpartition(".")
        for known in reversed(aliases(module, config)):
            own = parameters.get(f"{known}.{leaf}")
            if own is not None and tuple(own.shape) == tuple(part.tensor.shape):
                own.data = read_tensor(part.tensor).to(own)
                break


def _cache_site(scales: CacheScales, config: Mapping[str, Any], modules: Mapping[str, Any], folder: Path) -> CacheSite:
    name = _module_name(scales.name, config, modules, folder)
    module = modules[name]
    like = next(module.parameters())
    keys = _cache_round(scales, scales.key_scale, scales.key_zero, like)
    values = _cache_round(scales, scales.value_scale, scales.value_zero, like)
    words = f"{'fp' if scales.kind == 'float8' else 'int'}{scales.bits} {scales.strategy}"
    made = CacheSite(name, int(module.layer_idx), words, scales.bits, keys, values)
    if scales.before_rope:
        made.hook(modules[f"{name}.k_proj"], modules[f"{name}.v_proj"])
    return made


def _cache_round(scales: CacheScales, scale: torch.Tensor, zero: torch.Tensor | None, like: torch.Tensor) -> Round:
    shaped = [None if part is None else _cache_shape(scales, part.to(like)) for part in (scale, zero)]
    assert shaped[0] is not None
    return affine(scales.kind, scales.bits, shaped[0], shaped[1])


def _cache_shape(scales: CacheScales, part: torch.Tensor) -> torch.Tensor:
    """In a shape that broadcasts over (batch, heads, tokens, head_dim), or over (..., heads * head_dim) before RoPE."""
    if part.numel() == 1:
        return part.reshape(1)
    if scales.before_rope:
        return part.reshape(-1)
    if scales.strategy == "head":
        return part.reshape(1, -1, 1, 1)
    raise CheckpointError(
        "its K/V cache is quantized by channel after RoPE, which cannot be run here",
        where=scales.name,
        todo="compare without the K/V cache",
    )


def _words(layer: QuantizedLayer) -> str:
    weights, inputs = layer.weights, layer.inputs
    kind = {"int": "int", "float8": "fp", "float4": "fp", "nf4": "nf"}[weights.kind]
    how = "" if inputs is None else " static" if inputs.dynamic is False else " dynamic"
    group = f" g{weights.group_size}" if weights.group_size else ""
    return f"W{weights.bits}A{inputs.bits if inputs else 16} {kind}{weights.bits}{group}{how}"
