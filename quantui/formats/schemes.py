"""Between the arguments of compressed-tensors and the two halves of a scheme here, and the words for them. No torch."""

from __future__ import annotations

from typing import Any

from quantui.numerics.quantized import Inputs, Outline, Weights
from quantui.recipe.schema import QuantArgs
from quantui.recipe.shards import KNOB, shards_of

_KINDS = {("int", 8): "int", ("float", 8): "float8", ("float", 4): "float4"}
UINT8, FLOAT8 = "torch.uint8", "torch.float8_e4m3fn"


def weights_of(args: QuantArgs) -> Weights:
    """The scheme of a weight."""
    nested = args.strategy == "tensor_group"
    return Weights(
        kind=_KINDS.get((args.type, args.num_bits), "int"),  # type: ignore[arg-type]
        bits=args.num_bits,
        strategy="group" if nested else args.strategy,  # type: ignore[arg-type]
        group_size=args.group_size,
        symmetric=args.symmetric,
        block=args.block_structure,
        two_stage=nested,
        power_of_two=args.scale_dtype == UINT8,
        ranks=max(shards_of(args), 0),
    )


def inputs_of(args: QuantArgs | None) -> Inputs | None:
    """The scheme of an input."""
    if args is None:
        return None
    kind = _KINDS.get((args.type, args.num_bits), "int")
    return Inputs(kind, args.num_bits, args.strategy, args.dynamic, args.symmetric, args.group_size)  # type: ignore[arg-type]


def weight_args(weights: Weights) -> dict[str, Any]:
    """A scheme of a weight as compressed-tensors writes it; of W4A8_DYNAMIC's two scales their product is meant."""
    nested = weights.two_stage and weights.kind == "float4"
    strategy = "tensor_group" if nested else "group" if weights.two_stage else weights.strategy
    scale = FLOAT8 if nested else UINT8 if weights.power_of_two else None
    made = _args(weights, strategy, weights.group_size, observer="memoryless_minmax", scale_dtype=scale)
    knobs = {KNOB: weights.ranks} if weights.ranks else {}
    return made | {"block_structure": list(weights.block) if weights.block else None, "observer_kwargs": knobs}


def input_args(inputs: Inputs | None) -> dict[str, Any] | None:
    """A scheme of an input as compressed-tensors writes it."""
    if inputs is None:
        return None
    float4 = inputs.kind == "float4"
    scale = FLOAT8 if float4 and inputs.group_size == 16 else UINT8 if inputs.group_size == 32 else None
    observer = None if inputs.dynamic is True else "static_minmax"
    return _args(inputs, inputs.strategy, inputs.group_size, observer=observer, scale_dtype=scale) | {"dynamic": inputs.dynamic}


def _args(
    held: Weights | Inputs, strategy: str, group: int | None, *, observer: str | None, scale_dtype: Any
) -> dict[str, Any]:
    return {
        "actorder": None,
        "block_structure": None,
        "dynamic": False,
        "group_size": group if strategy in ("group", "tensor_group") else None,
        "num_bits": held.bits,
        "observer": observer,
        "observer_kwargs": {},
        "scale_dtype": scale_dtype,
        "strategy": strategy,
        "symmetric": held.symmetric,
        "type": "int" if held.kind == "int" else "float",
        "zp_dtype": None if held.symmetric else "torch.int8",
    }


def words_of(outline: Outline) -> str:
    """The scheme of a layer in words: "int4 by groups of 128, asymmetric, with dynamic int8 inputs"."""
    weights, inputs = outline.weights, outline.inputs
    if weights.sparse:
        return "sparse W8A8S"
    kind = {"int": f"int{weights.bits}", "float8": "float8", "float4": "float4", "nf4": "NF4"}[weights.kind]
    scope = f"by groups of {weights.group_size}" if weights.group_size else f"by {weights.strategy}"
    words = [f"{kind} {scope}"]
    if weights.kind == "int":
        words.append("symmetric" if weights.symmetric else "asymmetric")
    if weights.two_stage:
        words.append("scales in two stages")
    if inputs is not None:
        moment = "dynamic" if inputs.dynamic else "static"
        side = "" if inputs.symmetric else "asymmetric "
        words.append(f"with {moment} {side}{inputs.kind if inputs.kind != 'int' else f'int{inputs.bits}'} inputs")
    return ", ".join(words)
