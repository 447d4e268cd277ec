"""compressed-tensors folders: what its own compressors make is read as they read it, and written as they write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.compressors.format import infer_module_format
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam
from safetensors.torch import load_file

from quantui.errors import CheckpointError
from quantui.formats.compressed_tensors import CompressedTensors
from tests.formats.folders import files_of, write_folder

pytestmark = pytest.mark.engine
LAYER = "model.layers.0.self_attn.q_proj"
FORMAT, DENSE = CompressedTensors("compressed-tensors"), CompressedTensors("compressed-tensors-dense", dense=True)
INT8_TOKEN = {"num_bits": 8, "strategy": "token", "dynamic": True}
STATIC = {"num_bits": 8, "strategy": "tensor", "symmetric": False}
FP8_STATIC = {"num_bits": 8, "type": "float", "strategy": "tensor"}
SCHEMES: dict[str, tuple[dict[str, Any], dict[str, Any] | None]] = {
    "int8 channel": ({"num_bits": 8, "strategy": "channel"}, INT8_TOKEN),
    "int8 static": ({"num_bits": 8, "strategy": "channel"}, STATIC),
    "int8 tensor": ({"num_bits": 8, "strategy": "tensor"}, INT8_TOKEN),
    "int4 with int8": ({"num_bits": 4, "strategy": "group", "group_size": 32}, INT8_TOKEN),
    **{f"w{bits}a16": ({"num_bits": bits, "strategy": "group", "group_size": 32}, None) for bits in range(2, 9)},
    **{
        f"w{b}a16 asymmetric": ({"num_bits": b, "strategy": "group", "group_size": 16, "symmetric": False}, None)
        for b in (3, 4, 8)
    },
    "w4a16 channel asymmetric": ({"num_bits": 4, "strategy": "channel", "symmetric": False}, None),
    "fp8 tensor": ({"num_bits": 8, "type": "float", "strategy": "tensor"}, FP8_STATIC),
    "fp8 channel": (
        {"num_bits": 8, "type": "float", "strategy": "channel"},
        FP8_STATIC | {"strategy": "token", "dynamic": True},
    ),
    "fp8 block": ({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 32]}, FP8_STATIC),
    "fp8 weights": ({"num_bits": 8, "type": "float", "strategy": "channel"}, None),
    "nvfp4": (
        {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
        None,
    ),
    "mxfp4": ({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}, None),
    "mxfp8": ({"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"}, None),
}


def state(
    weights: QuantizationArgs, inputs: QuantizationArgs | None, *, rows: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """A layer as the engine holds it before it is compressed: weight, scales, zero points, bias."""
    torch.manual_seed(rows)
    weight = torch.randn(rows, 64, dtype=dtype)
    low, high = extremes(weight, weights)
    whole = generate_gparam(weight.amin(), weight.amax()) if weights.strategy == "tensor_group" else None
    scale, zero = calculate_qparams(low, high, weights, global_scale=whole)
    held = {"weight": weight, "weight_scale": scale, "weight_zero_point": zero, "bias": torch.randn(rows, dtype=dtype)}
    if whole is not None:
        held["weight_global_scale"] = whole.reshape(1)
    if inputs is not None and not inputs.dynamic:
        held["input_scale"] = torch.tensor([0.03], dtype=dtype)
        held["input_zero_point"] = torch.tensor([-7], dtype=torch.int8)
    return held


def extremes(weight: torch.Tensor, args: QuantizationArgs) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest values of what shares a scale."""
    if args.strategy == "tensor":
        view = weight.reshape(1, -1)
        return view.amin(1), view.amax(1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "block":
        height, width = args.block_structure or (1, 1)
        blocks = weight.unflatten(0, (-1, height)).unflatten(2, (-1, width))
        return blocks.amin((1, 3)), blocks.amax((1, 3))
    groups = weight.unflatten(1, (-1, args.group_size))
    return groups.amin(2), groups.amax(2)


def compressed(
    name: str, folder: Path, *, rows: int = 48, dtype: torch.dtype = torch.bfloat16
) -> tuple[Path, dict[str, torch.Tensor], torch.Tensor]:
    """A folder that holds one layer as the engine compresses it, those tensors, and the weight as the engine reads it."""
    weights, inputs = SCHEMES[name]
    arguments = QuantizationArgs(**weights), QuantizationArgs(**inputs) if inputs else None
    scheme = QuantizationScheme(targets=["Linear"], weights=arguments[0], input_activations=arguments[1])
    stored = infer_module_format(torch.nn.Linear, scheme)
    scheme.format = stored
    compressor = BaseCompressor.get_value_from_registry(stored.value)
    made = compressor.compress(state(*arguments, rows=rows, dtype=dtype), scheme)
    if scheme.weights.symmetric:
        made.pop("weight_zero_point", None)
    body = {"config_groups": {"group_0": json.loads(scheme.model_dump_json())}, "format": stored.value, "ignore": ["lm_head"]}
    tensors = {f"{LAYER}.{leaf}": tensor for leaf, tensor in made.items()}
    more = {"lm_head.weight": torch.ones(32, 64, dtype=dtype), "model.embed_tokens.weight": torch.ones(32, 64, dtype=dtype)}
    quantization = body | {"quant_method": "compressed-tensors", "quantization_status": "compressed"}
    write_folder(folder, tensors | more, quantization)
    return folder, tensors | more, compressor.decompress(made, scheme)["weight"]


@pytest.mark.parametrize("name", SCHEMES)
def test_it_reads_what_the_engine_reads_and_writes_what_it_writes(name: str, tmp_path: Path) -> None:
    folder, tensors, theirs = compressed(name, tmp_path / "源 folder")
    opened = FORMAT.open(folder)
    (part,) = opened.layers
    layer = part.load(False)
    assert torch.equal(layer.dequantize(theirs.dtype), theirs)
    assert part.load(True).outline == part.outline == layer.outline
    assert FORMAT.refusal(part.outline) is None
    for number, source in enumerate((folder, tmp_path / "0")):
        target = tmp_path / str(number)
        target.mkdir()
        FORMAT.write(FORMAT.open(source), target)
        written = load_file(target / "model.safetensors")
        assert written.keys() == tensors.keys()
        for key, tensor in tensors.items():
            assert written[key].dtype == tensor.dtype and torch.equal(bytes_of(written[key]), bytes_of(tensor)), key
    assert files_of(tmp_path / "0") == files_of(tmp_path / "1")
    QuantizationScheme(
        **json.loads((tmp_path / "0/config.json").read_text())["quantization_config"]["config_groups"]["group_0"]
    )


def bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """Its bytes, since float8 tensors cannot be compared."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.mark.parametrize("name", ["w4a16", "int8 static", "fp8 channel", "w4a16 asymmetric", "nvfp4"])
def test_dense_keeps_the_weights_it_comes_back_as(name: str, tmp_path: Path) -> None:
    folder, _, _ = compressed(name, tmp_path / "source", dtype=torch.float32)
    before = next(FORMAT.open(folder).read()).dequantize()
    (tmp_path / "dense").mkdir()
    DENSE.write(FORMAT.open(folder), tmp_path / "dense")
    assert DENSE.opens(tmp_path / "dense") and not FORMAT.opens(tmp_path / "dense")
    after = next(DENSE.open(tmp_path / "dense").read())
    torch.testing.assert_close(after.dequantize(), before, rtol=0, atol=1e-2)
    assert load_file(tmp_path / "dense/model.safetensors")[f"{LAYER}.weight"].is_floating_point()


def test_a_folder_that_disagrees_with_its_config_is_refused(tmp_path: Path) -> None:
    folder, tensors, _ = compressed("w4a16", tmp_path / "source")
    body = json.loads((folder / "config.json").read_text())["quantization_config"]
    for leaf, said in (("weight_scale", "weight_scale"), ("weight_packed", "weight_packed")):
        broken = write_folder(tmp_path / leaf, {k: v for k, v in tensors.items() if not k.endswith(leaf)}, body)
        with pytest.raises(CheckpointError, match=f"{LAYER}.*{said}"):
            FORMAT.open(broken)
    other = write_folder(tmp_path / "other", tensors, body | {"quant_method": "gptq"})
    with pytest.raises(CheckpointError, match="gptq"):
        FORMAT.open(other)
    narrow = tensors | {f"{LAYER}.weight_scale": tensors[f"{LAYER}.weight_scale"][:, :1]}
    with pytest.raises(CheckpointError, match=r"weight_scale has the shape"):
        FORMAT.open(write_folder(tmp_path / "narrow", narrow, body))
    cut = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(cut[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        FORMAT.open(folder)
