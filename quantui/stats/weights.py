"""The weights of every Linear, one at a time: ranges by output channel, and what each common scheme does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from quantui.errors import ResultError
from quantui.numerics.weights import SCHEMES, losses
from quantui.stats.build import Weights
from quantui.stats.experts import expert_weights, is_fused
from quantui.stats.linears import is_linear, weight_of
from quantui.stats.table import Array

if TYPE_CHECKING:
    from torch import Tensor


class LookedAt(NamedTuple):
    """One weight.

    Attributes:
        low, high: (out,) float32.
        errors: (schemes,) float32, |W - Q(W)|^2 / |W|^2.
        roots: (schemes, out) float16, |w - Q(w)| / |w| of every output channel.
    """

    low: Array
    high: Array
    errors: Array
    roots: Array


def weights_of(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, weight (out, in)) of every Linear, experts that are kept stacked among them."""
    for name, module in model.named_modules():
        if is_linear(module):
            yield name, weight_of(module)
        elif is_fused(module):
            yield from ((part, weight.detach()) for part, weight in expert_weights(name, module))


def look_at_weights(model: Any, told: Callable[[int, int], None] = lambda _done, _total: None) -> dict[str, LookedAt]:
    """Everything of the weights, by name.

    Args:
        told: called with Linears done and their number.

    Raises:
        ResultError: a weight is NaN or infinite.
    """
    import torch

    found = {}
    total = sum(1 for _ in weights_of(model))
    with torch.no_grad():
        for number, (name, weight) in enumerate(weights_of(model)):
            low, high = weight.amin(1).float().cpu().numpy(), weight.amax(1).float().cpu().numpy()
            if len(bad := np.flatnonzero(~np.isfinite(low + high))):
                todo = "quantization would spread it over everything that shares its scale: get the checkpoint again"
                raise ResultError(f"the weight of {name} is NaN or infinite in output channel {bad[0]}", where=name, todo=todo)
            lost, energy = losses(weight)
            rows = (lost / energy.clamp(min=torch.finfo(energy.dtype).tiny)).nan_to_num(0.0, 0.0, 0.0)
            whole = (lost.sum(1) / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny)).nan_to_num(0.0, 0.0, 0.0)
            roots = rows.sqrt().clamp_(max=1.0).to(torch.float16)  # the root keeps float16 far from its smallest numbers
            found[name] = LookedAt(low, high, whole.float().cpu().numpy(), roots.cpu().numpy())
            told(number + 1, total)
    return found


def joined(found: dict[str, LookedAt], order: list[str]) -> Weights:
    """The arrays of a table, Linears in the order given."""
    empty = np.zeros(0, np.float32)
    count = len(SCHEMES)
    return Weights(
        schemes=tuple(SCHEMES),
        low=np.concatenate([found[name].low for name in order] or [empty]),
        high=np.concatenate([found[name].high for name in order] or [empty]),
        errors=np.stack([found[name].errors for name in order]) if order else np.zeros((0, count), np.float32),
        roots=np.concatenate([found[name].roots for name in order] or [np.zeros((count, 0), np.float16)], axis=1),
    )
