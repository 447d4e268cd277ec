"""Folders with one tensor or one word of their JSON changed: one sentence, and never another tensor in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantui.errors import CheckpointError
from quantui.formats.base import LayerPart
from quantui.formats.catalog import FORMATS, open_quantized
from quantui.formats.reread import compare
from quantui.numerics.quantized import CacheScales, QuantizedLayer
from tests.formats.layers import folder_of, part_of, random_layer
from tests.formats.test_round_trips import SCHEMES, scheme_of

pytestmark = pytest.mark.engine
Change = Callable[[torch.Tensor], torch.Tensor]
LAYER = "model.layers.0.mlp.down_proj"
OWNER = "model.layers.0.self_attn"


def written(folder: Path, format: str, scheme: str) -> Path:
    """A folder of one layer, and a K/V cache where msModelSlim or the engine has one."""
    columns = 512 if SCHEMES[scheme][0].ranks else 256
    layer = random_layer(*scheme_of(scheme, columns), 16, columns, bias=True, dtype="float16", leaf="mlp.down_proj")
    scales = (torch.full((32,), 0.5), torch.full((32,), 0.25))
    caches = [CacheScales(OWNER, "int", 8, "channel", True, *scales, key=f"{OWNER}.k_proj", value=f"{OWNER}.v_proj")]
    if format.startswith("compressed"):
        scales, zeros = (scales[0][:1], scales[1][:1]), (torch.tensor([3]), torch.tensor([-3]))
        caches = [CacheScales(OWNER, "int", 8, "tensor", False, *scales, *zeros)]
    folder.mkdir()
    held = FORMATS[format]
    source = folder_of([layer], folder.parent / "plain", [c for c in caches if held.refusal_of_cache(c) is None])
    held.write(source, folder)
    return folder


def read(folder: Path) -> list[QuantizedLayer]:
    """Every layer as an export asks for it: its shapes, then all of it."""
    opened = open_quantized(folder)
    return [part.load(meta) for meta in (True, False) for part in opened.layers]


def to(dtype: torch.dtype) -> Change:
    return lambda tensor: tensor.to(torch.float32).to(dtype)


def worth(value: float) -> Change:
    return lambda tensor: torch.cat((torch.full_like(tensor.reshape(-1)[:1], value), tensor.reshape(-1)[1:])).reshape(
        tensor.shape
    )


TENSORS: tuple[tuple[str, str, str, Change, str], ...] = (
    ("awq", "W4A16 g128", ".qweight", lambda t: t.reshape(-1), r"qweight is I32 \(512,\), where I32 of two dimensions"),
    ("awq", "W4A16 g128", ".qweight", to(torch.float32), "qweight is F32"),
    ("awq", "W4A16 g128", ".qzeros", to(torch.int8), "qzeros is I8"),
    ("awq", "W4A16 g128", ".scales", lambda t: t.view(torch.int16), "scales is I16"),
    ("awq", "W4A16 g128", ".scales", worth(float("nan")), f"{LAYER} has a scale that holds what is no finite number"),
    ("awq", "W4A16 g128", ".bias", lambda t: t[:8], rf"bias of {LAYER} is float16 \(8,\), where float32 \(16,\) belongs"),
    ("compressed-tensors", "W4A16 g64", ".weight_zero_point", lambda t: t.t(), "weight_zero_point is I32"),
    ("compressed-tensors", "W4A16 g64", ".weight_zero_point", lambda t: t[:1], "weight_zero_point is I32"),
    ("compressed-tensors", "W4A16 g64", ".weight_shape", lambda t: t[:0], "weight_shape is I64"),
    ("compressed-tensors", "W4A16 g64", ".weight_shape", lambda t: t.flip(0), "weight_shape says 256x16"),
    ("compressed-tensors", "W4A16 g64", ".k_scale", worth(-1.0), f"{OWNER} has a key scale that is not positive"),
    ("compressed-tensors", "W4A16 g64", ".k_scale", lambda t: torch.cat((t, t)), f"key scale of {OWNER}"),
    ("compressed-tensors", "W8A8", ".input_scale", lambda t: torch.cat((t, t)), "input scale of"),
    ("compressed-tensors", "W8A8", ".weight", lambda t: t.view(torch.uint8), "weight is U8"),
    ("compressed-tensors", "nvfp4", ".weight_packed", to(torch.float32), "weight_packed is F32"),
    ("compressed-tensors", "nvfp4", ".weight_global_scale", worth(float("inf")), "divisor that holds"),
    ("compressed-tensors", "fp8 channel", ".weight", worth(float("nan")), "codes that are no numbers"),
    ("compressed-tensors-dense", "W4A16 g64", ".weight", worth(float("nan")), "weights that are no finite numbers"),
    ("msmodelslim", "W8A8", ".deq_scale", to(torch.int32), "deq_scale is I32"),
    ("msmodelslim", "W8A8", ".quant_bias", lambda t: t[:8], "quant bias of"),
    ("msmodelslim", "W8A8", ".input_offset", lambda t: torch.cat((t, t)), "input zero of"),
    ("msmodelslim", "W8A8", ".v_proj.kv_cache_scale", worth(0.0), f"{OWNER} has a value scale that is not positive"),
    ("msmodelslim", "W8A8", ".k_proj.kv_cache_offset", lambda t: t[:8], "key zero of"),
    ("msmodelslim", "NF4", ".weight", lambda t: t[:-1], "shape says 16x256, but .*weight has 4094 codes"),
    ("ascend-v1", "W4A16", ".weight", to(torch.int32), "weight is I32"),
    ("ascend-v1", "W4A8_DYNAMIC", ".weight_scale_second", lambda t: t[:, :0], "has 0 scales a row"),
    ("ascend-v1", "W4A8_DYNAMIC", ".weight_scale", lambda t: t[:, 0], "the scale of"),
    ("ascend-v1", "W8A8 ranks", ".tp_list.1.weight_scale", lambda t: t[:0], "weight_scale has 0 rows|the scale of"),
    ("ascend-v1", "W8A8 ranks", ".tp_list.0.input_scale", lambda t: torch.cat((t, t)), "input scale of"),
    ("lmdeploy-w8a8", "W8A8_DYNAMIC", ".scale", to(torch.int16), "scale is I16"),
)


@pytest.mark.parametrize(("format", "scheme", "leaf", "change", "said"), TENSORS)
def test_a_tensor_of_another_kind_is_named(
    format: str, scheme: str, leaf: str, change: Change, said: str, tmp_path: Path
) -> None:
    folder = written(tmp_path / "folder", format, scheme)
    assert read(folder)
    (file,) = (file for file in folder.glob("*.safetensors") if any(name.endswith(leaf) for name in load_file(file)))
    held = load_file(file)
    (name,) = (name for name in held if name.endswith(leaf) and name.startswith((LAYER, OWNER)))
    save_file(held | {name: change(held[name]).contiguous()}, file)
    with pytest.raises(CheckpointError, match=said):
        read(folder)


GROUP = ("config_groups", "group_0")
WORDS: tuple[tuple[tuple[str, ...], Any, str], ...] = (
    (("config_groups",), [1], r"quantization_config cannot be read \(config_groups: "),
    (GROUP, None, r"quantization_config cannot be read \(config_groups.group_0: "),
    ((*GROUP, "weights", "num_bits"), "x", r"group_0 cannot be read \(weights.num_bits: "),
    ((*GROUP, "targets"), ["re:["], r"cannot be read \(unterminated character set"),
    ((*GROUP, "weights", "symmetric"), True, "zero points other than 0"),
    (("kv_cache_scheme", "symmetric"), True, "zero points other than 0"),
    (("kv_cache_scheme", "num_bits"), 99, r"cannot be read \(kv_cache_scheme.num_bits: "),
    (("ignore",), 3, r"cannot be read \(ignore: "),
    (("transform_config",), "x", r"cannot be read \(transform_config: "),
)


@pytest.mark.parametrize(("path", "value", "said"), WORDS, ids=lambda value: str(value)[:40])
def test_a_config_that_says_something_else_is_refused(path: tuple[str, ...], value: Any, said: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", "compressed-tensors", "W4A16 g64")
    body = json.loads((folder / "config.json").read_text())
    *above, last = ("quantization_config", *path)
    part = body
    for key in above:
        part = part[key]
    part[last] = value
    (folder / "config.json").write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match=said):
        read(folder)


def test_a_dtype_that_is_none_is_taken_from_the_tensors(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", "compressed-tensors", "W8A8")
    body = json.loads((folder / "config.json").read_text())
    for named, expected in (("auto", "float16"), ("torch.bfloat16", "bfloat16")):
        (folder / "config.json").write_text(json.dumps(body | {"dtype": named}))
        assert open_quantized(folder).dtype == expected


def test_packed_codes_without_their_version_are_not_taken_for_plain_ones(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", "ascend-v1", "W4A16")
    file = folder / "quant_model_description.json"
    body = json.loads(file.read_text())
    del body["version"]
    file.write_text(json.dumps(body))
    with pytest.raises(CheckpointError, match="codes of more than 4 bits"):
        read(folder)


def test_a_bad_group_size_of_awq_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", "awq", "W4A16 g128")
    body = json.loads((folder / "config.json").read_text())
    for size in (None, "128", 0, -2, 1.5):
        body["quantization_config"]["group_size"] = size
        (folder / "config.json").write_text(json.dumps(body))
        with pytest.raises(CheckpointError, match="no number of columns"):
            read(folder)


def test_a_dictionary_whose_keys_are_no_names_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", "numpy", "W8A8")
    file = folder / "quant_bias.npy"
    good, held = file.read_bytes(), np.load(file, allow_pickle=True).item()
    np.save(file, np.array(held | {None: held[LAYER]}, dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        read(folder)
    file.write_bytes(good.replace(b"descr", b"'(((("))
    with pytest.raises(CheckpointError, match="no dictionary of tensors"):
        read(folder)
    np.save(file, np.array(dict.fromkeys((LAYER, "tied"), held[LAYER]), dtype=object), allow_pickle=True)
    with pytest.raises(CheckpointError, match=r"tied.quant_bias is in the files, but not described"):
        read(folder)


def test_ranks_of_a_cache_that_are_gone_are_noticed(tmp_path: Path) -> None:
    for layer, rank in ((0, 0), (0, 1), (1, 0)):
        np.full(4, 0.5, np.dtype("<f4")).tofile(tmp_path / f"layers.{layer}.past_kv_scale.{rank}.weight")
    with pytest.raises(CheckpointError, match="layer 0 has files of 2 ranks, but layer 1 of 1"):
        open_quantized(tmp_path)


def test_an_index_of_msmodelslim_that_is_no_json_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "folder", "msmodelslim", "W8A8")
    for text, said in (("{", "not valid JSON"), ('{"weight_map": null}', "no weight_map")):
        (folder / "quant_model_weight_w8a8.safetensors.index.json").write_text(text)
        with pytest.raises(CheckpointError, match=said):
            open_quantized(folder)


def test_what_comes_back_as_no_number_is_found(tmp_path: Path) -> None:
    layer = random_layer(*scheme_of("W8A16", 64), 8, 64)
    source = folder_of([layer], tmp_path / "plain")
    other = random_layer(*scheme_of("W8A16", 64), 8, 64)
    assert other.scale is not None
    other.scale[0] = float("nan")
    parts = tuple(part_of(other) if isinstance(part, LayerPart) else part for part in source.parts)
    with pytest.raises(Exception, match="came back"):
        compare(source, type(source)(source.folder, source.format, source.config, parts))
    shutil.rmtree(tmp_path / "plain")
