"""lmdeploy's files of K/V scales."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from quantui.errors import CheckpointError, OutputError
from quantui.formats.catalog import FORMATS, open_quantized
from quantui.numerics.quantized import CacheOutline, CacheScales, Weights
from tests.formats.folders import files_of
from tests.formats.layers import folder_of, random_layer

pytestmark = pytest.mark.engine
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures/lmdeploy/kv_qparams-gqa"
KV = FORMATS["lmdeploy-kv"]


@pytest.mark.parametrize("name", ["weights_sym_tp1", "weights_asym_tp1", "weights_sym_tp2", "weights_asym_tp2"])
def test_files_are_written_again_byte_for_byte(name: str, tmp_path: Path) -> None:
    opened = open_quantized(FIXTURES / name)
    assert [cache.name for cache in opened.caches] == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    KV.write(opened, tmp_path)
    theirs = files_of(FIXTURES / name)
    assert files_of(tmp_path) == {key: value for key, value in theirs.items() if key != "stdout.txt"}


def test_scales_of_a_quantized_model_become_files(tmp_path: Path) -> None:
    scale, zero = torch.tensor([0.5]), torch.tensor([-3], dtype=torch.int8)
    cache = CacheScales("model.layers.7.self_attn", "int", 8, "tensor", False, scale, scale * 2, zero, zero)
    KV.write(folder_of([random_layer(Weights(), None, 8, 64)], tmp_path / "plain", [cache]), tmp_path)
    (file,) = tmp_path.glob("layers.7.*")
    assert torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float32).tolist() == [0.5, 1.5, 1.0, 3.0]


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    folder = shutil.copytree(FIXTURES / "weights_asym_tp2", tmp_path / "kv")
    (folder / "layers.0.past_kv_scale.1.weight").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match="has 4 bytes"):
        open_quantized(folder)
    (folder / "layers.0.past_kv_scale.1.weight").rename(folder / "layers.0.past_kv_scale.3.weight")
    (folder / "layers.0.past_kv_scale.3.weight").write_bytes(bytes(16))
    with pytest.raises(CheckpointError, match="files of layer 0"):
        open_quantized(folder)
    with pytest.raises(OutputError, match="kv-qparams"):
        KV.write(folder_of([random_layer(Weights(), None, 8, 64)], tmp_path / "plain"), tmp_path)
    assert "float8" in str(KV.refusal_of_cache(CacheOutline("float8", 8, "tensor", False)))
    assert "by channel" in str(KV.refusal_of_cache(CacheOutline("int", 8, "channel", True)))
