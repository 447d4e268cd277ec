"""Activations, keys and values rounded in the forward pass, with the very numbers that compressed-tensors gives.

Source: compressed-tensors 0.19.0, quantization/lifecycle/forward_helpers.py `_quantize_dequantize` and
quantization/utils/helpers.py `compute_dynamic_scales_and_zp`; tests compare bit for bit. Its own way takes up to four times a
small layer's time, so the two common cases are written out here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from quantui.numerics.float8 import castable, through_float8

Round = Callable[[torch.Tensor], torch.Tensor]
SMALL = 1 << 16
"""Elements up to which a rounded input is kept for the layers that read the same one."""


def rounding(args: Any, scale: Any = None, zero: Any = None, global_scale: Any = None) -> Round:
    """What quantizes a tensor to codes and back.

    Args:
        args: compressed-tensors' QuantizationArgs.
        scale, zero: of static quantization, in the model's dtype; None where they are found for every tensor.
        global_scale: of schemes in two levels.
    """
    plain = args.num_bits in range(2, 9) and global_scale is None and (args.type == "int" or args.num_bits == 8)
    if plain and args.dynamic is False and args.strategy == "tensor" and scale is not None and scale.numel() == 1:
        return _Static(args, scale.reshape(1), zero)
    if plain and args.dynamic is True and args.strategy == "token" and args.symmetric and args.scale_dtype is None:
        return _PerToken(args)
    return _AsEngine(args, scale, zero, global_scale)


def mixes_rows(rounded: Round | None) -> bool:
    """Whether what becomes of one row of a batch depends on the others: one scale is found for all of them."""
    inner = rounded._round if isinstance(rounded, Once) else rounded
    return isinstance(inner, _AsEngine) and inner.args.dynamic is not False and inner.args.strategy == "tensor"


def affine(kind: str, bits: int, scale: torch.Tensor, zero: torch.Tensor | None) -> Round:
    """q = round(x / scale) + zero, back as (q - zero) * scale, with scales of any shape that broadcasts.

    Args:
        kind: int, or float8 (which has no zero point).
    """
    low, high = -(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1

    def rounded(x: torch.Tensor) -> torch.Tensor:
        codes = x / scale
        if kind != "int":
            limit = torch.finfo(torch.float8_e4m3fn).max
            return through_float8(codes.clamp_(-limit, limit)) * scale
        codes = codes.round_() if zero is None else codes.round_().add_(zero)
        codes = codes.clamp_(low, high)
        return (codes if zero is None else codes.sub_(zero)) * scale

    return rounded


class Once:
    """A rounding that several layers apply to the same input: done for the first, kept for the others."""

    def __init__(self, rounded: Round) -> None:
        self._round = rounded
        self._seen: torch.Tensor | None = None
        self._made: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The rounded tensor."""
        if x.numel() > SMALL:
            return self._round(x)
        if self._seen is not x or self._made is None:
            self._seen, self._made = x, self._round(x)
        return self._made


class _AsEngine:
    """Any scheme, through the engine's own functions."""

    def __init__(self, args: Any, scale: Any, zero: Any, global_scale: Any) -> None:
        self.args, self.scale, self.zero, self.global_scale = args, scale, zero, global_scale

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize
        from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

        if x.numel() == 0:
            return x
        device, scale, zero, whole = x.device, self.scale, self.zero, self.global_scale
        if self.args.type == "float":
            x, scale, zero, whole = (None if one is None else castable(one) for one in (x, scale, zero, whole))
        if self.args.dynamic is not False:
            scale, zero = compute_dynamic_scales_and_zp(x, self.args, None, global_scale=whole)
        made: torch.Tensor = fake_quantize(x, scale, zero, self.args, global_scale=whole)
        return made.to(device)


class _Static:
    """One scale for the tensor, known before."""

    def __init__(self, args: Any, scale: torch.Tensor, zero: torch.Tensor | None) -> None:
        self.low, self.high = _limits(args)
        self.scale = scale
        self.zero = None if zero is None or not bool(zero.any()) else zero.reshape(1).to(scale.dtype)
        self.is_float = args.type == "float"
        self.engine = _AsEngine(args, scale, zero, None)
        self.has_table = scale.device.type == "cpu" and scale.dtype in (torch.bfloat16, torch.float16)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != self.scale.dtype:
            return self.engine(x)  # what is promoted to what is the engine's affair
        if self.has_table and x.numel() <= SMALL:
            return self._table.take(x.view(torch.int16).long())  # negative places count from the end
        return self._rounded(x)

    @functools.cached_property
    def _table(self) -> torch.Tensor:
        """What becomes of each of the 65536 values of the dtype, by its bits: a token costs three operations, not seven."""
        return self._rounded(torch.arange(1 << 16).to(torch.int16).view(self.scale.dtype))

    def _rounded(self, x: torch.Tensor) -> torch.Tensor:
        codes = x / self.scale
        if self.zero is not None:
            codes += self.zero
        codes.clamp_(self.low, self.high)
        codes = through_float8(codes) if self.is_float else codes.round_()
        if self.zero is not None:
            codes -= self.zero
        return codes.mul_(self.scale)


class _PerToken:
    """A scale for every token, found as it passes; symmetric."""

    def __init__(self, args: Any) -> None:
        self.low, self.high = _limits(args)
        self.half = (self.high - self.low) / 2
        self.is_float = args.type == "float"
        self.engine = _AsEngine(args, None, None, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 3:
            return self.engine(x)
        scale = x.abs().amax(-1, keepdim=True) / torch.tensor([self.half], dtype=x.dtype, device=x.device)
        scale.masked_fill_(scale == 0, torch.finfo(x.dtype).eps)
        codes = (x / scale).clamp_(self.low, self.high)
        codes = through_float8(codes) if self.is_float else codes.round_()
        return codes.mul_(scale)


def _limits(args: Any) -> tuple[float, float]:
    if args.type == "float":
        return torch.finfo(torch.float8_e4m3fn).min, torch.finfo(torch.float8_e4m3fn).max
    return float(-(2 ** (args.num_bits - 1))), float(2 ** (args.num_bits - 1) - 1)
