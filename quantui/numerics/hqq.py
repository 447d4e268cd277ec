"""Half-quadratic quantization: zero points found without data so that large errors, not many, are forgiven.

The error W - W' is split into a sparse part and the rest, which are solved for in turns. Here scales are solved for as well,
by least squares, since the zero points that checkpoints hold are integers.
Source: Badri and Shaji, Half-Quadratic Quantization of Large Machine Learning Models, mobiusml.github.io/hqq_blog.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from quantui.numerics.minmax import range_scale

if TYPE_CHECKING:
    from torch import Tensor


SHARES = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Shares of the range that are tried to begin with: clipping a little loses less than steps that reach everything."""


class Settings(NamedTuple):
    """How long and how: `lp` the norm of the sparse part, `beta` the first penalty, `kappa` what multiplies it each time."""

    iterations: int = 20
    lp: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01


def solve(
    view: Tensor, bits: int, settings: Settings = Settings(), importance: Tensor | None = None  # noqa: B008 (immutable)
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scales and zero points of blocks of weights.

    Args:
        view: (..., values of one scale), float32.
        bits: of the codes -2^(bits-1) .. 2^(bits-1)-1.
        importance: how much the squared error of each value counts, positive, broadcast to `view`; None is 1 for all.

    Returns:
        scale and integral zero point, each of the shape without the last axis; never worse in squared error than min-max.
    """
    import torch

    limits = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    low, high = view.amin(-1, keepdim=True), view.amax(-1, keepdim=True)
    importance = torch.ones(1, dtype=view.dtype, device=view.device) if importance is None else importance
    importance = importance.expand_as(view)
    total = importance.sum(-1, keepdim=True)
    best = _Best(view, limits, importance)
    for share in SHARES:
        best.offer(*range_scale(low * share, high * share, bits))
    scale, zero, beta = best.scale, best.zero, settings.beta
    for _ in range(settings.iterations):
        codes = (view / scale + zero).round().clamp(*limits)
        outliers = _shrunk(view - (codes - zero) * scale, beta, settings.lp)
        free = view - outliers
        zero = ((importance * (codes - free / scale)).sum(-1, keepdim=True) / total).clamp(*limits)
        shifted = codes - zero.round()
        size = (importance * shifted.square()).sum(-1, keepdim=True)
        fitted = (importance * shifted * free).sum(-1, keepdim=True) / size
        best.offer(torch.where(fitted > 0, fitted, scale), zero.round())  # which a size of 0, with NaN, leaves as it is
        beta *= settings.kappa
    return best.scale.squeeze(-1), best.zero.squeeze(-1)


class _Best:
    """The scales and zero points, block by block, with the least squared error of those that were offered."""

    def __init__(self, view: Tensor, limits: tuple[int, int], importance: Tensor) -> None:
        self.view, self.limits, self.importance = view, limits, importance
        self.error: Tensor | None = None

    def offer(self, scale: Tensor, zero: Tensor) -> None:
        """Takes them where they are better."""
        import torch

        codes = (self.view / scale + zero).round().clamp(*self.limits)
        error = (self.importance * ((codes - zero) * scale - self.view).square()).sum(-1, keepdim=True)
        if self.error is None:
            self.error, self.scale, self.zero = error, scale, zero
            return
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.scale, self.zero = torch.where(better, scale, self.scale), torch.where(better, zero, self.zero)


def _shrunk(error: Tensor, beta: float, lp: float) -> Tensor:
    """The proximal operator of the lp norm: the sparse part of an error, in the weights' unit."""
    magnitude = error.abs()
    if lp == 1:
        return error.sign() * (magnitude - 1 / beta).relu()
    return error.sign() * (magnitude - magnitude.clamp(min=1e-12).pow(lp - 1) / beta).relu()
