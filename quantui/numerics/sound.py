"""Whether a quantized layer or K/V cache that was read from files is one: tensors of the shapes and kinds that its scheme has,
holding finite numbers. What is wrong would else come out as other weights, or as an error from deep within torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from quantui.errors import CheckpointError
from quantui.numerics.quantized import TENSORS, CacheScales, QuantizedLayer

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

FLOATS = ("float32", "float16", "bfloat16", "float64")
WHOLE = ("int8", "int32", "int64")
CODES = {"int": ("int8",), "float8": ("float8_e4m3fn",), "float4": ("uint8",), "nf4": ("uint8",)}
KINDS = {
    "scale": (*FLOATS, "float8_e4m3fn"), "zero": (*WHOLE, *FLOATS), "input_zero": (*WHOLE, *FLOATS), "quant_bias": ("int32",),
    "group_index": WHOLE,
}  # fmt: skip
"""The dtypes a tensor of a layer may have; where nothing is said, it is a float."""
ONE: tuple[Shape, ...] = ((1,), (), (1, 1))
REMEDY = "copy the files again, or quantize the model again"


def sound_layer(layer: QuantizedLayer, where: str) -> QuantizedLayer:
    """The layer itself, on the meta device too, where there are no values to look at.

    Args:
        where: the file it comes from.

    Raises:
        CheckpointError: a tensor is missing or of another shape or dtype than the scheme has, or holds what is no number.
    """
    kinds = CODES[layer.weights.kind]
    if layer.codes.ndim != 2 or _kind(layer.codes) not in kinds:
        raise _unfit(layer.name, "codes", layer.codes, f"{kinds[0]} of two dimensions", where)
    if layer.weights.kind == "float8" and not layer.codes.is_meta and _has_nan(layer.codes):
        raise CheckpointError(f"{layer.name} has codes that are no numbers", where=where, todo=REMEDY)
    shapes = _shapes(layer)
    for field in TENSORS[1:]:
        tensor: Tensor | None = getattr(layer, field)
        if tensor is not None:
            _check(layer.name, field, tensor, shapes[field], KINDS.get(field, FLOATS), where)
    for field in _needed(layer):
        if getattr(layer, field) is None:
            raise CheckpointError(f"{layer.name} has no {_word(field)}, which its scheme needs", where=where, todo=REMEDY)
    return layer


def sound_cache(cache: CacheScales, where: str) -> CacheScales:
    """The scales of a K/V cache themselves; see `sound_layer`."""
    for field in ("key_scale", "value_scale"):
        scale: Tensor = getattr(cache, field)
        count = 1 if cache.strategy == "tensor" and field == "key_scale" else max(scale.numel(), 1)
        _check(cache.name, field, scale, ((count,),), FLOATS, where)
        if bool((scale <= 0).any()):
            raise CheckpointError(f"{cache.name} has a {_word(field)} that is not positive", where=where, todo=REMEDY)
        zero: Tensor | None = getattr(cache, field.replace("scale", "zero"))
        if zero is not None:
            _check(cache.name, field.replace("scale", "zero"), zero, (tuple(scale.shape),), (*WHOLE, *FLOATS), where)
    return cache


def _shapes(layer: QuantizedLayer) -> dict[str, tuple[Shape, ...]]:
    """The shapes that each tensor of a layer may have, the plainest first."""
    weights, (rows, columns) = layer.weights, layer.codes.shape
    across = -(-columns // (weights.group_size or max(columns, 1)))
    by_row: tuple[Shape, ...] = ((rows, 1), (rows,))
    scale: tuple[Shape, ...] = ((rows, across), *(by_row if across == 1 else ()))
    if weights.kind == "nf4":
        scale = ((-(-rows * columns // (weights.group_size or 1)),),)
    elif weights.block:
        scale = ((-(-rows // weights.block[0]), -(-columns // weights.block[1])),)
    elif weights.strategy == "tensor":
        scale = ONE
    elif weights.two_stage and weights.kind == "int":
        scale = by_row[:1]
    elif weights.strategy == "channel":
        scale = by_row
    ranks = columns // (layer.inputs.group_size or columns) if layer.inputs is not None and layer.inputs.by_rank else 1
    one = ONE if ranks == 1 else ((ranks,), (1,))
    return {
        "scale": scale, "zero": scale, "second": ((rows, across),), "divisor": ONE, "group_index": ((columns,),),
        "bias": ((rows,),), "input_scale": one, "input_zero": one, "input_divisor": ONE, "quant_bias": ((rows,),),
        "deq_scale": ((rows,), *(ONE if scale is ONE else ())), "reduce_scale": ((weights.ranks, rows), (1, rows)),
        "gather_scale": ((rows,),),
    }  # fmt: skip


def _needed(layer: QuantizedLayer) -> Iterator[str]:
    weights, inputs = layer.weights, layer.inputs
    if not weights.symmetric:
        yield "zero"
    if weights.two_stage:
        yield "second" if weights.kind == "int" else "divisor"
    if inputs is not None and inputs.dynamic is not True:
        yield "input_scale" if inputs.dynamic is False else "input_divisor"
        if not inputs.symmetric:
            yield "input_zero"


def _check(name: str, field: str, tensor: Tensor, shapes: tuple[Shape, ...], kinds: tuple[str, ...], where: str) -> None:
    if tuple(tensor.shape) not in shapes or _kind(tensor) not in kinds:
        raise _unfit(name, field, tensor, f"{kinds[0]} {shapes[0]}", where)
    if not tensor.is_meta and tensor.is_floating_point() and not bool(tensor.float().isfinite().all()):
        what = f"{name} has a {_word(field)} that holds what is no finite number"
        raise CheckpointError(what, where=where, todo=REMEDY)


def _unfit(name: str, field: str, tensor: Tensor, wanted: str, where: str) -> CheckpointError:
    what = f"the {_word(field)} of {name} is {_kind(tensor)} {tuple(tensor.shape)}, where {wanted} belongs"
    return CheckpointError(what, where=where, todo=REMEDY)


def _has_nan(codes: Tensor) -> bool:
    import torch

    return bool((codes.view(torch.uint8).bitwise_and(0x7F) == 0x7F).any())  # of e4m3fn, which has no infinity


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _word(field: str) -> str:
    return field.replace("_", " ")
