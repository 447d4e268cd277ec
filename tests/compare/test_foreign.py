"""Folders of other formats answer as the folder they were exported from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from quantui.compare.pair import open_pair
from quantui.compare.switches import ALL_OFF, ALL_ON, Switches
from quantui.errors import CheckpointError
from quantui.events import EventWriter
from quantui.formats.run import export
from quantui.spec import ExportSpec
from tests.compare.conftest import OpenPair
from tests.models import tiny

pytestmark = pytest.mark.engine
IDS = torch.arange(5, 45).reshape(2, 20)


@pytest.mark.parametrize(("name", "format"), [("int8-dynamic", "msmodelslim"), ("int8-dynamic", "ascend-v1"), ("w4a16", "awq")])
def test_exported_folders_answer_alike(
    name: str, format: str, open_one: OpenPair, quantized: Callable[[str], Path], llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    spec = ExportSpec(name="t", source=str(quantized(name)), format=format, out=str(out))
    export(spec, EventWriter(tmp_path / "events.jsonl"), tmp_path)
    there = open_one(name)
    here = open_pair(llama, out)
    assert set(here.sites) == set(there.sites)
    expected = there.logits("quantized", {"input_ids": IDS})
    limit = 3e-3 if format == "awq" else 1e-5  # AWQ keeps scales in float16
    assert (here.logits("quantized", {"input_ids": IDS}) - expected).abs().max() <= limit * expected.abs().max()
    here.switch(ALL_OFF)
    assert torch.equal(here.logits("quantized", {"input_ids": IDS}), here.logits("original", {"input_ids": IDS}))
    here.switch(Switches(activations=False))
    weights_only = here.logits("quantized", {"input_ids": IDS})
    here.switch(ALL_ON)
    assert torch.equal(weights_only, here.logits("quantized", {"input_ids": IDS})) == (name == "w4a16")


def test_a_layer_the_original_has_not_is_refused(quantized: Callable[[str], Path], llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    spec = ExportSpec(name="t", source=str(quantized("w4a16")), format="awq", out=str(out))
    export(spec, EventWriter(tmp_path / "events.jsonl"), tmp_path)
    shallow = tiny.save_llama(tmp_path / "shallow", layers=1)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match="that the original has not"):
        open_pair(shallow, out)
