"""The table without torch: what it holds, what pages ask of it, how fast, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantui.errors import CheckpointError
from quantui.stats.build import SiteArrays, Weights, build
from quantui.stats.kinds import place_of
from quantui.stats.overview import differences, head_map, offenders, ranges
from quantui.stats.table import StatsTable


def site(size: int, random: np.random.Generator, *, shape: tuple[int, ...] | None = None, big: int | None = None) -> SiteArrays:
    high = random.uniform(0.5, 1.5, size).astype(np.float32)
    if big is not None:
        high[big] = 100.0
    channel: dict[str, Any] = {"max": high, "min": -high / 2, "mean": high * 0, "absmean": high / 4}
    channel |= {
        name: random.integers(0, 2, size).astype(np.int32) for name in ("max_sample", "max_token", "min_sample", "min_token")
    }
    return SiteArrays(shape or (size,), 10, True, channel)


def made(blocks: int = 2, hidden: int = 8, inner: int = 12, heads: int = 2, width: int = 4, seed: int = 0) -> StatsTable:
    random = np.random.default_rng(seed)
    sites: list[SiteArrays] = []
    entries: list[tuple[str, str, int]] = []
    linears: list[dict[str, Any]] = []
    at = 0
    groups = {
        ("q_proj", "k_proj", "v_proj"): hidden,
        ("o_proj",): hidden,
        ("gate_proj", "up_proj"): hidden,
        ("down_proj",): inner,
    }
    for block in range(blocks):
        for names, size in groups.items():
            big = 3 if block == 1 and names[0] == "down_proj" else None
            sites.append(site(size, random, big=big))
            shared = len(sites) - 1
            for name in names:
                module = f"model.layers.{block}.{'mlp' if size == inner or 'gate' in names[0] else 'self_attn'}.{name}"
                out = inner if name in ("gate_proj", "up_proj") else heads * width if name in ("k_proj", "v_proj") else hidden
                sites.append(site(out, random))
                entries += [(module, "input", shared), (module, "output", len(sites) - 1)]
                linears.append({"name": module, "in": size, "out": out, "weights": at})
                at += out
        for role in ("key", "value"):
            sites.append(site(heads * width, random, shape=(heads, width)))
            entries.append((f"model.layers.{block}.self_attn", role, len(sites) - 1))
    low = random.uniform(-1, 0, at).astype(np.float32)
    errors, roots = random.random((len(linears), 2)).astype(np.float32), (np.arange(2 * at) % 97 / 97).reshape(2, at)
    weights = Weights(("int8", "int4"), low, -low, errors, roots.astype(np.float16))
    meta = {"dtype": "float32", "samples": ["a.jsonl:1", "a.jsonl:2"], "pieces": {"5": "the", "6": " fox"}}
    return build(sites, entries, linears, meta, weights=weights, samples=[[5, 6], [6, 5]])


def test_a_table_comes_back_as_it_was(tmp_path: Path) -> None:
    before = made()
    before.save(tmp_path)
    after = StatsTable.load(tmp_path)
    assert after.meta == json.loads(json.dumps(before.meta))
    for name, array in before.arrays.items():
        np.testing.assert_array_equal(after.arrays[name], array)
        assert after.arrays[name].dtype == array.dtype
    assert [layer.place.kind for layer in after.layers] == ["q", "k", "v", "o", "gate", "up", "down"] * 2
    assert after.stat("model.layers.1.self_attn", "key", "absmax").shape == (2, 4)
    assert head_map(after, "value").shape == (2, 2)
    layer = after.layers[8]
    assert after.weight(layer, "absmax").shape == (layer.outputs,)
    assert after.weight_errors(layer).keys() == {"int8", "int4"}
    assert after.histogram(layer.name) is None and after.quantiles(layer.name) is None
    with pytest.raises(KeyError, match="--detail"):
        after.stat(layer.name, "input", "std")


def test_the_planted_channel_leads_and_its_cause_is_told() -> None:
    table = made()
    worst = offenders(table)[0]
    assert (worst.layers, worst.channel, worst.kind, worst.block) == (("model.layers.1.mlp.down_proj",), 3, "down", 1)
    assert worst.absmax == 100.0 and worst.ratio > 50
    cause = table.cause(worst.layers[0], "input")
    assert cause.channel == 3 and cause.value == 100.0
    assert cause.where == f"a.jsonl:{cause.sample + 1}"
    assert cause.word == table.words(cause.sample)[cause.token] in ("the", " fox")
    shared = next(one for one in offenders(table) if one.kind == "q")
    assert [name.rpartition(".")[2] for name in shared.layers] == ["q_proj", "k_proj", "v_proj"]


def test_ranges_are_those_of_the_channels() -> None:
    table = made()
    found = ranges(table)
    for number, layer in enumerate(found.layers):
        assert found.high[number] == table.stat(layer.name, "input", "max").max()
        assert found.low[number] == table.stat(layer.name, "input", "min").min()
        assert found.absmean[number] == pytest.approx(table.stat(layer.name, "input", "absmean").mean())
    assert found.p1 is None and (found.tokens == 10).all()


def test_two_tables_are_compared_by_layer() -> None:
    rows = differences(made(), made(seed=1))
    assert len(rows) == 14 and abs(rows[0][3]) >= abs(rows[-1][3])
    assert all(change == 0 for *_, change in differences(made(), made()))


def test_a_large_table_holds_every_layer(tmp_path: Path) -> None:
    """How quick it is, bench/stats_page.py measures."""
    made(80, 512, 1024, 8, 128).save(tmp_path)
    table = StatsTable.load(tmp_path)
    assert len(table.layers) == 560 and len(table.attention) == 80
    assert len(ranges(table).layers) == 560 and len(offenders(table)) and len(head_map(table, "key"))
    name = table.layers[300].name
    assert all(table.stat(name, "input", stat).size for stat in ("max", "min", "mean", "absmax"))
    assert table.weight_errors(table.layers[300])


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    made().save(tmp_path)
    code = (
        "import sys, pathlib\n"
        "from quantui.stats import build, cache_size, grid, kinds, kv, overview, table\n"
        f"found = table.StatsTable.load(pathlib.Path({str(tmp_path)!r}))\n"
        "overview.ranges(found); overview.offenders(found); kv.scales(found, 'key')\n"
        "assert not {'torch', 'transformers', 'safetensors.torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("damage", ["nothing there", "no json", "other format", "other version", "cut"])
def test_what_is_no_table_is_refused(tmp_path: Path, damage: str) -> None:
    if damage != "nothing there":
        made().save(tmp_path)
    meta = tmp_path / "stats.json"
    if damage == "no json":
        meta.write_text("{")
    elif damage == "other format":
        meta.write_text("{}")
    elif damage == "other version":
        meta.write_text(json.dumps(json.loads(meta.read_text()) | {"version": 99}))
    elif damage == "cut":
        data = (tmp_path / "stats.safetensors").read_bytes()
        (tmp_path / "stats.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError):
        StatsTable.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind", "block", "expert", "vision"),
    [
        ("model.layers.3.self_attn.k_proj", "k", 3, None, False),
        ("model.layers.3.mlp.experts.7.down_proj", "down", 3, 7, False),
        ("model.language_model.layers.0.mlp.gate_up_proj", "gate_up", 0, None, False),
        ("model.vision_tower.encoder.layer.1.attention.q_proj", "q", 1, None, True),
        ("lm_head", "head", None, None, False),
        ("model.layers.2.input_layernorm", "norm", 2, None, False),
        ("transformer.h.4.attn", "attention", 4, None, False),
    ],
)
def test_names_tell_the_place(name: str, kind: str, block: int | None, expert: int | None, vision: bool) -> None:
    place = place_of(name)
    assert (place.kind, place.block, place.expert, place.vision) == (kind, block, expert, vision)
