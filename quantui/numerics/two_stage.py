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
