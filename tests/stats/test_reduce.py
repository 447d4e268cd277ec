"""One reading of a tensor, in stretches of rows and columns, against plain reductions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from quantui.stats import reduce
from quantui.stats.chunks import read, release
from quantui.stats.reduce import reduce_rows

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)
    release()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "channels"), [(1, 5), (31, 3), (32, 8), (33, 8), (70, 9001), (600, 700), (3000, 64)])
def test_every_stretch_is_read_once(rows: int, channels: int, dtype: Any) -> None:
    x = torch.randn(rows, channels, generator=torch.Generator().manual_seed(rows)).to(dtype)
    found = reduce_rows(x, np.full((2, channels), -np.inf, np.float32))
    wide = x.double().numpy()
    np.testing.assert_array_equal(found.extremes, (wide.max(0), -wide.min(0)))
    np.testing.assert_allclose(found.sums, (wide.sum(0), np.abs(wide).sum(0)), rtol=1e-5, atol=1e-3)
    np.testing.assert_array_equal(found.rows, np.concatenate((wide.argmax(0), wide.argmin(0))))
    assert found.powers is None
    assert reduce_rows(x, found.extremes).beaten.size == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(("rows", "channels"), [(1, 5), (33, 8), (70, 9001), (3000, 64)])
@pytest.mark.parametrize("four", [False, True])
def test_powers_are_taken_around_the_shift(rows: int, channels: int, dtype: Any, four: bool) -> None:
    x = (torch.randn(rows, channels, generator=torch.Generator().manual_seed(rows)) + 3).to(dtype)
    shift = np.full(channels, 2.5, np.float32)
    found = reduce_rows(x, np.full((2, channels), -np.inf, np.float32), shift, four=four)
    wide = x.double().numpy()
    assert found.powers is not None
    expected = [((wide - 2.5) ** k).sum(0) for k in range(1, 5 if four else 3)]
    np.testing.assert_allclose(found.powers, expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.sums, (wide.sum(0), np.abs(wide).sum(0)), rtol=1e-5, atol=1e-3)


def test_only_what_is_beaten_is_looked_for() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, -2.0]])
    found = reduce_rows(x, np.array([[3.0, 4.0], [9.0, 1.0]], np.float32))
    assert found.beaten.tolist() == [1, 3]
    assert found.rows.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize("columns", [slice(3, 90), slice(0, None, 2)])
def test_a_part_of_a_wider_tensor_is_read_where_it_lies(dtype: Any, columns: slice) -> None:
    whole = torch.randn(70, 100, generator=torch.Generator().manual_seed(0)).to(dtype)
    beat = np.full((2, whole[:, columns].shape[1]), -1.5, np.float32)
    found, alone = (reduce_rows(x, beat) for x in (whole[:, columns], whole[:, columns].contiguous()))
    for one, other in zip(found, alone, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rows", [5, 64, 70])
@pytest.mark.parametrize("kinds", [2, 4, 6])
def test_accelerators_read_the_same(rows: int, kinds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reduce, "ACCELERATOR_ELEMENTS", 32 * 40)
    x = torch.randn(rows, 40, generator=torch.Generator().manual_seed(0))
    shift = None if kinds == 2 else np.full(40, 0.5, np.float32)
    (blocks, sums), (expected, close) = reduce.read_on_device(x, shift, kinds), read(x, shift, kinds)
    np.testing.assert_array_equal(blocks, expected)
    rest = np.arange(kinds) != (0 if shift is not None else kinds)
    np.testing.assert_allclose(sums[rest], close[rest], rtol=1e-4, atol=1e-3)
