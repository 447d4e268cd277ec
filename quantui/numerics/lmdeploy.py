"""Weights as `lmdeploy lite auto_awq` prepares and rounds them.

Source: lmdeploy 0.16.0 (1263d5cd8), lite/quantization/awq.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

LEAST = 1e-4
"""The least a scale of an input channel may be."""


def group_scale(low: Tensor, high: Tensor, bits: int = 4) -> tuple[Tensor, Tensor]:
    """Scale and zero point of unsigned codes 0 .. 2^bits-1 over a range that 0 is counted into.

    lmdeploy does not count 0 in, so that a group of values of one sign far from 0 comes back as something else there.

    Args:
        low: smallest values of groups, any shape.
        high: largest values, the same shape.

    Returns:
        scale and integral zero point, each of that shape and dtype; x = (code - zero) * scale.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low).clamp(min=1e-5) / (2**bits - 1)
    return scale, (-(low / scale).round()).clamp(0, 2**bits - 1)


def weight_share(weights: Tensor, size: int) -> Tensor:
    """How large the weights of each input channel are within their groups, on average: (in,).

    Args:
        weights: of all Linears that read the channels, (rows, in).
        size: of a group; -1 for the whole row.
    """
    view = weights.abs().unflatten(1, (-1, size if size > 0 else weights.shape[1]))
    largest = view.amax(-1, keepdim=True)
    if not bool(largest.all()):
        largest = largest.clamp(min=LEAST)
    return (view / largest).flatten(1).mean(0)


def channel_scale(activations: Tensor, weights: Tensor, size: int, ratio: float = 0.5) -> Tensor:
    """Scales that input channels are multiplied by before rounding: (in,), around 1.

    Args:
        activations: their absmax (or, with a searched ratio, their mean magnitude) by channel, (in,).
        weights: of all Linears that read them, (rows, in).
        size: of a group of weights; -1 for the whole row.
        ratio: how much goes by activations rather than weights.
    """
    share = weight_share(weights, size)
    made = (activations.pow(ratio) / share.pow(1 - ratio)).clamp(min=LEAST)
    return made / (made.amax() * made.amin()).sqrt()
