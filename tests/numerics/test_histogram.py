"""The histogram's range against an exhaustive search over the values themselves."""

from __future__ import annotations

import pytest

from quantui.numerics.histogram import Histogram


@pytest.mark.parametrize("magnitude", [1e-3, 0.4, 7.0, 3e4])
@pytest.mark.parametrize("tail", [1.0, 30.0])
def test_the_range_is_about_the_best_there_is(magnitude: float, tail: float) -> None:
    """Whatever the magnitude: a range cut to integers would be none at all where values stay below 1."""
    import torch

    torch.manual_seed(0)
    values = torch.randn(20000)
    values[:5] *= tail
    values *= magnitude
    found = Histogram()
    for part in values.split(3000):  # reach grows on the way
        found.add(part)

    def error(low: float, high: float) -> float:
        step = (high - low) / 15
        return float((((values.clamp(low, high) - low) / step).round() * step + low - values).square().mean())

    low, high = found.best_range(4)
    assert float(values.min()) <= low <= 0 <= high <= float(values.max())
    shares = [share / 40 for share in range(1, 41)]
    best = min(error(a * float(values.min()), b * float(values.max())) for a in shares for b in shares)
    assert error(low, high) <= 1.1 * best
    assert error(low, high) <= error(float(values.min()), float(values.max()))


def test_values_of_one_sign_keep_zero_in_range() -> None:
    """All positive."""
    import torch

    found = Histogram()
    found.add(torch.rand(100) + 5)
    low, high = found.best_range()
    assert low == 0 and 5 < high <= 6


def test_nothing_and_zeros() -> None:
    """No values, only zeros, and what is not finite."""
    import torch

    found = Histogram()
    assert found.best_range() == (0, 0)
    found.add(torch.zeros(10))
    assert found.best_range() == (0, 0)
    found.add(torch.tensor([float("nan"), float("inf"), 1.0]))
    assert found.best_range() == (0, 1)


def test_more_values_are_counted_than_float32_has_whole_numbers() -> None:
    import torch

    many = (1 << 24) + 8
    histogram = Histogram()
    histogram.add(torch.ones(1).expand(many))
    assert histogram.counts is not None and int(histogram.counts.sum()) == many
