"""AWQ: 4-bit weights by group as autoawq's GEMM, lmdeploy and vLLM read them, everything else in float16.

`qweight` (in, out / 8) and `qzeros` (in / group, out / 8) int32, `scales` (in / group, out) float16. W = (q - zero) * scale.
Source: lmdeploy 0.16.0, lmdeploy/lite/quantization/modules/linear.py; AutoAWQ 0.2.9, awq/modules/linear/gemm.py.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantui.checkpoint.files import Tensor, open_checkpoint
from quantui.errors import CheckpointError, OutputError
from quantui.formats.base import CacheOutline, CacheScales, LayerPart, OpenFolder, Outline, QuantizedLayer, TensorPart
from quantui.formats.integral import whole
from quantui.formats.model_files import PART_BYTES, check_config, float_linears, with_dtype, write_config, write_index
from quantui.formats.order import module_key
from quantui.formats.stream import Emission, Named, Words, emit
from quantui.formats.tensors import need, read_pieces, read_tensor
from quantui.numerics.pack import awq_codes, awq_pieces, awq_words, dense_pieces
from quantui.numerics.quantized import Weights
from quantui.numerics.sound import sound_layer

if TYPE_CHECKING:
    import torch

LEAVES = ("qweight", "qzeros", "scales", "bias")
GROUP = 128
"""The group size that a scale by channel is repeated for: the only one that all readers take."""
REMEDY = "quantize the model again, or correct config.json"


@dataclass(frozen=True)
class Awq:
    """The format."""

    name: str = "awq"

    def opens(self, folder: Path) -> bool:
        """Whether config.json names the method."""
        return quant_method(folder) == "awq"

    def open(self, folder: Path) -> OpenFolder:
        """See `Format.open`."""
        checkpoint = open_checkpoint(folder)
        body = checkpoint.config["quantization_config"]
        bits, version = body.get("bits", body.get("w_bit", 4)), str(body.get("version", "gemm")).lower()
        if bits != 4 or version != "gemm":
            what = f"its AWQ weights have {bits} bits in the layout {version!r}, and only 4 bits in gemm are read"
            raise CheckpointError(what, where=str(folder / "config.json"), todo="quantize the model again")
        group = body.get("group_size", body.get("q_group_size", GROUP))
        if type(group) is not int or not (group > 0 or group == -1):
            what = f"its group_size is {group!r}, which is no number of columns"
            raise CheckpointError(what, where=str(folder / "config.json"), todo=REMEDY)
        owned: dict[str, dict[str, Tensor]] = {}
        for key, tensor in checkpoint.tensors.items():
            layer, _, leaf = key.rpartition(".")
            owned.setdefault(layer, {})[leaf] = tensor
        layers = {layer: held for layer, held in owned.items() if not held.keys().isdisjoint(("qweight", "qzeros", "scales"))}
        if not layers:
            what = "config.json says that the weights are AWQ's, but no tensor is a qweight"
            raise CheckpointError(what, where=str(folder), todo=REMEDY)
        taken = {f"{layer}.{leaf}" for layer in layers for leaf in LEAVES}
        parts: list[LayerPart | TensorPart] = [_part(layer, held, group) for layer, held in layers.items()]
        parts += [TensorPart(tensor) for key, tensor in checkpoint.tensors.items() if key not in taken]
        config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
        return OpenFolder(folder, self.name, config, tuple(sorted(parts, key=lambda p: module_key(p.name))), dtype="float16")

    def refusal(self, outline: Outline) -> str | None:
        """See `Format.refusal`."""
        weights, shape = outline.weights, f"{outline.rows}x{outline.columns}"
        if outline.inputs is not None:
            return "its inputs are quantized, and AWQ leaves those in float: quantize weights only"
        if weights.kind != "int" or weights.bits != 4 or weights.two_stage or weights.strategy == "block":
            return f"its weight is {weights.kind}{weights.bits}, and AWQ holds int4 by group with one scale"
        if outline.name.rpartition(".")[2] == "lm_head":
            return "AWQ's readers take lm_head in float: leave it out"
        if outline.reordered:
            return "its columns are grouped out of their order (g_idx), which AWQ does not know"
        size = weights.group_size or GROUP
        if outline.rows % 8 or outline.columns % size:
            return f"AWQ packs 8 output rows and groups of {size} columns, which {shape} is no multiple of: leave it in float"
        return None

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """See `Format.refusal_of_cache`."""
        return f"its K/V cache is {cache.kind}, and AWQ has no scales for one: leave kv_cache out"

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """See `Format.write`."""
        check_config(source)
        size = _one_group_size(source)
        emission = Emission(
            functools.partial(tensors_of, size=size),
            {},
            float_dtype="float16",
            part_bytes=part_bytes or PART_BYTES,
            metadata={"format": "pt"},
            light=lambda part: part.words is not None,
            packed=_packed,
        )
        _, files = emit(source, folder, emission)
        write_index(folder, files)
        body = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": size, "zero_point": True}
        if floats := [name for name in float_linears(source) if name.rpartition(".")[2] != "lm_head"]:
            body["modules_to_not_convert"] = floats
        write_config(folder, with_dtype(source.config, "float16"), body)


def quant_method(folder: Path) -> str | None:
    """What config.json says the weights were quantized by; None where it says nothing."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["quantization_config"]["quant_method"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _part(layer: str, held: dict[str, Tensor], group: int) -> LayerPart:
    for leaf in ("qweight", "qzeros", "scales"):
        if leaf not in held:
            where = str(next(iter(held.values())).shard)
            raise CheckpointError(f"{layer} is AWQ's, but has no {leaf}", where=where, todo=REMEDY)
    need(held["qweight"], "I32")
    columns, words = held["qweight"].shape
    size = columns if group == -1 else group
    across, why = -(-columns // size), f"for groups of {size}"
    need(held["qzeros"], "I32", shape=(across, words), why=why)
    need(held["scales"], "F16", "BF16", "F32", shape=(across, words * 8), why=why)
    weights = Weights("int", 4, "group", size, symmetric=False)
    outline = Outline(layer, weights, None, words * 8, columns, "bias" in held)
    load = functools.partial(_load, outline, held)
    if columns % 8:
        return LayerPart(outline, load)
    light = functools.partial(load, False, light=True)
    return LayerPart(outline, load, light, words=functools.partial(_words, held["qweight"]))


def _load(outline: Outline, held: Mapping[str, Tensor], meta: bool, *, light: bool = False) -> QuantizedLayer:
    read = {leaf: read_tensor(held[leaf], meta=meta or (light and leaf == "qweight")) for leaf in LEAVES if leaf in held}
    layer = QuantizedLayer(
        outline.name,
        outline.weights,
        None,
        awq_codes(read["qweight"]),
        read["scales"].t().contiguous(),
        awq_codes(read["qzeros"]),
        bias=read.get("bias"),
        dtype="float16",
    )
    return sound_layer(layer, str(held["qweight"].shard))


def _words(tensor: Tensor, rows: int) -> Iterator[torch.Tensor]:
    """A qweight as `LayerPart.words`."""
    for read in read_pieces(tensor, math.prod(tensor.shape)):
        yield from dense_pieces(read.view(tensor.shape), rows)


def _packed(part: LayerPart, words: Words) -> Iterator[torch.Tensor]:
    """See `Emission.packed`."""
    for read in words(part.outline.rows):
        yield from awq_pieces(read.view(part.outline.rows, -1))


def _one_group_size(source: OpenFolder) -> int:
    """The group size of every layer: config.json has one for all.

    Raises:
        OutputError: a layer has another than those before it.
    """
    known: dict[int, str] = {}
    for part in source.layers:
        if part.outline.weights.group_size:
            known.setdefault(part.outline.weights.group_size, part.name)
    if len(known) > 1:
        (first, _), (second, name) = list(known.items())[:2]
        what = f"its groups have {second} columns, those of layers before it {first}, and AWQ has one size a model"
        raise OutputError(what, where=name, todo="give every layer one group size")
    size = next(iter(known), GROUP)
    for part in source.layers:
        if part.outline.columns % size:
            raise OutputError(
                f"groups of {size} do not divide its {part.outline.columns} columns", where=part.name, todo=REMEDY
            )
    return size


def tensors_of(layer: QuantizedLayer, *, size: int) -> Named:
    """The tensors of a layer; a scale by channel or tensor is repeated for every group of `size` columns."""
    import torch

    rows, columns = layer.codes.shape
    across = columns // size
    if layer.scale is None:
        raise OutputError("its scales are not kept in the files it comes from", where=layer.name, todo="quantize it again")
    scale = _two_dimensional(layer.scale).expand(rows, across)
    zero = scale.new_zeros(scale.shape, dtype=torch.int8)  # for zeros_like on the meta device torch imports sympy: 0.8 s
    if layer.zero is not None and not layer.weights.symmetric:
        zero = whole(layer.zero, layer.name, bits=4)
        zero = _two_dimensional(zero).expand(rows, across)
    held = {"qweight": awq_words(layer.codes), "qzeros": awq_words(zero), "scales": half(scale, layer.name).t().contiguous()}
    if layer.bias is not None:
        held["bias"] = half(layer.bias, layer.name)
    return {f"{layer.name}.{leaf}": tensor for leaf, tensor in held.items()}


def _two_dimensional(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(1, 1) if values.numel() == 1 else values.reshape(values.shape[0], -1)


def half(values: torch.Tensor, name: str) -> torch.Tensor:
    """Values in float16.

    Raises:
        OutputError: one of them becomes infinite, or 0 though it was not.
    """
    import torch

    made = values.to(torch.float16)
    if not values.is_meta and bool((made.isinf() | ((made == 0) & (values != 0))).any()):
        raise OutputError("its scales or bias lie outside what float16 can hold", where=name, todo="choose another format")
    return made
