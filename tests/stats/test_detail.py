"""`--detail`: moments, distributions, quantiles and outliers against numpy on all values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantui.stats.detail import Detail, spread, widened
from quantui.stats.finish import finish
from quantui.stats.grid import BINS, LEVELS, even_edges, outside, quantiles, step_edges
from quantui.stats.observe import observe
from tests.stats.models import Recorder, make, token_batches

pytestmark = pytest.mark.engine


def test_every_tensor_has_moments_and_a_distribution() -> None:
    model, batches = make("llama"), token_batches()
    table = finish(model, observe(model, batches, detail=True), None, {})
    recorder = Recorder(model)
    recorder.run(model, batches)
    for name, role in recorder.kept:
        if role not in ("input", "output"):
            continue
        rows = recorder.rows(name, role).numpy()
        np.testing.assert_allclose(table.stat(name, role, "std"), rows.std(0), rtol=1e-4, atol=1e-6)
        central = rows - rows.mean(0)
        kurtosis = (central**4).mean(0) / (central**2).mean(0) ** 2 - 3
        np.testing.assert_allclose(table.stat(name, role, "kurtosis"), kurtosis, rtol=1e-2, atol=2e-2)
        counts, edges = table.histogram(name, role) or (None, None)
        assert counts is not None and edges is not None and counts.sum() == rows.size and counts.shape == (2048,)
        assert np.abs(rows).max() <= edges[-1] <= 2 * np.abs(rows).max()
        found = table.quantiles(name, role)
        assert found is not None
        expected = np.quantile(rows, LEVELS)
        inner = slice(1, -1)  # in the thin tails any value between two neighbours is as good
        np.testing.assert_allclose(list(found.values())[inner], expected[inner], rtol=0.07, atol=0.02 * rows.std())
        share = table.outlier_share(name, role)
        exact = (np.abs(rows - rows.mean()) > 6 * rows.std()).mean()
        assert share == pytest.approx(exact, abs=2e-3)


def test_bins_merge_exactly_when_the_reach_grows() -> None:
    random = torch.Generator().manual_seed(0)
    detail, parts = Detail(four=True), []
    for sample, width in enumerate((0.3, 50.0, 2.0)):
        x = torch.randn(40, 16, generator=random) * width
        parts.append(x)
        detail.add(None, spread(x, float(x.abs().max()), sample))
    values = torch.cat(parts).reshape(-1).numpy()
    assert detail.even is not None
    expected, _ = np.histogram(values, even_edges(detail.reach))
    assert np.abs(detail.even.numpy() - expected).sum() <= 2, "but for values on an edge"
    assert int(detail.even.sum()) == values.size
    counts = torch.arange(BINS)
    assert widened(counts, 1.0, 4.0).sum() == counts.sum()


def test_long_samples_are_counted_on_some_rows_that_move() -> None:
    detail = Detail(four=True)
    x = torch.zeros(512, 4)
    x[3] = 8.0
    for sample in range(16):
        detail.add(None, spread(x, 8.0, sample))
    assert detail.even is not None
    assert int(detail.even.sum()) == 16 * 32 * 4
    assert int(detail.even[-1]) == 4, "a row is met as often as any other"


def test_wide_tensors_are_counted_on_fewer_rows() -> None:
    counted = spread(torch.ones(512, 4096), 1.0, 0)
    assert int(counted.even.sum()) == int(counted.steps.sum()) == 8 * 4096


def test_quantiles_and_outliers_of_counts() -> None:
    random = np.random.default_rng(0)
    values = np.concatenate((random.normal(size=100_000), np.full(50, 40.0), np.zeros(500)))
    steps, _ = np.histogram(values, step_edges())
    found = quantiles(steps.astype(np.int64), values.min(), values.max())
    np.testing.assert_allclose(found, np.quantile(values, LEVELS), rtol=0.02, atol=0.01)
    sigma = values.std()
    assert outside(steps.astype(np.int64), -6 * sigma, 6 * sigma) == pytest.approx(50 / values.size, rel=0.05)
    assert np.isnan(quantiles(np.zeros(BINS, np.int64), 0, 0)).all()
    assert outside(np.zeros(BINS, np.int64), 0, 1) == 0.0


def test_constant_and_zero_tensors() -> None:
    detail = Detail(four=True)
    detail.add(None, spread(torch.zeros(5, 3), 0.0, 0))
    detail.add(None, spread(torch.full((5, 3), -7.0), 7.0, 1))
    assert detail.even is not None and int(detail.even.sum()) == 30
    assert detail.reach == 8.0
