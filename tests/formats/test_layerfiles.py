"""Quantized layers in files of their own beside a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quantui.errors import CheckpointError
from quantui.formats.catalog import open_quantized
from quantui.numerics.layerfiles import FOLDER, save_cache, save_layer
from quantui.numerics.quantized import CacheScales, Inputs, QuantizedLayer, Weights
from tests.formats.folders import write_folder

pytestmark = pytest.mark.engine
NAME = "model.layers.0.self_attn.k_proj"


def test_they_stand_for_the_layers_of_the_model(tmp_path: Path) -> None:
    weights = Weights("int", 4, "group", 32, two_stage=True)
    codes = torch.randint(-7, 8, (8, 64), dtype=torch.int8)
    layer = QuantizedLayer(
        NAME,
        weights,
        Inputs(strategy="token", dynamic=True),
        codes,
        torch.rand(8, 1),
        second=torch.ones(8, 2),
        dtype="bfloat16",
    )
    more = {f"{NAME}.weight": torch.zeros(8, 64), "model.norm.weight": torch.ones(64)}
    folder = write_folder(tmp_path / "model", more, None)
    save_layer(folder, layer)
    save_cache(
        folder, CacheScales("model.layers.0.self_attn", "int", 8, "channel", True, torch.ones(8), torch.ones(8), key=NAME)
    )
    opened = open_quantized(folder)
    assert [part.name for part in opened.parts] == [NAME, "model.norm.weight"]
    assert opened.layers[0].load(True).codes.is_meta
    read = opened.layers[0].load(False)
    assert read.outline == layer.outline and torch.equal(read.dequantize(), layer.dequantize())
    assert opened.caches[0].key == NAME and opened.caches[0].key_zero is None


def test_a_foreign_file_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "model", {f"{NAME}.weight": torch.zeros(8, 64)}, None)
    (folder / FOLDER).mkdir()
    (folder / FOLDER / f"{NAME}.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=NAME):
        open_quantized(folder)
