"""The weights of every Linear, one at a time: ranges by output channel, and what each common scheme does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from quantui.numerics.weights import SCHEMES, errors
from quantui.stats.build import Weights
from quantui.stats.experts import expert_weights, is_fused

if TYPE_CHECKING:
    from torch import Tensor


def weights_of(model: Any) -> Iterator[tuple[str, Tensor]]:
    """(name, weight (out, in)) of every Linear, experts that are kept stacked among them."""
    import torch

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            yield name, module.weight.detach()
        elif is_fused(module):
            yield from ((part, weight.detach()) for part, weight in expert_weights(name, module))


def look_at_weights(model: Any, told: Callable[[int, int], None] = lambda _done, _total: None) -> dict[str, Any]:
    """Everything of the weights.

    Args:
        told: called with Linears done and their number.

    Returns:
        by name (low (out,), high (out,), errors (schemes,)) as numpy float32.
    """
    import torch

    found = {}
    total = sum(1 for _ in weights_of(model))
    with torch.no_grad():
        for number, (name, weight) in enumerate(weights_of(model)):
            low, high = weight.amin(1).float().cpu().numpy(), weight.amax(1).float().cpu().numpy()
            found[name] = low, high, np.array(list(errors(weight).values()), np.float32)
            told(number + 1, total)
    return found


def joined(found: dict[str, Any], order: list[str]) -> Weights:
    """The arrays of a table, Linears in the order given."""
    empty = np.zeros(0, np.float32)
    return Weights(
        schemes=tuple(SCHEMES),
        low=np.concatenate([found[name][0] for name in order] or [empty]),
        high=np.concatenate([found[name][1] for name in order] or [empty]),
        errors=np.stack([found[name][2] for name in order]) if order else np.zeros((0, len(SCHEMES)), np.float32),
    )
