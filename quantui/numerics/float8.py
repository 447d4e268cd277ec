"""Rounding to float8 on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantui.devices import has_float8

if TYPE_CHECKING:
    from torch import Tensor


def through_float8(x: Tensor) -> Tensor:
    """Values from -448 to 448 as float8 e4m3 gives them back, in their own dtype."""
    import torch

    return x.to(torch.float8_e4m3fn).to(x.dtype) if has_float8(x.device) else by_arithmetic(x)


def by_arithmetic(x: Tensor) -> Tensor:
    """The same without a tensor of float8: three bits behind the first one, down to 2^-9."""
    import torch

    values = x.float()
    powers = (values.view(torch.int32) & 0x7F800000).view(torch.float32)  # the largest power of two within each
    steps = powers.clamp_(min=2.0**-6) / 8
    return (values / steps).round_().mul_(steps).to(x.dtype)


def castable(x: Tensor) -> Tensor:
    """A tensor where what makes float8 of it can be done: on its device, or on the CPU."""
    return x if has_float8(x.device) else x.cpu()
