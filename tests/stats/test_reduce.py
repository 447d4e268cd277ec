"""One reading of a tensor, in stretches of rows and columns, against plain reductions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from quantui.stats.reduce import reduce_rows

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "channels"), [(1, 5), (31, 3), (32, 8), (33, 8), (70, 9001), (600, 700), (3000, 64)])
def test_every_stretch_is_read_once(rows: int, channels: int, dtype: Any) -> None:
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(rows)).to(dtype)
    found = reduce_rows(x, torch.full((2, channels), float("-inf")))
    wide = x.double()
    torch.testing.assert_close(found.extremes.double(), torch.stack((wide.amax(0), -wide.amin(0))), rtol=0, atol=0)
    torch.testing.assert_close(found.sums.double(), torch.stack((wide.sum(0), wide.abs().sum(0))), rtol=1e-5, atol=1e-3)
    expected = torch.stack((wide == wide.amax(0), wide == wide.amin(0))).to(torch.uint8).argmax(1)
    torch.testing.assert_close(found.rows, expected.view(-1))
    assert found.powers is None
    assert reduce_rows(x, found.extremes).beaten.numel() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("rows", "channels"), [(1, 5), (33, 8), (70, 9001), (3000, 64)])
@pytest.mark.parametrize("four", [False, True])
def test_powers_are_taken_around_the_shift(rows: int, channels: int, dtype: Any, four: bool) -> None:
    x = (torch.randn(rows, channels, generator=torch.Generator().manual_seed(rows)) + 3).to(dtype)
    shift = torch.full((channels,), 2.5)
    found = reduce_rows(x, torch.full((2, channels), float("-inf")), shift, four=four)
    off = x.double() - 2.5
    expected = torch.stack([(off**k).sum(0) for k in range(1, 5 if four else 3)])
    assert found.powers is not None
    torch.testing.assert_close(found.powers.double(), expected, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.sums[0].double(), x.double().sum(0), rtol=1e-5, atol=1e-3)


def test_only_what_is_beaten_is_looked_for() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, -2.0]])
    found = reduce_rows(x, torch.tensor([[3.0, 4.0], [9.0, 1.0]]))
    assert found.beaten.tolist() == [1, 3]
    assert found.rows.tolist() == [0, 1]
