"""Two models in one process: the numbers of transformers' own, and the original's again with everything off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from quantui.checkpoint.load import load_model
from quantui.compare.pair import Pair, open_pair
from quantui.compare.sites import fitted
from quantui.compare.switches import ALL_OFF, ALL_ON, Switches
from quantui.errors import CheckpointError
from tests.compare.conftest import OpenPair
from tests.compare.made import SCHEMES
from tests.models import tiny

pytestmark = pytest.mark.engine

IDS = torch.arange(5, 45).reshape(2, 20)
LAYER = "model.layers.0.mlp.down_proj"


def logits(pair: Pair, switches: Switches = ALL_ON, side: Any = "quantized") -> torch.Tensor:
    pair.switch(switches)
    made = pair.logits(side, {"input_ids": IDS})
    pair.switch(ALL_ON)
    return made


@pytest.mark.parametrize("name", list(SCHEMES))
def test_the_logits_are_those_of_transformers(name: str, open_one: OpenPair, quantized: Callable[[str], Path]) -> None:
    model = load_model(quantized(name), image_text=False)
    with torch.inference_mode():
        expected = model(IDS).logits
    pair = open_one(name)
    assert (logits(pair) - expected).abs().max() <= 1e-5 * expected.abs().max()
    step = pair.cache("quantized")
    pair.logits("quantized", {"input_ids": IDS[:1, :-1]}, step)
    last = pair.logits("quantized", {"input_ids": IDS[:1, -1:]}, step)
    near = 1e-4 if name == "w4a16" else 2e-2  # another shape of product rounds otherwise, and may move an input's code
    assert (last[0, -1] - expected[0, -1]).abs().max() <= near * expected.abs().max()


@pytest.mark.parametrize("name", list(SCHEMES))
def test_all_off_is_the_original_bit_for_bit(name: str, open_one: OpenPair) -> None:
    pair = open_one(name)
    original = pair.logits("original", {"input_ids": IDS})
    assert torch.equal(logits(pair, ALL_OFF), original)
    everything = frozenset([*pair.sites, *pair.caches])
    assert torch.equal(logits(pair, Switches(original=everything)), original)
    assert not torch.equal(logits(pair), original)
    assert not pair.folded


def test_each_part_can_be_quantized_alone(open_one: OpenPair) -> None:
    pair = open_one("fp8-kv8")
    original = logits(pair, ALL_OFF)
    parts = [Switches(True, False, False), Switches(False, True, False), Switches(False, False, True)]
    made = [logits(pair, part) for part in parts]
    for number, one in enumerate(made):
        assert not torch.equal(one, original)
        assert not any(torch.equal(one, other) for other in made[:number])
    off = logits(pair, ALL_ON.without(LAYER))
    assert not torch.equal(off, logits(pair)) and not torch.equal(off, original)
    assert torch.equal(logits(pair), logits(pair))


def test_weights_are_held_once(open_one: OpenPair) -> None:
    memory = open_one("fp8-kv8").memory()
    linears = 2 * 4 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert linears <= memory["quantized"] < linears + 1024  # and scales
    assert memory["shared"] == memory["original"] - linears


def test_layers_are_listed_with_kind_and_scheme(open_one: OpenPair) -> None:
    rows = {row["name"]: row for row in open_one("fp8-kv8").layers()}
    assert rows[LAYER] == {
        "name": LAYER, "block": 0, "kind": "down", "vision": False, "scheme": "W8A8 fp8 static", "bits": 8,
    }  # fmt: skip
    assert rows["model.layers.1.self_attn"]["kind"] == "kv" and rows["model.layers.1.self_attn"]["scheme"] == "fp8 tensor"
    assert len(rows) == 16


def test_a_rescaling_that_was_folded_in_is_found_again() -> None:
    torch.manual_seed(0)
    weight, rows, columns = torch.randn(48, 32), torch.rand(48, 1) + 0.5, torch.rand(1, 32) * 4 + 0.2
    target = rows * weight * columns
    found = fitted(target + 0.01 * torch.randn(48, 32), weight)
    assert found is not None and (found - target).norm() < 0.02 * target.norm()
    assert fitted(torch.randn(48, 32), weight) is None


def test_smoothing_keeps_layers_switchable(llama: Path, quantized: Callable[[str], Path], tmp_path: Path) -> None:
    """A norm divided and what it feeds multiplied: a layer that is switched back still fits its place."""
    pair = open_pair(llama, quantized("int8-dynamic"))
    expected = pair.logits("original", {"input_ids": IDS})
    smooth = torch.linspace(0.25, 4, 64)
    block = pair.models["quantized"].model.layers[0]
    norm = torch.nn.Parameter(block.input_layernorm.weight / smooth, requires_grad=False)
    sites = list(pair.sites.values())
    for site in sites[:3]:
        assert site.name.split(".")[-1] in ("q_proj", "k_proj", "v_proj")
        site.quantized["weight"] = torch.nn.Parameter(site.original["weight"] * smooth, requires_grad=False)
        site.inputs = None
    for rest in sites[3:]:
        rest.quantized, rest.inputs = rest.original, None
    block.input_layernorm.weight = norm
    folded = Pair(pair.models["original"], pair.models["quantized"], pair.processor, image_text=False, sites=sites, caches=[])
    assert folded.folded
    close = folded.logits("quantized", {"input_ids": IDS})
    assert (close - expected).abs().max() < 1e-4
    folded.switch(ALL_ON.without(sites[0].name))
    assert (folded.logits("quantized", {"input_ids": IDS}) - expected).abs().max() < 1e-4
    folded.switch(ALL_OFF)
    assert torch.equal(folded.logits("quantized", {"input_ids": IDS}), expected)


def test_other_shapes_and_tokenizers_are_refused(llama: Path, quantized: Callable[[str], Path], tmp_path: Path) -> None:
    other = tiny.save_llama(tmp_path / "deep", layers=3)
    with pytest.raises(CheckpointError, match="num_hidden_layers is 2 in the original and 3 here"):
        open_pair(llama, other)
    words = quantized("kv-only") / "tokenizer.json"
    text = words.read_text()
    try:
        words.write_text(text.replace('"Ġfox":', '"Ġfax":'))
        assert words.read_text() != text
        with pytest.raises(CheckpointError, match="different tokenizers"):
            open_pair(llama, quantized("kv-only"))
    finally:
        words.write_text(text)
