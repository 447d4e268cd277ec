"""Scales that move outliers of activations into the weights that read them: x / s for every channel, W * s beside it.

Source of the methods m1, m2, m4, m5 and m6: msModelSlim 26.1.0, pytorch/llm_ptq/anti_outlier, and runs of it. m1 is
SmoothQuant (Xiao et al., arXiv 2211.10438), m5 the mask of CBQ (Ding et al., arXiv 2312.07950).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-5
"""The least a scale may be."""
STEPS = 20
"""Steps in which an exponent is searched from 0 to 1."""
THRESHOLDS = 100
"""Thresholds among which m2 looks for its outlier channels."""

Loss = Callable[["Tensor"], float]
"""What quantization costs with these scales, (channels,)."""


def by_exponents(absmax: Tensor, weight_max: Tensor, alpha: float, beta: float) -> Tensor:
    """absmax^alpha / weight_max^beta, and 1 where either is 0; all (channels,)."""
    import torch

    made = (absmax.pow(alpha) / weight_max.pow(beta)).clamp(min=LEAST)
    return torch.where((absmax > 0) & (weight_max > 0), made, torch.ones_like(made))


def searched(absmax: Tensor, weight_max: Tensor, loss: Loss, alpha: float | None = None, beta: float | None = None) -> Tensor:
    """The exponents with the least loss (m6): alpha first, beside beta = 1 - alpha, and then beta; no scales where none helps.

    Args:
        alpha: fixes it.
        beta: fixes it.
    """
    import torch

    tried = [step / STEPS for step in range(STEPS + 1)]
    best, least = torch.ones_like(absmax), loss(torch.ones_like(absmax))
    chosen = alpha if alpha is not None else 0.5
    for value in tried if alpha is None else [alpha]:
        made = by_exponents(absmax, weight_max, value, 1 - value if beta is None else beta)
        if (cost := loss(made)) < least:
            best, least, chosen = made, cost, value
    for value in tried if beta is None else []:
        made = by_exponents(absmax, weight_max, chosen, value)
        if (cost := loss(made)) < least:
            best, least = made, cost
    return best


def outlier_subset(low: Tensor, high: Tensor, weight_max: Tensor, loss: Loss) -> Tensor:
    """Scales of the channels that spread furthest alone (m2), as many of them as make the least loss.

    Args:
        low: the smallest value of each channel.
        high: its largest.
        weight_max: the largest magnitude of the weights that read it.
    """
    import torch

    spread = (high - low) / 2
    full = by_exponents(spread, weight_max, 0.5, 0.5)
    ones = torch.ones_like(full)
    absmax = torch.maximum(low.abs(), high.abs())
    best, least = ones, loss(ones)
    everything = by_exponents(absmax, weight_max, 0.5, 0.5)
    if (cost := loss(everything)) < least:
        best, least = everything, cost
    levels = torch.linspace(0, 1, THRESHOLDS, device=spread.device, dtype=spread.dtype) * spread.amax()
    before = -1
    for level in levels:
        taken = spread > level
        if int(taken.sum()) in (before, 0):
            continue
        before = int(taken.sum())
        made = torch.where(taken, full, ones)
        if (cost := loss(made)) < least:
            best, least = made, cost
    return best


def masked(low: Tensor, high: Tensor, power: float = 0.7) -> Tensor:
    """Scales of outlier channels alone (m5): what they exceed the others by, to a power; 1 elsewhere."""
    import torch

    scale = torch.ones_like(high)
    for reach in (high.clamp(min=0), (-low).clamp(min=0)):
        limit = _inlier_limit(reach)
        outlier = reach > limit
        if limit > 0 and bool(outlier.any()):
            scale = torch.where(outlier, torch.maximum(scale, (reach / limit).pow(power)), scale)
    return scale


def _inlier_limit(reach: Tensor) -> float:
    """The largest magnitude that is no outlier: a coarse limit by quartiles, then the cut that separates best.

    The cut makes the outliers' own variance less the gap below them least.
    """
    import torch

    ordered = reach.cpu().double().sort().values  # where each step that hangs on a value waits for no device
    lower, upper = (float(torch.quantile(ordered, share)) for share in (0.2, 0.8))
    coarse = upper + 1.5 * (upper - lower)
    first = int(torch.searchsorted(ordered, torch.tensor(coarse, dtype=ordered.dtype), right=True))
    if first in (0, len(ordered)):
        return float(ordered[-1])
    gaps = ordered[first:] - ordered[first - 1 : -1]
    costs = [float(ordered[first + i :].var(correction=0) - gap.square()) for i, gap in enumerate(gaps)]
    cut = first + costs.index(min(costs))
    return float(ordered[cut - 1])


def shared_by_heads(scale: Tensor, values: int, head_size: int) -> tuple[Tensor, Tensor]:
    """Scales of a value projection, whose heads several query heads read: their mean, since one channel serves all of them.

    Args:
        scale: one for each input channel of the output projection, (query heads * head_size,).
        values: channels of the value projection, K/V heads * head_size.

    Returns:
        the scales of the value projection, (values,), and the same for the output projection, of the shape of `scale`.
    """
    heads = scale.reshape(values // head_size, -1, head_size)
    mean = heads.mean(1)
    return mean.flatten(), mean.unsqueeze(1).expand_as(heads).flatten()
