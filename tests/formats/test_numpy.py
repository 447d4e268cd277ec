"""Dictionaries of tensors as msModelSlim saves them with numpy."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from quantui.errors import CheckpointError
from quantui.formats.catalog import open_quantized
from quantui.formats.numpy_dictionaries import NumpyDictionaries
from quantui.numerics.quantized import Weights
from tests.formats.layers import folder_of, random_layer

pytestmark = pytest.mark.engine
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/msmodelslim"


def test_the_dictionaries_hold_what_the_safetensors_hold(tmp_path: Path) -> None:
    opened, twin = open_quantized(FIXTURES / "numpy"), open_quantized(FIXTURES / "kv_w8a8")
    assert opened.format == "numpy" and [part.name for part in opened.parts] == [part.name for part in twin.parts]
    for made, wanted in zip(opened.read(), twin.read(), strict=True):
        assert torch.equal(made.dequantize(), wanted.dequantize()) and torch.equal(made.quant_bias, wanted.quant_bias)  # type: ignore[arg-type]
    NumpyDictionaries().write(opened, tmp_path)
    names = {file.name for file in FIXTURES.joinpath("numpy").iterdir()}
    assert {file.name for file in tmp_path.iterdir()} == names
    for name in names:
        if name.endswith(".npy"):
            ours, theirs = (np.load(folder / name, allow_pickle=True).item() for folder in (tmp_path, FIXTURES / "numpy"))
            assert list(ours) == list(theirs)
            assert all(torch.equal(ours[key], theirs[key]) and ours[key].dtype == theirs[key].dtype for key in ours)


@pytest.mark.parametrize("weights", [Weights(symmetric=False), Weights("nf4", 4, "group", 64)])
def test_a_bias_stands_beside_its_weight(weights: Weights, tmp_path: Path) -> None:
    layer = random_layer(weights, None, 8, 64, bias=True)
    NumpyDictionaries().write(folder_of([layer], tmp_path / "plain"), tmp_path)
    held = np.load(tmp_path / "quant_weight.npy", allow_pickle=True).item()
    assert held[layer.name].ndim == (1 if weights.kind == "nf4" else 2) and torch.equal(held[f"{layer.name}.bias"], layer.bias)


def test_what_a_pickle_must_not_hold_and_what_is_lost_are_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "numpy", tmp_path / "numpy")
    file = folder / "weight_scale.npy"
    good = file.read_bytes()
    for bad, said in ((good[:-50], "no dictionary of tensors"), (good[:128] + pickle.dumps(print), "it holds builtins.print")):
        file.write_bytes(bad)
        with pytest.raises(CheckpointError, match=said):
            open_quantized(folder)
    file.write_bytes(good)
    weights = np.load(folder / "quant_weight.npy", allow_pickle=True).item()
    weights["model.layers.0.self_attn.q_proj"] = torch.zeros(64)
    np.save(folder / "quant_weight.npy", np.array(weights, dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"q_proj has its bias where its weight should be"):
        open_quantized(folder)
    (folder / "quant_model_description_w8a8.json").unlink()
    with pytest.raises(CheckpointError, match="do not tell the scheme"):
        open_quantized(folder)
