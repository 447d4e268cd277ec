"""Quantized layers made at random, and open folders of them that stand on no disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from quantui.checkpoint.files import read_header
from quantui.formats.base import LayerPart, OpenFolder, TensorPart
from quantui.numerics.quantized import TENSORS, CacheScales, Inputs, QuantizedLayer, Weights
from tests.formats.folders import CONFIG

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def random_layer(
    weights: Weights, inputs: Inputs | None, rows: int, columns: int, *, bias: bool = False, dtype: str = "float32",
    leaf: str = "self_attn.q_proj", layer: int = 0,
) -> QuantizedLayer:  # fmt: skip
    """A layer of this scheme with random codes and scales."""
    torch.manual_seed(rows * columns + layer)
    kind = DTYPES[dtype]
    across = columns // weights.group_size if weights.group_size else 1
    shape: tuple[int, ...] = (1,) if weights.strategy == "tensor" else (rows, across)
    if weights.kind == "nf4":
        shape = (rows * columns // (weights.group_size or 1),)
    elif weights.block:
        shape = (-(-rows // weights.block[0]), -(-columns // weights.block[1]))
    outer = (rows, 1) if weights.two_stage and weights.kind == "int" else shape
    scale = (torch.rand(outer) * 0.01 + 0.001).to(kind)
    nested = weights.two_stage and weights.kind == "float4"
    if nested:
        scale = (torch.rand(shape) * 100 + 1).to(torch.float8_e4m3fn)
    elif weights.power_of_two:
        scale = torch.exp2(torch.randint(-8, 0, shape).float())
    reach = 7 if weights.two_stage else 2 ** (weights.bits - 1)
    low, high = (0, 16) if weights.kind in ("nf4", "float4") else (-reach, reach)
    codes = torch.randint(low, high, (rows, columns)).to(torch.int8 if low else torch.uint8)
    zero = None if weights.symmetric else torch.randint(-reach, reach, shape).to(torch.int8)
    if zero is not None:
        zero.view(-1)[0] = 1
    if weights.kind == "float8":
        codes = torch.randn(rows, columns).to(torch.float8_e4m3fn)
    static = inputs is not None and inputs.dynamic is False
    return QuantizedLayer(
        f"model.layers.{layer}.{leaf}",
        weights,
        inputs,
        codes,
        scale,
        zero,
        second=torch.randint(1, 17, shape).to(kind) if weights.two_stage and weights.kind == "int" else None,
        divisor=torch.tensor([3000.0]) if nested else None,
        bias=torch.randn(rows).to(kind) if bias else None,
        input_scale=torch.tensor([0.02]).to(kind) if static else None,
        input_zero=torch.tensor([-5], dtype=torch.int8) if static and inputs is not None and not inputs.symmetric else None,
        dtype=dtype,
    )


def part_of(layer: QuantizedLayer) -> LayerPart:
    """The layer as one that is read when it is asked for."""

    def load(meta: bool) -> QuantizedLayer:
        if not meta:
            return layer
        held = {name: getattr(layer, name) for name in TENSORS}
        return dataclasses.replace(layer, **{name: tensor.to("meta") for name, tensor in held.items() if tensor is not None})

    return LayerPart(layer.outline, load)


def folder_of(
    layers: Sequence[QuantizedLayer], scratch: Path, caches: Sequence[CacheScales] = (), config: dict[str, Any] | None = None
) -> OpenFolder:
    """An open folder of these layers, an embedding and a norm, whose bytes are kept in a scratch folder."""
    scratch.mkdir(parents=True, exist_ok=True)
    dtype = DTYPES[layers[0].dtype]
    plain = {"model.embed_tokens.weight": torch.ones(32, 64, dtype=dtype), "model.norm.weight": torch.ones(64, dtype=dtype)}
    save_file(plain, str(scratch / "plain.safetensors"))
    tensors = read_header(scratch / "plain.safetensors")
    first, last = (TensorPart(tensors[name]) for name in plain)
    body = CONFIG | {"dtype": layers[0].dtype} if config is None else config
    return OpenFolder(scratch, "memory", body, (first, *map(part_of, layers), last), tuple(caches), layers[0].dtype)
