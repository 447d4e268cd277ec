"""What a quantized layer takes on disk, as compressed-tensors stores it. No torch: shapes and arithmetic.

Source: compressed_tensors/compressors of 0.19.0: format.py for which format a scheme is stored in, the folders beside it for
the tensors of each, and quantization/lifecycle/initialize.py for the shapes and dtypes of scales.
"""

from __future__ import annotations

from math import ceil

from quantui.checkpoint.files import ITEM_BITS
from quantui.checkpoint.inspect import Linear
from quantui.recipe.schema import QuantArgs, QuantGroup
from quantui.recipe.shards import by_shard

FULL_FLOATS = ("F16", "BF16", "F32", "F64")
"""Dtypes of weights whose scales have the same dtype; scales of others are fp16."""


def item_bytes(dtype: str) -> int:
    """Bytes of one element by its safetensors name; 1 for a name nobody knows."""
    return ITEM_BITS.get(dtype, 8) // 8 or 1


def float_bytes(layer: Linear) -> int:
    """Stored size of a layer's weight as it is, in bytes."""
    return layer.parameters * ITEM_BITS.get(layer.dtype, 8) // 8


def quantized_bytes(layer: Linear, group: QuantGroup) -> int:
    """Stored size of one layer's weight in this group, in bytes: packed values, scales, zero points, activation scales."""
    scale = item_bytes(layer.dtype if layer.dtype in FULL_FLOATS else "F16")
    group = by_shard(group, layer.in_features)
    weight = float_bytes(layer) if group.weights is None else _weight_bytes(layer, group, group.weights, scale)
    dense = stored_format(group) == "dense"
    inputs = _activation_bytes(group.input_activations, layer.in_features, scale, dense)
    return weight + inputs + _activation_bytes(group.output_activations, layer.out_features, scale, dense)


def stored_format(group: QuantGroup) -> str:
    """The compressed-tensors format that a group's weights are stored in."""
    args = group.weights
    if group.format is not None or args is None:
        return group.format or "dense"
    if args.type == "float" and args.num_bits == 4:
        return "mxfp4-pack-quantized" if args.group_size == 32 else "nvfp4-pack-quantized"
    if args.type == "float" and args.group_size == 32 and args.scale_dtype == "torch.uint8":
        return "mxfp8-quantized"
    if args.type == "int":
        return "pack-quantized" if group.input_activations is None else "int-quantized"
    return "float-quantized" if group.input_activations is not None else "naive-quantized"


def _weight_bytes(layer: Linear, group: QuantGroup, args: QuantArgs, scale: int) -> int:
    kind, count = stored_format(group), _scales(args, layer)
    zero_points = 0 if args.symmetric else count
    if kind == "dense":
        return float_bytes(layer) + count * scale + count  # zero points are stored here even where they are all 0
    if kind == "pack-quantized":
        packed = layer.out_features * ceil(layer.in_features * args.num_bits / 32) * 4
        if not args.symmetric and args.strategy in ("group", "channel"):
            zero_points = ceil(layer.out_features * args.num_bits / 32) * (count // layer.out_features) * 4
        return packed + count * scale + zero_points + 16  # the shape, two int64
    if kind == "nvfp4-pack-quantized":
        return layer.parameters // 2 + count + zero_points + 4  # the float32 global scale
    if kind == "mxfp4-pack-quantized":
        return layer.parameters // 2 + count + zero_points
    if kind == "mxfp8-quantized":
        return layer.parameters + count + zero_points
    return layer.parameters + count * scale + zero_points


def _activation_bytes(args: QuantArgs | None, channels: int, scale: int, dense: bool) -> int:
    """What a static activation scheme adds to a layer."""
    if args is None or args.dynamic is True:
        return 0
    shared = 4 if args.strategy == "tensor_group" else 0  # the float32 global scale
    if args.dynamic == "local":
        return shared
    count = ceil(channels / args.group_size) if args.group_size else 1
    return shared + count * scale + (count if dense or not args.symmetric else 0)


def _scales(args: QuantArgs, layer: Linear) -> int:
    """How many scales the weight of a layer has."""
    if args.strategy == "channel":
        return layer.out_features
    if args.strategy in ("group", "tensor_group") and args.group_size:
        return layer.out_features * ceil(layer.in_features / args.group_size)
    if args.strategy == "block" and args.block_structure:
        rows, columns = args.block_structure
        return ceil(layer.out_features / rows) * ceil(layer.in_features / columns)
    return 1
