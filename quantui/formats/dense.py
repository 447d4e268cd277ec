"""Codes of a weight that is stored in float beside its scales.

Source: compressed_tensors/quantization/lifecycle/forward_helpers.py of 0.19.0, `_quantize`; in float32, where that computes in
the weight's own dtype, in which a quotient of 8 bits may miss the code that a bfloat16 weight was made from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantui.numerics.quantized import Weights, spread

if TYPE_CHECKING:
    import torch

FP4_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
"""The borders between magnitudes of float4."""


def codes_of(weight: torch.Tensor, weights: Weights, scale: Any, zero: Any, divisor: Any) -> torch.Tensor:
    """A weight (out, in) as codes."""
    import torch

    scale = scale.float() if divisor is None else scale.float() / divisor
    scaled = weight.float() / spread(scale, weights, weight.shape)
    if zero is not None and not weights.symmetric:
        scaled = scaled + spread(zero, weights, weight.shape)
    if weights.kind == "float8":
        return scaled.clamp(-448.0, 448.0).to(torch.float8_e4m3fn)
    if weights.kind == "int":
        lowest, highest = -(2 ** (weights.bits - 1)), 2 ** (weights.bits - 1) - 1
        return scaled.clamp(lowest, highest).round().to(torch.int8)
    return float4_codes(scaled)


def float4_codes(values: torch.Tensor) -> torch.Tensor:
    """Values as codes of float4 e2m1, ties to the even code; uint8 in 0..15.

    Source: OCP Microscaling Formats v1.0, section 5.3.3; round to nearest, ties to even.
    """
    import torch

    size = values.abs()
    codes = torch.zeros_like(size, dtype=torch.uint8)
    for number, middle in enumerate(FP4_MIDDLES):
        # a tie goes to the even code: from code `number` to `number + 1` only if the latter is even
        codes += (size > middle) if number % 2 == 0 else (size >= middle)
    return codes | (torch.signbit(values).to(torch.uint8) << 3)
