"""AWQ and lmdeploy's W8A8: what lmdeploy wrote is read, and written again byte for byte."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from quantui.errors import CheckpointError, OutputError, ResultError
from quantui.formats.awq import Awq
from quantui.formats.base import Format
from quantui.formats.catalog import FORMATS, open_quantized
from quantui.formats.lmdeploy import LmdeployW8A8
from quantui.formats.reread import compare
from quantui.numerics.pack import ACROSS, EIGHTS
from quantui.numerics.quantized import Inputs, Outline, Weights
from tests.formats.folders import files_of
from tests.formats.layers import folder_of, random_layer

pytestmark = pytest.mark.engine
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/lmdeploy"
INT8, FLOAT8 = Inputs("int", 8, "token", True), Inputs("float8", 8, "token", True)


@pytest.mark.parametrize(
    ("name", "held"), [("gqa-awq", Awq()), ("gqa-awq_rtn", Awq()), ("gqa-sq_int8", LmdeployW8A8())], ids=lambda x: str(x)[:12]
)
def test_a_folder_is_written_again_byte_for_byte(name: str, held: Format, tmp_path: Path) -> None:
    opened = open_quantized(FIXTURES / name)
    assert opened.format == held.name
    held.write(opened, tmp_path)
    assert files_of(tmp_path) == files_of(FIXTURES / name)


@pytest.mark.parametrize("name", ["gqa-awq_rtn"])
def test_weights_come_back_within_half_a_scale(name: str) -> None:
    original = load_file(FIXTURES / "model-gqa/model.safetensors")
    for layer in open_quantized(FIXTURES / name).read():
        assert layer.scale is not None
        scale = layer.scale.float().repeat_interleave(128, 1)
        off = (layer.dequantize() - original[f"{layer.name}.weight"].float()).abs()
        assert bool((off <= 0.52 * scale).all())  # float16 scales take 0.02 of one


def test_smoothed_int8_weights_come_back_within_half_a_scale() -> None:
    smoothed = load_file(FIXTURES / "gqa-sq_int8/model.safetensors")
    original = load_file(FIXTURES / "model-gqa/model.safetensors")
    for layer in open_quantized(FIXTURES / "gqa-sq_int8").read():
        norm = {"q": "input", "k": "input", "v": "input", "gate": "post_attention"}
        if kind := norm.get(layer.name.rpartition(".")[2].removesuffix("_proj")):
            block = layer.name.rpartition(".")[0].rpartition(".")[0]
            key = f"{block}.{kind}_layernorm.weight"
            ratio = original[key].float() / smoothed[key].float()
            assert layer.scale is not None
            wanted = original[f"{layer.name}.weight"].float() * ratio
            assert bool(((layer.dequantize() - wanted).abs() <= 0.51 * layer.scale + 2e-3 * wanted.abs()).all())


@pytest.mark.parametrize(("rows", "columns"), [(16, 64), (EIGHTS * 8 + 16, ACROSS * 8 + 32)], ids=["one tile", "four tiles"])
def test_words_are_those_of_the_layout_written_out(rows: int, columns: int, tmp_path: Path) -> None:
    layer = random_layer(Weights(bits=4, strategy="group", group_size=32, symmetric=False), None, rows, columns)
    Awq().write(folder_of([layer], tmp_path / "plain"), tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    words = held[f"{layer.name}.qweight"].numpy().view(np.uint32)
    for row, place in enumerate((0, 4, 1, 5, 2, 6, 3, 7)):
        assert np.array_equal(words >> (4 * place) & 15, layer.codes[row::8].t().numpy() + 8)
    assert held["model.norm.weight"].dtype == torch.float16


def test_words_go_from_folder_to_folder_as_they_are(tmp_path: Path) -> None:
    layer = random_layer(
        Weights(bits=4, strategy="group", group_size=32, symmetric=False), None, EIGHTS * 8 + 16, ACROSS * 8 + 32
    )
    assert layer.scale is not None
    layer = dataclasses.replace(layer, scale=layer.scale.half())
    other = dataclasses.replace(layer, codes=layer.codes.clone())
    other.codes[-1, -1] ^= 1
    packed, awq, changed, again = (tmp_path / name for name in ("packed", "awq", "changed", "again"))
    for folder in (packed, awq, changed, again):
        folder.mkdir()
    FORMATS["compressed-tensors"].write(folder_of([layer], tmp_path / "plain"), packed)
    Awq().write(open_quantized(packed), awq)
    Awq().write(folder_of([other], tmp_path / "plain"), changed)
    FORMATS["compressed-tensors"].write(open_quantized(awq), again)
    assert compare(open_quantized(packed), open_quantized(awq)) == 0
    one, two = (load_file(folder / "model.safetensors")[f"{layer.name}.weight_packed"] for folder in (packed, again))
    assert torch.equal(one, two)
    for before, after in ((packed, changed), (awq, changed)):
        with pytest.raises(ResultError, match="q_proj: a weight came back"):
            compare(open_quantized(before), open_quantized(after))


def dequantized(held: dict[str, torch.Tensor], name: str, size: int) -> np.ndarray:
    """The weight (in, out) in float16 by AutoAWQ 0.2.9's formula (awq/utils/packing_utils.py), in which nibble j of a word is
    the column order[j] of its eight, and what comes back is (code - zero) * scale."""

    def columns(leaf: str) -> np.ndarray:
        words = held[f"{name}.{leaf}"].numpy().view(np.uint32)
        nibbles = words[:, :, None] >> np.arange(0, 32, 4, dtype=np.uint32) & 15
        return nibbles[:, :, [0, 4, 1, 5, 2, 6, 3, 7]].reshape(len(words), -1).astype(np.int16)

    zeros, scales = (x.repeat(size, 0) for x in (columns("qzeros"), held[f"{name}.scales"].numpy()))
    return (columns("qweight") - zeros).astype(np.float16) * scales


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_autoawq_would_make_the_same_weights_of_it(dtype: str, tmp_path: Path) -> None:
    """Bit for bit; its own dequantize_gemm gave the same of these and of lmdeploy's folders when it was run on them."""
    weights = Weights(bits=4, strategy="group", group_size=32, symmetric=False)
    (tmp_path / "made").mkdir()
    Awq().write(folder_of([random_layer(weights, None, 72, 128, dtype=dtype)], tmp_path / "plain"), tmp_path / "made")
    for folder, size in ((tmp_path / "made", 32), (FIXTURES / "gqa-awq_rtn", 128)):
        held = load_file(folder / "model.safetensors")
        for layer in open_quantized(folder).read():
            assert np.array_equal(dequantized(held, layer.name, size), layer.dequantize(torch.float16).T.numpy())


@pytest.mark.parametrize(
    ("held", "weights", "inputs", "shape", "said"),
    [
        (Awq(), Weights(bits=4, strategy="group", group_size=128), None, (12, 256), "12x256 is no multiple"),
        (Awq(), Weights(bits=8), None, (16, 256), "int8"),
        (Awq(), Weights(bits=4), INT8, (16, 256), "inputs are quantized"),
        (LmdeployW8A8(), Weights(), None, (16, 256), "inputs are in float"),
        (LmdeployW8A8(), Weights(), Inputs(), (16, 256), "inputs are static"),
        (LmdeployW8A8(), Weights(symmetric=False), INT8, (16, 256), "symmetric"),
    ],
)
def test_what_they_cannot_hold(
    held: Format, weights: Weights, inputs: Inputs | None, shape: tuple[int, int], said: str
) -> None:
    assert said in str(held.refusal(Outline("model.layers.0.mlp.up_proj", weights, inputs, *shape)))
    assert "lm_head" in str(Awq().refusal(Outline("lm_head", Weights(bits=4), None, 128, 128)))


def test_what_float16_cannot_hold_is_named(tmp_path: Path) -> None:
    layer = random_layer(Weights(bits=4, strategy="group", group_size=32), None, 8, 64, dtype="bfloat16")
    assert layer.scale is not None
    layer.scale[0, 0] = 1e-12
    with pytest.raises(OutputError, match=r"q_proj.*float16"):
        Awq().write(folder_of([layer], tmp_path / "plain"), tmp_path)
    other = random_layer(Weights(bits=4, strategy="group", group_size=64), None, 8, 64, layer=1)
    with pytest.raises(OutputError, match=r"layers.1.self_attn.q_proj.*one size a model"):
        Awq().write(folder_of([layer, other], tmp_path / "plain"), tmp_path / "plain")


def test_a_folder_that_disagrees_with_its_config_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "gqa-awq_rtn", tmp_path / "awq")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["group_size"] = 64
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"qzeros is I32 \(4, 32\), where I32 \(8, 32\) belongs for groups of 64"):
        open_quantized(folder)
    plain = shutil.copytree(FIXTURES / "model-gqa", tmp_path / "plain")
    for method, said in (("awq", "no tensor is a qweight"), ("smooth_quant", "there is no scale")):
        body = json.loads((FIXTURES / "model-gqa/config.json").read_text()) | {"quantization_config": {"quant_method": method}}
        (plain / "config.json").write_text(json.dumps(body))
        with pytest.raises(CheckpointError, match=said):
            open_quantized(plain)
