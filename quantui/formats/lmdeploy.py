"""lmdeploy's W8A8: int8 or float8 weights by output channel, inputs quantized by token while the model runs.

`weight` (out, in) int8 or float8_e4m3fn, `scale` (out, 1) float32. Source: lmdeploy 0.16.0, lmdeploy/lite/apis/smooth_quant.py
and lmdeploy/pytorch/kernels/default/w8a8_kernels.py.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quantui.checkpoint.files import Tensor, open_checkpoint
from quantui.errors import CheckpointError, OutputError
from quantui.formats.awq import REMEDY, quant_method
from quantui.formats.base import CacheOutline, CacheScales, LayerPart, OpenFolder, Outline, QuantizedLayer, TensorPart
from quantui.formats.model_files import PART_BYTES, check_config, float_linears, write_config, write_index
from quantui.formats.order import module_key
from quantui.formats.stream import Emission, Named, emit
from quantui.formats.tensors import named_dtype, need, read_tensor
from quantui.numerics.quantized import Inputs, Weights
from quantui.numerics.sound import sound_layer

STORED = {"int8": "I8", "float8_e4m3fn": "F8_E4M3"}
"""quant_dtype -> what safetensors calls it."""


@dataclass(frozen=True)
class LmdeployW8A8:
    """The format."""

    name: str = "lmdeploy-w8a8"

    def opens(self, folder: Path) -> bool:
        """Whether config.json names the method."""
        return quant_method(folder) == "smooth_quant"

    def open(self, folder: Path) -> OpenFolder:
        """See `Format.open`."""
        checkpoint = open_checkpoint(folder)
        kind = str(checkpoint.config["quantization_config"].get("quant_dtype", "int8"))
        if kind not in STORED:
            what = f"its weights are {kind}, and {' and '.join(STORED)} are read"
            raise CheckpointError(what, where=str(folder / "config.json"), todo=REMEDY)
        tensors = checkpoint.tensors
        layers = [name.removesuffix(".scale") for name in tensors if name.endswith(".scale")]
        for name, tensor in tensors.items():
            if tensor.dtype == STORED[kind] and name.removesuffix(".weight") not in layers:
                raise CheckpointError(f"{name} is {kind}, but has no scale", where=str(tensor.shard), todo=REMEDY)
        if not layers:
            what = "config.json says that the weights are quantized, but there is no scale"
            raise CheckpointError(what, where=str(folder), todo=REMEDY)
        taken = {f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "scale", "bias")}
        left = [tensor for name, tensor in tensors.items() if name not in taken]
        dtype = named_dtype(checkpoint.config, left)
        parts: list[LayerPart | TensorPart] = [_part(layer, tensors, kind, dtype) for layer in layers]
        parts += map(TensorPart, left)
        config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
        return OpenFolder(folder, self.name, config, tuple(sorted(parts, key=lambda p: module_key(p.name))), dtype=dtype)

    def refusal(self, outline: Outline) -> str | None:
        """See `Format.refusal`."""
        weights, inputs = outline.weights, outline.inputs
        plain = (
            weights.strategy in ("channel", "tensor") and weights.symmetric and not weights.sparse and not weights.power_of_two
        )
        if weights.bits != 8 or weights.kind not in ("int", "float8") or not plain:
            return "lmdeploy's smooth_quant holds int8 or float8 by output channel, symmetric, and nothing else"
        if inputs is None or inputs.kind != weights.kind or (inputs.strategy, inputs.dynamic) != ("token", True):
            given = "in float" if inputs is None else "static" if not inputs.dynamic else f"{inputs.kind} by {inputs.strategy}"
            return f"its inputs are {given}, and lmdeploy's smooth_quant quantizes them by token while the model runs"
        return None

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """See `Format.refusal_of_cache`."""
        return f"its K/V cache is {cache.kind}, and lmdeploy quantizes one while it runs: leave kv_cache out"

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """See `Format.write`."""
        check_config(source)
        kinds = {part.outline.weights.kind: part.name for part in reversed(source.layers)}
        if len(kinds) > 1:
            what = "its weights are not of the kind of those before it, and lmdeploy has one quant_dtype a model"
            last = max(kinds.values(), key=[part.name for part in source.layers].index)
            raise OutputError(what, where=last, todo="give every layer one scheme")
        emission = Emission(
            tensors_of,
            {},
            part_bytes=part_bytes or PART_BYTES,
            metadata={"format": "pt"},
            light=lambda part: part.stored is not None,
        )
        _, files = emit(source, folder, emission)
        write_index(folder, files)
        kind = "float8_e4m3fn" if "float8" in kinds else "int8"
        body: dict[str, object] = {"quant_method": "smooth_quant", "quant_dtype": kind}
        if floats := [name for name in float_linears(source) if name.rpartition(".")[2] != "lm_head"]:
            body["modules_to_not_convert"] = floats
        write_config(folder, source.config, body)


def _part(layer: str, tensors: Mapping[str, Tensor], kind: str, dtype: str) -> LayerPart:
    weight, scale = tensors.get(f"{layer}.weight"), tensors[f"{layer}.scale"]
    if weight is None or weight.dtype != STORED[kind] or len(weight.shape) != 2 or not weight.elements:
        raise CheckpointError(f"{layer} has a scale, but no weight in {kind}", where=str(scale.shard), todo=REMEDY)
    need(scale, "F32", "F16", "BF16", shape=(weight.shape[0], 1))
    held = {"weight": weight, "scale": scale}
    if bias := tensors.get(f"{layer}.bias"):
        held["bias"] = bias
    name = "int" if kind == "int8" else "float8"
    outline = Outline(layer, Weights(name), Inputs(name, 8, "token", True), *weight.shape, "bias" in held)  # type: ignore[arg-type]
    load = functools.partial(_load, outline, held, dtype)
    return LayerPart(outline, load, functools.partial(load, False, light=True), weight)


def _load(outline: Outline, held: Mapping[str, Tensor], dtype: str, meta: bool, *, light: bool = False) -> QuantizedLayer:
    read = {leaf: read_tensor(tensor, meta=meta or (light and leaf == "weight")) for leaf, tensor in held.items()}
    layer = QuantizedLayer(
        outline.name, outline.weights, outline.inputs, read["weight"], read["scale"], bias=read.get("bias"), dtype=dtype
    )
    return sound_layer(layer, str(held["scale"].shard))


def tensors_of(layer: QuantizedLayer) -> Named:
    """The tensors of a layer; one scale for the whole tensor is repeated for every row."""
    if layer.scale is None:
        raise OutputError("its scales are not kept in the files it comes from", where=layer.name, todo="quantize it again")
    scale = layer.scale.float().reshape(-1, 1).expand(layer.codes.shape[0], 1).contiguous()
    held = {"weight": layer.codes, "scale": scale} | ({} if layer.bias is None else {"bias": layer.bias})
    return {f"{layer.name}.{leaf}": tensor for leaf, tensor in held.items()}
