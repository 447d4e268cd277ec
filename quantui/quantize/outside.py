"""What the engine's own files cannot hold of a quantized model, kept beside them: two-stage and sparse weights, K/V scales,
inputs with a scale for each tensor-parallel rank, and scales of what ranks send one another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantui.numerics.layerfiles import save_cache, save_layer
from quantui.numerics.quantized import Inputs, QuantizedLayer, Weights
from quantui.quantize.sent import FOUND, knobs_of
from quantui.recipe.args import LEVELS_OBSERVER
from quantui.recipe.shards import KNOB

OUTSIDE = "is_kept_outside"
"""The attribute of a Linear that is quantized in a file of its own alone."""


def keep_outside(model: Any, folder: Path) -> int:
    """Writes such layers and scales into a folder, and gives two-stage layers the weights that they come back as.

    Args:
        model: quantized, its weights not compressed yet.

    Returns:
        How many layers and caches were written.
    """
    from quantui.quantize.modifiers.kv_cache import KEPT
    from quantui.quantize.modifiers.sparse import SPARSE

    count = 0
    for name, module in model.named_modules():
        if (cache := getattr(module, KEPT, None)) is not None:
            save_cache(folder, cache)
            count += 1
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is None or scheme.weights is None:
            continue
        made = None
        if hasattr(module, SPARSE):
            scheme.weights = scheme.weights.model_copy(update={"observer": None, "observer_kwargs": {}})  # it is no one else's
            made = _sparse(name, module, scheme)
        elif scheme.weights.observer == LEVELS_OBSERVER:
            made = _nf4(name, module, scheme)
        elif (scheme.weights.observer_kwargs or {}).get("stages") == 2:
            made = _two_stage(name, module, scheme)
        elif ((inputs := _inputs(scheme)) is not None and inputs.by_rank) or hasattr(module, FOUND):
            made = _dealt(name, module, scheme, inputs)
        if made is not None:
            save_layer(folder, made)
            count += 1
    return count


def _sparse(name: str, module: Any, scheme: Any) -> QuantizedLayer:
    import torch

    weight, scale = module.weight.detach(), module.weight_scale.detach()
    codes = (weight / scale).round().clamp(-128, 127).to(torch.int8)
    return QuantizedLayer(
        name, Weights(sparse=True), _inputs(scheme), codes.cpu(), scale.cpu(), **_rest(module), dtype=_dtype(weight)
    )


def _nf4(name: str, module: Any, scheme: Any) -> QuantizedLayer:
    """NF4 codes; the module goes on without a scheme, in float, with what they come back as."""
    from compressed_tensors.utils import update_offload_parameter

    from quantui.numerics.nf4 import round_weight

    weight, size = module.weight.detach(), scheme.weights.group_size
    codes, absmax = (part.cpu() for part in round_weight(weight, size))
    layer = QuantizedLayer(name, Weights("nf4", 4, "group", size), None, codes, absmax, **_rest(module), dtype=_dtype(weight))
    update_offload_parameter(module, "weight", layer.dequantize(weight.dtype).to(weight.device))
    for attribute in ("weight_scale", "weight_zero_point", "quantization_scheme", "quantization_status"):
        if hasattr(module, attribute):
            delattr(module, attribute)
    setattr(module, OUTSIDE, True)
    return layer


def _two_stage(name: str, module: Any, scheme: Any) -> QuantizedLayer:
    from compressed_tensors.utils import update_offload_parameter

    from quantui.numerics.two_stage import round_weight

    size = scheme.weights.group_size
    weight = module.weight.detach()
    found = round_weight(weight, size)
    update_offload_parameter(module, "weight", found.dequantized().to(weight.dtype))
    weights = Weights(bits=4, strategy="group", group_size=size, two_stage=True)
    codes, scale, second = (part.cpu() for part in found)
    return QuantizedLayer(name, weights, _inputs(scheme), codes, scale, second=second, **_rest(module), dtype=_dtype(weight))


def _dealt(name: str, module: Any, scheme: Any, inputs: Inputs | None) -> QuantizedLayer:
    """A layer with scales for each rank; the module goes on with one of a static input over the ranges of all."""
    from torch.nn import Parameter

    from quantui.numerics.minmax import codes_of, joint_scale

    args, weight, scale = scheme.weights, module.weight.detach(), module.weight_scale.detach()
    zero = None if args.symmetric else module.weight_zero_point.detach()
    ranks = knobs_of(module)[KNOB]
    weights = Weights(bits=args.num_bits, strategy="group", group_size=args.group_size, symmetric=args.symmetric, ranks=ranks)
    codes = codes_of(weight, scale, zero, args.num_bits, args.group_size)
    reduce, gather = getattr(module, FOUND, (None, None))
    layer = QuantizedLayer(
        name, weights, inputs, codes.cpu(), scale.cpu(), None if zero is None else zero.cpu(), **_rest(module),
        reduce_scale=reduce, gather_scale=gather, dtype=_dtype(weight),
    )  # fmt: skip
    if inputs is None or not inputs.by_rank:
        return layer
    one = joint_scale(module.input_scale.detach(), getattr(module, "input_zero_point", None), inputs.bits)
    for leaf, value in zip(("input_scale", "input_zero_point"), one, strict=True):
        if value is not None:
            delattr(module, leaf)  # it has another shape
            module.register_parameter(leaf, Parameter(value.detach(), requires_grad=False))
    plain = scheme.input_activations.model_copy(update={"strategy": "tensor", "group_size": None})
    module.quantization_scheme = scheme.model_copy(update={"input_activations": plain})
    return layer


def _inputs(scheme: Any) -> Inputs | None:
    args = scheme.input_activations
    if args is None:
        return None
    dynamic: Any = args.dynamic if isinstance(args.dynamic, bool) else "local"
    kind: Any = "int" if args.type == "int" else f"float{args.num_bits}"
    return Inputs(kind, args.num_bits, getattr(args.strategy, "value", args.strategy), dynamic, args.symmetric, args.group_size)


def _rest(module: Any) -> dict[str, Any]:
    """Bias and static input scales of a module, as fields of a layer."""
    named = {"bias": "bias", "input_scale": "input_scale", "input_zero": "input_zero_point"}
    found = {field: getattr(module, name, None) for field, name in named.items()}
    return {field: value.detach().cpu() for field, value in found.items() if value is not None}


def _dtype(weight: Any) -> str:
    return str(weight.dtype).removeprefix("torch.")
