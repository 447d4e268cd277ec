"""Half-quadratic rounding against rounding by extremes."""

from __future__ import annotations

import pytest

from quantui.numerics.hqq import Settings, solve


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("shape", [(16, 1, 64), (16, 4, 32)])
def test_never_worse_than_extremes_and_better_where_values_reach_far(bits: int, shape: tuple[int, int, int]) -> None:
    """Squared error of every block, on weights with heavy tails."""
    import torch

    from quantui.numerics.minmax import range_scale

    torch.manual_seed(0)
    view = torch.randn(shape) * torch.randn(shape).abs()
    lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1

    def error(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        codes = (view / scale.unsqueeze(-1) + zero.unsqueeze(-1)).round().clamp(lowest, highest)
        return ((codes - zero.unsqueeze(-1)) * scale.unsqueeze(-1) - view).square().sum(-1)

    scale, zero = solve(view, bits)
    assert torch.equal(zero, zero.round()) and zero.amin() >= lowest and zero.amax() <= highest and scale.amin() > 0
    before, after = error(*range_scale(view.amin(-1), view.amax(-1), bits)), error(scale, zero)
    assert bool((after <= before * (1 + 1e-5)).all())
    assert after.sum() < (0.99 if bits <= 4 else 1) * before.sum()


def test_blocks_of_one_value_and_of_zeros_keep_finite_scales() -> None:
    """Degenerate blocks."""
    import torch

    scale, zero = solve(torch.stack((torch.zeros(8), torch.full((8,), 3.0), torch.full((8,), -2.0))), 4)
    assert bool(scale.isfinite().all()) and bool((scale > 0).all()) and bool(zero.isfinite().all())


def test_an_lp_norm_of_one_shrinks_softly() -> None:
    """The other branch of the proximal operator."""
    import torch

    torch.manual_seed(1)
    scale, _ = solve(torch.randn(4, 32), 4, Settings(lp=1.0))
    assert bool((scale > 0).all())


def test_errors_count_as_much_as_they_are_said_to() -> None:
    """A channel that counts a hundred times loses less, and scales, not only their errors, are weighed."""
    import torch

    torch.manual_seed(2)
    view, weight = torch.randn(64, 2, 32), torch.ones(1, 2, 32)
    weight[:, :, 3] = 100

    def lost(scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        scale, zero = scale.unsqueeze(-1), zero.unsqueeze(-1)
        return (((view / scale + zero).round().clamp(-8, 7) - zero) * scale - view).square()

    plain, weighed = lost(*solve(view, 4)), lost(*solve(view, 4, importance=weight))
    assert weighed[:, :, 3].sum() < 0.5 * plain[:, :, 3].sum() and bool(
        ((weight * weighed).sum() < (weight * plain).sum()).all()
    )
