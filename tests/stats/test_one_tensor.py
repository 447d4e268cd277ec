"""What a page on one tensor asks: its channels in stretches, a grid over its values, turned pairs, its input smoothed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantui.checkpoint.columns import column_absmax
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import CheckpointError
from quantui.numerics.smoothing import smoothing_scales
from quantui.stats.build import SiteArrays, build
from quantui.stats.channels import POINTS, line, outliers
from quantui.stats.fit import SCHEMES, fit, levels_of
from quantui.stats.grid import BINS, even_edges
from quantui.stats.rope import rope_pairs
from quantui.stats.smoothed import sharing, smoothed, weight_columns
from quantui.stats.table import StatsTable
from tests.stats.test_table import made

NAME = "model.layers.0.mlp.down_proj"


def wide(size: int, values: Any = None) -> StatsTable:
    """A table of one layer whose channel i reaches from -i to 2i, with the distribution of some values."""
    high = 2 * np.arange(size, dtype=np.float32)
    channel: dict[str, Any] = {"max": high, "min": -high / 2, "mean": high / 4, "absmean": high / 3}
    channel |= {name: np.zeros(size, np.int32) for name in ("max_sample", "max_token", "min_sample", "min_token")}
    site = SiteArrays((size,), 10, True, channel)
    if values is not None:
        site.reach = float(2 ** np.ceil(np.log2(np.abs(values).max())))
        site.even = np.histogram(values, even_edges(site.reach))[0]
        site.steps, site.mean_square = np.ones(BINS, np.int64), float(np.mean(values**2))
        channel["max"], channel["min"] = np.full(size, values.max()), np.full(size, values.min())
    entries = [(NAME, "input", 0), (NAME, "output", 0)]
    return build([site], entries, [{"name": NAME, "in": size, "out": size, "weights": None}], {"dtype": "float32"})


def test_joined_channels_keep_their_extremes() -> None:
    table = wide(5 * POINTS + 3)
    found = line(table, NAME, "input")
    assert found.size == 6 and len(found.high) <= POINTS and found.high[-1] == 2 * (5 * POINTS + 2)
    assert found.high[0] == 10 and found.low[0] == -5 and found.channel[0] == 5 and found.mean[0] == pytest.approx(1.25)
    by_size = line(table, NAME, "input", ordered=True, first=0, last=4)
    assert by_size.size == 1 and by_size.channel.tolist() == [5122, 5121, 5120, 5119]
    inner = line(table, NAME, "input", first=100, last=100 + POINTS)
    assert inner.size == 1 and inner.channel[0] == 100 and inner.last == 100 + POINTS
    assert len(line(table, NAME, "input", first=9_999_999).high) == 1


def test_the_largest_channels_come_with_their_causes() -> None:
    found = outliers(made(), "model.layers.1.mlp.down_proj", "input")
    assert found[0].channel == 3 and found[0].absmax == 100 and found[0].ratio > 50 and found[0].cause.sample in (0, 1)
    assert [one.absmax for one in found] == sorted((one.absmax for one in found), reverse=True)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_grid_errs_as_rounding_to_it_does(scheme: str) -> None:
    values = np.random.default_rng(0).normal(0.5, 1, 200_000)
    found = fit(wide(8, values), NAME, "input", scheme)
    assert found is not None and np.all(np.diff(found.levels) > 0)
    rounded = found.levels[np.abs(values[:20_000, None] - found.levels).argmin(1)]
    direct = np.sqrt(np.mean((rounded - values[:20_000]) ** 2) / np.mean(values[:20_000] ** 2))
    assert found.error == pytest.approx(direct, rel=0.08)
    assert found.clipped < 1e-3 and 2 <= found.used <= len(found.levels)
    assert len(found.levels) == {"int4": 16, "int8": 256, "fp8-": 253}[(scheme + "-")[:4]]
    cut = fit(wide(8, values), NAME, "input", scheme, 0.99)
    assert cut is not None and cut.levels[-1] < found.levels[-1] and cut.clipped > found.clipped
    assert fit(wide(8), NAME, "input", scheme) is None


def test_fp8_levels_are_those_of_torch() -> None:
    torch = pytest.importorskip("torch")
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_allclose(levels_of("fp8", -448.0, 448.0), np.unique(codes[np.isfinite(codes)]))
    assert levels_of("int8-asym", 1.0, 3.0)[0] == 0  # the range always holds zero


def test_pairs_follow_the_config() -> None:
    assert rope_pairs({"model_type": "llama"}, 6) == [(0, 3), (1, 4), (2, 5)]
    assert rope_pairs({"model_type": "glm"}, 8) == [(0, 1), (2, 3)]
    assert rope_pairs({"model_type": "phi", "rope_parameters": {"partial_rotary_factor": 1.0}}, 4) == [(0, 2), (1, 3)]
    assert rope_pairs({"model_type": "deepseek_v2", "qk_rope_head_dim": 4}, 12) == [(8, 9), (10, 11)]
    assert rope_pairs({"model_type": "internvl", "text_config": {"model_type": "qwen2"}}, 4) == [(0, 2), (1, 3)]
    assert rope_pairs({"model_type": "gpt2"}, 64) == []


def test_smoothing_keeps_the_product_and_follows_the_engine() -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    span, weight = random.uniform(0.1, 9, 16).astype(np.float32), random.uniform(0.1, 2, 16).astype(np.float32)
    weight[3] = 0
    scales = smoothing_scales(span, weight, 0.7)
    doubled, wide_span = torch.from_numpy(2 * weight), torch.from_numpy(span)
    engine = torch.where(doubled > 0, wide_span.pow(0.7) / doubled.pow(0.3), wide_span)
    np.testing.assert_allclose(scales, engine.numpy(), rtol=1e-6)
    assert smoothing_scales(np.zeros(1), np.zeros(1), 0.5).tolist() == [1.0]


def test_columns_are_read_in_every_dtype(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_torch

    weight = torch.randn(7, 5)
    tensors = {f"w.{name}.weight": weight.to(getattr(torch, name)) for name in ("bfloat16", "float16", "float32", "float64")}
    save_torch(tensors | {"w.whole.weight": torch.ones(7, 5, dtype=torch.int8)}, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    stored = open_checkpoint(tmp_path).tensors
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(column_absmax(stored[name]), tensor.float().abs().amax(0).numpy())
    with pytest.raises(CheckpointError, match="is not read here"):
        column_absmax(stored["w.whole.weight"])


def test_layers_of_one_input_are_smoothed_together(tmp_path: Path) -> None:
    table = made()
    layers = sharing(table, "model.layers.0.self_attn.k_proj")
    assert [layer.name.rpartition(".")[2] for layer in layers] == ["q_proj", "k_proj", "v_proj"]
    random = np.random.default_rng(1)
    weights = {f"{layer.name}.weight": random.normal(size=(layer.outputs, 8)).astype(np.float32) for layer in layers}
    save_file(weights, str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    columns = weight_columns(tmp_path, layers)
    np.testing.assert_array_equal(columns, np.max([np.abs(weight).max(0) for weight in weights.values()], axis=0))
    found = smoothed(table, layers[1].name, columns, 0.5)
    np.testing.assert_allclose(found.high * found.scales, table.stat(layers[1].name, "input", "max"), rtol=1e-6)
    np.testing.assert_allclose(found.weight_after / found.scales, columns, rtol=1e-6)
    assert found.usual and not smoothed(table, NAME, np.ones(12), 0.5).usual
    with pytest.raises(CheckpointError, match="smoothing cannot be shown"):
        weight_columns(tmp_path, [table.layers[5]])
