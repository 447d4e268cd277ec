"""Integer codes of weights from their extremes, exactly as msModelSlim rounds them: everything in the weight's own dtype.

W = (codes - offset) * scale. Source: msModelSlim 26.1.0, llm_ptq_tools/save/complex_quantifier.py, and runs of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

EPSILON = 1.1920929e-07
"""The least a scale may be: float32's machine epsilon."""

Sharing = int | Literal["channel", "tensor"]
"""What shares one scale: so many input channels, an output channel, or the whole weight."""


class Rounded(NamedTuple):
    """A weight (out, in) as integers.

    Attributes:
        codes: int8, (out, in).
        scale: (out, 1), (out, in / size) or (1,), in the weight's dtype.
        offset: the zero point as a float of the scale's shape; 0 where symmetric.
    """

    codes: Tensor
    scale: Tensor
    offset: Tensor

    def dequantized(self) -> Tensor:
        """The weight as it comes back, (out, in), in the scale's dtype."""
        rows, columns = self.codes.shape
        view = blocks(self.codes, columns // self.scale.shape[1] if self.scale.ndim == 2 else "tensor").to(self.scale.dtype)
        shape = (*self.scale.shape, 1) if self.scale.ndim == 2 else (1, 1, 1)
        return ((view - self.offset.reshape(shape)) * self.scale.reshape(shape)).reshape(rows, columns)


def blocks(weight: Tensor, sharing: Sharing) -> Tensor:
    """A weight (out, in) as (rows, blocks, values of one scale), without copying."""
    if sharing == "tensor":
        return weight.reshape(1, 1, -1)
    return weight.unsqueeze(1) if sharing == "channel" else weight.unflatten(1, (-1, sharing))


def absmax_scale(low: Tensor, high: Tensor, bits: int) -> Tensor:
    """Scale of symmetric codes -(2^(bits-1)-1) .. 2^(bits-1)-1, of the shape and dtype of the extremes."""
    import torch

    return (torch.maximum(low.abs(), high.abs()) / (2 ** (bits - 1) - 1)).clamp(min=EPSILON)


def joint_scale(scale: Tensor, zero: Tensor | None, bits: int) -> tuple[Tensor, Tensor | None]:
    """One scale and zero point (1,) over all the ranges that scales and zero points (n,) stand for, in their dtypes."""
    if zero is None or not bool(zero.any()):
        return scale.amax().reshape(1), None if zero is None else zero[:1]
    least = -(2 ** (bits - 1))
    scales, zeros = (values.detach().cpu().double() for values in (scale, zero))  # few, and no NPU computes in float64
    low, high = ((code - zeros) * scales for code in (least, -least - 1))
    made, offset = range_scale(low.amin().reshape(1), high.amax().reshape(1), bits)
    return made.to(scale), offset.to(zero)


def range_scale(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Scale and offset of codes -2^(bits-1) .. 2^(bits-1)-1 over a range that 0 is counted into.

    Args:
        low: smallest values, any shape.
        high: largest values, the same shape.

    Returns:
        scale and integral offset, each of that shape and dtype; x = (code - offset) * scale.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=EPSILON)
    return scale, (-low / scale).round() - 2 ** (bits - 1)


def codes_of(
    weight: Tensor, scale: Tensor, offset: Tensor | None, bits: int, sharing: Sharing, *, zero_first: bool = True
) -> Tensor:
    """The int8 codes of a weight (out, in) with given scales and offsets; without offsets they are symmetric.

    Args:
        zero_first: whether offsets are added before rounding; in half precision that is not the same.
    """
    import torch

    view, limit = blocks(weight, sharing), 2 ** (bits - 1)
    shape = (1, 1, 1) if sharing == "tensor" else (*scale.shape, 1)
    made = view / scale.reshape(shape)
    if not zero_first:
        made = made.round()
    if offset is not None:
        made = made + offset.reshape(shape).to(made.dtype)
    lowest = 1 - limit if offset is None else -limit
    return made.round().clamp(lowest, limit - 1).to(torch.int8).reshape(weight.shape)


def round_weight(weight: Tensor, bits: int, *, symmetric: bool = True, sharing: Sharing = "channel") -> Rounded:
    """A weight (out, in) rounded to nearest with scales from its extremes."""
    import torch

    view = blocks(weight, sharing)
    low, high = view.amin(-1), view.amax(-1)
    shape = (1,) if sharing == "tensor" else low.shape
    if symmetric:
        scale = absmax_scale(low, high, bits).reshape(shape)
        return Rounded(codes_of(weight, scale, None, bits, sharing), scale, torch.zeros_like(scale))
    scale, offset = (part.reshape(shape) for part in range_scale(low, high, bits))
    return Rounded(codes_of(weight, scale, offset, bits, sharing), scale, offset)
