"""Scales of the cache by every grain, rank and format, and the memory it takes. No torch but in one test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from quantui.errors import CheckpointError, InputError, OutputError
from quantui.stats.build import SiteArrays, build
from quantui.stats.cache_size import CacheShape, cache_bytes, cache_shape, cache_table, shown_saving
from quantui.stats.kv import scales, write_json, write_lmdeploy, write_msmodelslim
from quantui.stats.overview import cache_error, head_map
from quantui.stats.table import StatsTable

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "msmodelslim" / "cache"


def site(low: Any, high: Any) -> SiteArrays:
    low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
    channel = {"max": high.ravel(), "min": low.ravel(), "mean": (low + high).ravel() / 2, "absmean": high.ravel()}
    channel |= {f"{side}_{what}": np.zeros(low.size, np.int32) for side in ("max", "min") for what in ("sample", "token")}
    return SiteArrays(low.shape, 3, True, channel)


def table(dtype: str = "float32", heads: int = 2, layers: int = 2) -> StatsTable:
    random = np.random.default_rng(0)
    sites, entries = [], []
    for layer in range(layers):
        for role in ("key", "value"):
            high = random.uniform(1, 5, (heads, 4))
            entries.append((f"model.layers.{layer}.self_attn", role, len(sites)))
            sites.append(site(high - random.uniform(2, 9, (heads, 4)), high))
    return build(sites, entries, [], {"dtype": dtype})


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("grain", "shape"), [("tensor", ()), ("head", (1,)), ("channel", (1, 4))])
def test_codes_cover_the_range(symmetric: bool, grain: Any, shape: tuple[int, ...]) -> None:
    made = table()
    for layer, ranks in enumerate(scales(made, "key", symmetric=symmetric, tp=2, grain=grain)):
        for rank, found in enumerate(ranks):
            assert found.scale.shape == found.zero.shape == shape
            low, high = (made.stat(made.attention[layer], "key", stat)[rank : rank + 1] for stat in ("min", "max"))
            wide = [np.reshape(a, (*shape, *([1] * (2 - len(shape))))) for a in (found.scale, found.zero)]
            ends = [(edge - wide[1]) / wide[0] for edge in (low, high)]
            assert np.abs(ends).max() <= 127.5 + 1e-3
            assert np.abs(ends).max() >= (127 if symmetric else 127.5) - 1e-3


def test_heads_that_cannot_be_dealt_are_refused() -> None:
    with pytest.raises(InputError, match="3 ranks"):
        scales(table(), "key", tp=3)
    with pytest.raises(CheckpointError, match="no keys and values"):
        scales(build([], [], [], {}), "key")


def test_float16_arithmetic_does_not_overflow(tmp_path: Path) -> None:
    made = build(
        [site([[-60000.0]], [[60000.0]])] * 1 + [site([[-1.0]], [[1.0]])],
        [("a.self_attn", "key", 0), ("a.self_attn", "value", 1)], [], {"dtype": "float16"},
    )  # fmt: skip
    write_lmdeploy(made, tmp_path)
    numbers = np.fromfile(tmp_path / "layers.0.past_kv_scale.0.weight", "<f4")
    np.testing.assert_allclose(numbers, [120000 / 255, 0, 2 / 255, 0], rtol=1e-3)


def test_the_engine_safe_file_has_four_numbers(tmp_path: Path) -> None:
    lines = write_lmdeploy(table(), tmp_path, symmetric=True, engine_safe=True)
    numbers = np.fromfile(tmp_path / "layers.0.past_kv_scale.0.weight", "<f4")
    assert numbers.size == 4 and numbers[1] == numbers[3] == 0
    write_lmdeploy(table(), tmp_path, symmetric=True)
    two = np.fromfile(tmp_path / "layers.0.past_kv_scale.0.weight", "<f4")
    np.testing.assert_array_equal(two, numbers[[0, 2]])
    assert lines[0].startswith("Layer 0 MP 0 qparam: 0.")


def test_json_is_for_any_reader(tmp_path: Path) -> None:
    write_json(table(), tmp_path, tp=2, grain="head")
    body = json.loads((tmp_path / "kv_scales.json").read_text())
    assert (body["tp"], body["grain"], len(body["layers"])) == (2, "head", 2)
    assert len(body["layers"][0]["key"]) == 2 and len(body["layers"][0]["value"][1]["scale"]) == 1


@pytest.mark.engine
@pytest.mark.parametrize(("name", "symmetric"), [("kv_w8a8", True), ("kv_asym_w8a16", False)])
def test_msmodelslim_tensors_are_those_of_its_own(tmp_path: Path, name: str, symmetric: bool) -> None:
    from safetensors.torch import load_file as load_torch

    from quantui.checkpoint.load import load_model
    from tests.stats.test_observe import table_of

    model = load_model(FIXTURES, image_text=False)
    ids = load_torch(FIXTURES / "calibration.safetensors")["input_ids"]
    write_msmodelslim(table_of(model, [{"input_ids": row[None]} for row in ids]), tmp_path, symmetric=symmetric)
    found, expected = load_file(tmp_path / "kv_cache.safetensors"), load_file(FIXTURES / f"{name}.safetensors")
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        assert found[tensor].shape == values.shape and found[tensor].dtype == values.dtype
        np.testing.assert_allclose(found[tensor], values, rtol=1e-5, atol=1e-6)
    entries = json.loads((tmp_path / "quant_model_description.json").read_text())
    assert entries["kv_cache_type"] == "C8" and all(entries[tensor] == "C8" for tensor in found)


def test_the_memory_table_gives_the_published_differences() -> None:
    seven_b = CacheShape(layers=32, kv_heads=32, head_dim=128)
    published = {8: (22337, 18241), 16: (30593, 22369), 32: (47073, 30625), 48: (63553, 38881)}
    for batch, (full, small) in published.items():
        assert shown_saving(seven_b, batch, 2048, 8) == (full - small) * 2**20
    assert cache_bytes(seven_b, 1, 2048, 16) == 2**30
    assert cache_bytes(seven_b, 1, 2048, 4) == 2**28
    assert cache_bytes(seven_b, 1, 128, 16) == 64 * 2**20  # the block of the engine's documentation
    rows = cache_table(seven_b, (8,), (2048,))
    assert rows == [(8, 2048, {"fp16": 2**33, "fp8": 2**32, "int8": 2**32, "int4": 2**31})]


def test_maps_and_errors_by_head() -> None:
    made = table(heads=4)
    assert head_map(made, "key").shape == (2, 4)
    name = made.attention[0]
    errors = [cache_error(made, name, "key", 8, grain).mean() for grain in ("tensor", "head", "channel")]
    assert errors[0] > errors[1] > errors[2] > 0
    assert cache_error(made, name, "key", 4, "tensor").max() == pytest.approx(17 * errors[0], rel=1e-3)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "hidden_size": 64}, (4, 8, 8)),
        ({"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}, (4, 2, 8)),
        ({"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64, "head_dim": 32}, (2, 8, 32)),
        ({"text_config": {"num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8}, "vision_config": {}}, (3, 2, 4)),
        ({"num_layers": 28, "num_attention_heads": 32, "multi_query_group_num": 2, "kv_channels": 128}, (28, 2, 128)),
    ],
)
def test_what_a_config_says_of_the_cache(config: dict[str, Any], shape: tuple[int, int, int]) -> None:
    assert cache_shape(config) == CacheShape(*shape)


def test_a_config_without_layers_is_refused() -> None:
    with pytest.raises(CheckpointError, match="how many layers"):
        cache_shape({"num_hidden_layers": None, "hidden_size": 64})


def test_nothing_is_made_of_what_cannot_be_written(tmp_path: Path) -> None:
    made, out = table(), tmp_path / "out"
    for wrong in (
        lambda: write_lmdeploy(made, out, tp=3),
        lambda: write_json(made, out, tp=-1),
        lambda: write_msmodelslim(made, out),
    ):
        with pytest.raises((InputError, CheckpointError)):
            wrong()
    made.arrays["channel/max"][0] = np.nan
    with pytest.raises(CheckpointError, match="no finite numbers"):
        write_lmdeploy(made, out)
    assert not out.exists()
    write_lmdeploy(table(), out, tp=2)
    with pytest.raises(OutputError, match=r"layers.0.past_kv_scale.1.weight, which would be taken"):
        write_lmdeploy(table(), out, tp=1)


def test_a_table_whose_two_files_disagree_is_refused(tmp_path: Path) -> None:
    made = table()
    for number, (key, value) in enumerate({"entries": [["a", "key", 99]], "shapes": [[2, 4]], "linears": None}.items()):
        folder = tmp_path / str(number)
        folder.mkdir()
        StatsTable(made.arrays, made.meta | {key: value}).save(folder)
        with pytest.raises(CheckpointError, match=r"not of one table|no statistics table"):
            StatsTable.load(folder)
