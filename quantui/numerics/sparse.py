"""Sparse weights (W8A8S): a body of 4-bit codes beside which a few large weights keep int8 codes on the same scale.

Source: what msModelSlim 26.1.0 writes for is_lowbit; its own code for it is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantui.numerics.minmax import EPSILON, Rounded

if TYPE_CHECKING:
    from torch import Tensor

BODY = 7
"""Largest code of a weight that is not an outlier."""


def bounds_by_fraction(rows: Tensor, fraction: float) -> Tensor:
    """The largest magnitude of each row (rows, values) that is no outlier, where a fraction of them are: (rows, 1)."""
    count = max(int(fraction * rows.shape[1]), 1)
    return rows.abs().topk(count, dim=1).values[:, -1:]


def bounds_by_sigma(rows: Tensor, sigma: float) -> Tensor:
    """The same where outliers lie beyond so many standard deviations: (rows, 1)."""
    magnitude = rows.abs()
    inside = magnitude <= sigma * magnitude.float().std(1, keepdim=True).to(rows.dtype)
    return magnitude.where(inside, magnitude.new_zeros(())).amax(1, keepdim=True)


def round_weight(weight: Tensor, fraction: float = 0.01, sigma: float | None = None) -> Rounded:
    """A weight (out, in) with a scale an output channel; codes of outliers exceed 7 and saturate at int8."""
    import torch

    bound = bounds_by_fraction(weight, fraction) if sigma is None else bounds_by_sigma(weight, sigma)
    scale = (bound / BODY).clamp(min=EPSILON)
    codes = (weight / scale).round().clamp(-128, 127)
    return Rounded(codes.to(torch.int8), scale, torch.zeros_like(scale))
