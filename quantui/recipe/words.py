"""A scheme in words, as a layer table shows it."""

from __future__ import annotations

from quantui.recipe.args import LEVELS_OBSERVER
from quantui.recipe.schema import QuantArgs, QuantGroup
from quantui.recipe.shards import shards_of

FLOAT = "float"


def scheme_words(group: QuantGroup | None) -> str:
    """How the layers of a group are quantized: "W8A8 int8 static", "W4A16 int4 group 128 asymmetric", "float"."""
    if group is None or not group.quantizes:
        return FLOAT
    weights, inputs = group.weights, group.input_activations
    if weights is None:
        return f"A{_bits(inputs or group.output_activations)} activations only"
    parts = [f"W{weights.num_bits}A{_bits(inputs)}", _type(weights), *_shape(weights)]
    if shards := shards_of(weights):
        parts.append(f"{shards} ranks")
    if not weights.symmetric:
        parts.append("asymmetric")
    if inputs is not None:
        parts.append("static" if inputs.dynamic is False else "dynamic")
    return " ".join(part for part in parts if part)


def cache_words(args: QuantArgs | None) -> str:
    """How a K/V cache is quantized: "int8 per head static asymmetric"."""
    if args is None:
        return FLOAT
    shape = {"attn_head": "per head", "tensor": "per tensor", "token": "per token", "channel": "per channel"}[args.strategy]
    parts = [_type(args), shape, "dynamic" if args.dynamic else "static", "" if args.symmetric else "asymmetric"]
    return " ".join(part for part in parts if part)


def _bits(args: QuantArgs | None) -> int:
    return 16 if args is None else args.num_bits


def _type(args: QuantArgs) -> str:
    if args.observer == LEVELS_OBSERVER:
        return "nf4"
    if args.strategy == "tensor_group":
        return "nvfp4"
    if args.scale_dtype == "torch.uint8":
        return f"mxfp{args.num_bits}"
    return f"{'int' if args.type == 'int' else 'fp'}{args.num_bits}"


def _shape(args: QuantArgs) -> list[str]:
    if args.strategy == "group" and args.scale_dtype is None:
        return ["group", str(args.group_size)]
    if args.strategy == "block" and args.block_structure:
        return ["block", "x".join(map(str, args.block_structure))]
    return ["per tensor"] if args.strategy == "tensor" and args.type == "int" else []
