"""Scales of what tensor-parallel ranks send one another: of each rank's part of an output, and of their sum.

Both are symmetric int8 by output channel, from the largest magnitude that samples show on the quantized model; each batch runs
on with parts and sum rounded by the scales found so far. Source: msModelSlim 26.1.0, llm_ptq_tools/simulate_tp.py; how its
closed `quant_funcs.simulate_tp` rounds within a batch is not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from quantui.numerics.minmax import absmax_scale
from quantui.quantize.progressive import run_hooked
from quantui.recipe.shards import BITS_SENT, KNOB, SENT

if TYPE_CHECKING:
    from torch import Tensor

FOUND = "scales_sent"
"""The attribute of a Linear that holds the scales of parts, (ranks, out) or (1, out), and that of the sum, (out,)."""


def find_sent(model: Any, batches: Iterable[dict[str, Any]]) -> int:
    """Finds them for every layer whose recipe asks for them; each gets the attribute FOUND.

    Args:
        model: quantized by the engine, not compressed.
        batches: inputs of the model, one after another.

    Returns:
        How many layers there are; nothing is run where there are none.
    """
    watched = [module for module in model.modules() if SENT in knobs_of(module)]
    run_hooked(model, batches, [module.register_forward_hook(partial(_look, {})) for module in watched])
    return len(watched)


def knobs_of(module: Any) -> dict[str, Any]:
    """The knobs of the observer of a module's weights; none where they are not quantized."""
    args = getattr(getattr(module, "quantization_scheme", None), "weights", None)
    return dict(args.observer_kwargs or {}) if args is not None else {}


def _look(largest: dict[str, Tensor], module: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
    """What the layer gives where ranks share its input and send int8."""
    import torch

    knobs = knobs_of(module)
    parts = torch.stack(parts_of(module, inputs[0], knobs[KNOB]))  # (ranks, ..., out)
    tops = parts.abs().flatten(1, -2).amax(1)
    if knobs[SENT] == "all":
        tops = tops.amax(0, keepdim=True)
    reduce = _scale(largest, "reduce", tops)
    whole = _rounded(parts, reduce.reshape(-1, *(1,) * (output.ndim - 1), output.shape[-1])).sum(0)
    gather = _scale(largest, "gather", whole.abs().flatten(0, -2).amax(0))
    setattr(module, FOUND, (reduce, gather))
    return _rounded(whole, gather)


def parts_of(module: Any, x: Tensor, ranks: int) -> list[Tensor]:
    """What each rank has of a layer's output, (..., out), the bias with the first; without it they are of its columns alone."""
    made = []
    for rank, columns in enumerate(x.unflatten(-1, (ranks, -1)).unbind(-2)):
        own = x.new_zeros(x.shape)
        own.unflatten(-1, (ranks, -1))[..., rank, :] = columns
        part = module.forward(own)
        made.append(part if rank == 0 or module.bias is None else part - module.bias)
    return made


def _scale(largest: dict[str, Tensor], key: str, tops: Tensor) -> Tensor:
    import torch

    largest[key] = torch.maximum(largest[key], tops) if key in largest else tops
    return absmax_scale(largest[key], largest[key], BITS_SENT)


def _rounded(values: Tensor, scale: Tensor) -> Tensor:
    return (values / scale).round() * scale
