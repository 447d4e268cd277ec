"""What rounding a weight to each common scheme costs.

Scales are those of compressed-tensors' minmax observer. Source: compressed_tensors/quantization/utils/helpers.py of 0.19.0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from quantui.numerics.float8 import through_float8

if TYPE_CHECKING:
    from torch import Tensor

FP8_MAX = 448.0
FP4_MAX = 6.0
FP4_MIDDLES = (0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0)
FP4_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of float4 e2m1, and the borders between them."""

TINY = 1e-30


def grouped(rows: Tensor, size: int) -> Tensor:
    """(rows, columns) as (rows, groups, size), a short last group filled up with its first value."""
    import torch

    short = -rows.shape[1] % size
    if short:
        first = rows[:, rows.shape[1] - (size - short)].unsqueeze(1)  # the short group's own first value keeps its range
        rows = torch.cat((rows, first.expand(-1, short)), 1)
    return rows.unflatten(1, (-1, size))


def integer(bits: int, size: int | None = None, *, symmetric: bool = True) -> Callable[[Tensor, float], Tensor]:
    """Rounding to integers with a scale a row, or a scale every `size` columns."""

    def rounded(rows: Tensor, _absmax: float) -> Tensor:
        view = rows.unsqueeze(1) if size is None else grouped(rows, size)
        lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        if symmetric:
            scale = view.abs().amax(-1, keepdim=True).clamp_(min=TINY) / ((2**bits - 1) / 2)
            made = (view / scale).round_().clamp_(lowest, highest).mul_(scale)
        else:
            low, high = view.amin(-1, keepdim=True).clamp_(max=0), view.amax(-1, keepdim=True).clamp_(min=0)
            scale = ((high - low) / (2**bits - 1)).clamp_(min=TINY)
            zero = (lowest - low / scale).round_().clamp_(lowest, highest)
            made = (view / scale + zero).round_().clamp_(lowest, highest).sub_(zero).mul_(scale)
        return made.flatten(1)[:, : rows.shape[1]]

    return rounded


def float8(*, by_row: bool) -> Callable[[Tensor, float], Tensor]:
    """Rounding to float8 e4m3 with a scale a row, or one for the tensor."""

    def rounded(rows: Tensor, absmax: float) -> Tensor:
        scale = rows.abs().amax(1, keepdim=True).clamp_(min=TINY) / FP8_MAX if by_row else max(absmax, TINY) / FP8_MAX
        return through_float8((rows / scale).clamp_(-FP8_MAX, FP8_MAX)).mul_(scale)

    return rounded


def nvfp4(rows: Tensor, absmax: float) -> Tensor:
    """Float4 in groups of 16 with a float8 scale each, under one scale for the tensor."""
    whole = FP8_MAX * FP4_MAX / max(absmax, TINY)
    view = grouped(rows, 16)
    local = through_float8((view.abs().amax(-1, keepdim=True) * (whole / FP4_MAX)).clamp_(max=FP8_MAX))
    return _float4(view, (local / whole).clamp_(min=TINY)).flatten(1)[:, : rows.shape[1]]


def mxfp4(rows: Tensor, _absmax: float) -> Tensor:
    """Float4 in groups of 32 under a power of two each. Source: OCP Microscaling Formats v1.0, section 6.3."""
    import torch

    view = grouped(rows, 32)
    scale = torch.exp2(torch.log2(view.abs().amax(-1, keepdim=True).clamp_(min=TINY)).floor_() - 2)
    return _float4(view, scale).flatten(1)[:, : rows.shape[1]]


def _float4(view: Tensor, scale: Tensor) -> Tensor:
    import torch

    middles = torch.tensor(FP4_MIDDLES, device=view.device)
    levels = torch.tensor(FP4_LEVELS, device=view.device)
    return levels[torch.bucketize((view / scale).abs_(), middles)].mul_(view.sign()).mul_(scale)


SCHEMES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "int8-channel": integer(8),
    "fp8-tensor": float8(by_row=False),
    "fp8-channel": float8(by_row=True),
    "int4-channel": integer(4),
    "int4-g128": integer(4, 128),
    "int4-g128-asym": integer(4, 128, symmetric=False),
    "int4-g32": integer(4, 32),
    "nvfp4": nvfp4,
    "mxfp4": mxfp4,
}
"""Name -> (rows float32, absmax of the whole weight) -> the rows as they come back."""

ROWS_ELEMENTS = 1 << 20
"""Elements rounded at once."""


def losses(weight: Tensor) -> tuple[Tensor, Tensor]:
    """What each scheme of SCHEMES costs every output channel of a weight (out, in).

    Returns:
        squared errors (schemes, out) and squared weights (out,), float32 on the weight's device.
    """
    import torch

    absmax = float(weight.abs().amax())
    energy = torch.zeros(weight.shape[0], device=weight.device)
    lost = torch.zeros((len(SCHEMES), weight.shape[0]), device=weight.device)
    step = max(ROWS_ELEMENTS // weight.shape[1], 1)
    for start in range(0, weight.shape[0], step):
        rows = weight[start : start + step].float().contiguous()
        part = slice(start, start + rows.shape[0])
        energy[part] = rows.square().sum(1)
        for number, rounded in enumerate(SCHEMES.values()):
            lost[number, part] = rounded(rows, absmax).sub_(rows).square_().sum(1)
    return lost, energy


def errors(weight: Tensor) -> dict[str, float]:
    """Scheme -> |W - Q(W)|^2 / |W|^2 of a weight (out, in); 0 for a weight of zeros."""
    lost, energy = losses(weight)
    total = float(energy.sum())
    parts = lost.sum(1).tolist()
    return {name: part / total if total and math.isfinite(total) else 0.0 for name, part in zip(SCHEMES, parts, strict=True)}
