"""Which modules are Linears: torch's own, and the Conv1D that GPT-2 and its kin use in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def is_linear(module: Any) -> bool:
    """Whether a module multiplies its input's last axis with one weight of two axes."""
    import torch

    return isinstance(module, torch.nn.Linear) or _is_conv1d(module)


def weight_of(module: Any) -> Tensor:
    """The weight of a Linear as (out, in), a view of the module's own."""
    weight: Tensor = module.weight.detach()
    return weight.T if _is_conv1d(module) else weight


def _is_conv1d(module: Any) -> bool:
    """Source: transformers/pytorch_utils.py, class Conv1D, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and getattr(module.weight, "ndim", 0) == 2
