"""Weights in two stages (W4A8_DYNAMIC): int8 by output channel, those by group to int4 with integral scales of their own.

W = codes * second * scale. Source: msModelSlim 26.1.0, llm_ptq_tools/save/complex_quantifier.py, and runs of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from quantui.numerics.minmax import EPSILON

if TYPE_CHECKING:
    from torch import Tensor

FIRST_LIMIT = 119
"""Largest code of the first stage: 7 * 17, so that the second scale of the largest group is 17 and int4 reaches it."""
SLICES = 16
"""In how many slices of input channels the correction of layers that tensor parallelism cuts there is given."""


class TwoStage(NamedTuple):
    """A weight (out, in) in two stages.

    Attributes:
        codes: int8 holding -7..7, (out, in).
        scale: of the first stage, (out, 1), in the weight's dtype.
        second: of the second stage, integral, (out, in / size), in the weight's dtype.
    """

    codes: Tensor
    scale: Tensor
    second: Tensor

    def dequantized(self) -> Tensor:
        """The weight as it comes back, (out, in), in the scale's dtype."""
        view = self.codes.unflatten(1, (self.second.shape[1], -1)).to(self.scale.dtype)
        return (view * self.second.unsqueeze(-1) * self.scale.unsqueeze(-1)).flatten(1)


def round_weight(weight: Tensor, size: int) -> TwoStage:
    """A weight (out, in) rounded in two stages, the second by groups of `size` input channels."""
    import torch

    scale = (weight.abs().amax(1, keepdim=True) / FIRST_LIMIT).clamp(min=EPSILON)
    first = (weight / scale).round().unflatten(1, (-1, size))
    second = (first.abs().amax(-1) / 7).round().clamp(min=1)  # a group of zeros has no scale of its own
    codes = (first / second.unsqueeze(-1)).round().clamp(-8, 7)
    return TwoStage(codes.flatten(1).to(torch.int8), scale, second)


def scale_bias(rounded: TwoStage, *, sliced: bool) -> Tensor:
    """What a kernel that multiplies codes as 0..15 has to take off: 8 times the row sums of the dequantized weight.

    Args:
        sliced: for layers whose input channels tensor parallelism cuts (o_proj, down_proj): one sum a slice.

    Returns:
        float32, (out, 1), or (out, 16) where sliced.
    """
    import torch

    second, scale = (part.to(torch.bfloat16).float() for part in (rounded.second, rounded.scale))
    view = rounded.codes.unflatten(1, (second.shape[1], -1)).float() * second.unsqueeze(-1) * scale.unsqueeze(-1)
    rows = view.flatten(1)
    return 8 * (rows.unflatten(1, (SLICES, -1)).sum(-1) if sliced else rows.sum(1, keepdim=True))
