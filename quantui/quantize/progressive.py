"""Static scales of activations as msModelSlim finds them: on a model that is quantized already while samples pass.

Every batch counts alike into the mean of extremes, and runs with the scales found so far, itself included, so that later
layers see the noise of earlier ones. Source: msModelSlim 26.1.0, llm_ptq_tools/quant_modules.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from quantui.numerics.minmax import absmax_scale, range_scale

OBSERVER = "msmodelslim"


def find_progressively(model: Any, batches: Iterable[dict[str, Any]]) -> int:
    """Sets the scales and zero points of every input with that observer; weights have theirs already.

    Args:
        model: quantized by the engine, not compressed.
        batches: inputs of the model, one after another.

    Returns:
        How many inputs there are; nothing is run where there are none.
    """
    watched = [module for module in model.modules() if _args(module) is not None]
    run_hooked(model, batches, [module.register_forward_pre_hook(partial(_look, [0.0, 0.0, 0])) for module in watched])
    return len(watched)


def run_hooked(model: Any, batches: Iterable[dict[str, Any]], handles: Sequence[Any]) -> None:
    """Runs the model on batches while hooks watch, and takes those away; nothing is run where there are none."""
    import torch

    try:
        with torch.no_grad():
            for batch in batches if handles else ():
                model(**{name: value.to(model.device) for name, value in batch.items()})
    finally:
        for handle in handles:
            handle.remove()


def _args(module: Any) -> Any:
    scheme = getattr(module, "quantization_scheme", None)
    args = scheme.input_activations if scheme is not None else None
    return args if args is not None and args.observer == OBSERVER and args.dynamic is False else None


def _look(means: list[Any], module: Any, inputs: tuple[Any, ...]) -> None:
    """Counts a batch in, before the layer quantizes it."""
    from compressed_tensors.utils import update_offload_parameter

    x, args = inputs[0], _args(module)
    means[2] += 1
    ranks = x.flatten(0, -2).unflatten(1, (-1, args.group_size or x.shape[-1]))
    for place, value in enumerate((ranks.amin((0, 2)), ranks.amax((0, 2)))):
        means[place] = means[place] + (value.float() - means[place]) / means[2]
    low, high = (value.to(x.dtype) for value in means[:2])
    if args.symmetric:
        scale, zero = absmax_scale(low, high, args.num_bits), None
    else:
        scale, zero = range_scale(low, high, args.num_bits)
        zero = zero.clamp(max=2 ** (args.num_bits - 1) - 1)  # as its observer does
    update_offload_parameter(module, "input_scale", scale)
    if zero is not None:
        update_offload_parameter(module, "input_zero_point", zero.to(module.input_zero_point.dtype))
