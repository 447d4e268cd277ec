"""Pickles and blocks of FP8: names stay, bytes become safetensors and floats."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from quantui.errors import CheckpointError
from tests.checkpoint.convert import sources

pytestmark = pytest.mark.engine

CUSTOM = {"architectures": ["OwnModel"], "model_type": "own_model", "torch_dtype": "float32"}
"""A model that transformers has no class for, so that nothing is asked about its tensors."""


def odd_tensors() -> dict[str, Any]:
    """Tensors of every awkward kind."""
    import torch

    torch.manual_seed(0)
    table = torch.randn(40, 24)
    made = {
        "plain": torch.randn(5, 7),
        "transposed": torch.randn(300, 900).T,
        "permuted": torch.randn(3, 4, 5).permute(2, 0, 1).to(torch.bfloat16),
        "slice": table[3:9, 2:20:3],
        "column": table[:, 5],
        "expanded": torch.randn(6, 1).expand(6, 8),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "hollow": torch.empty(4, 0),
        "whole": table,
        "same": table,
        "overlaps": table[1:],
        "flat": table.view(-1),
        "ints": torch.arange(7),
        "bytes": torch.arange(9, dtype=torch.uint8).reshape(3, 3).T,
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(3, 3).half(),
        "double": torch.randn(3, 3).double(),
        "lm_head.weight": table,
    }
    return {name: tensor.detach() for name, tensor in made.items()}


@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("dtype", ["keep", "bf16", "fp16"])
def test_awkward_tensors_out_of_pickles(tmp_path: Path, files: int, dtype: str) -> None:
    import torch

    tensors = odd_tensors()
    names = list(tensors)
    parts = [{name: tensors[name] for name in names[number::files]} for number in range(files)]
    source = sources.write_bins(tmp_path / "source", CUSTOM, *parts)
    (source / "vocab.txt").write_text("a\n")
    result = sources.run(source, tmp_path / "made", dtype=dtype, max_shard_bytes=200_000)
    assert result["shards"] > 1
    to = {"keep": None, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    wanted = {name: tensor.to(to) if to and tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    sources.same(sources.tensors_of(tmp_path / "made"), wanted)
    assert (tmp_path / "made" / "vocab.txt").read_text() == "a\n"
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config == CUSTOM if dtype == "keep" else config["dtype"] == {"bf16": "bfloat16", "fp16": "float16"}[dtype]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_casts_are_those_of_torch(tmp_path: Path, dtype: str) -> None:
    import torch

    bits = torch.arange(0, 2**31 - 2**24, 40_961, dtype=torch.int64).to(torch.int32)  # exponents and roundings of all kinds
    values = bits.view(torch.float32)
    values = values[values < 65504] if dtype == "fp16" else values[values.isfinite()]
    special = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), float("nan"), 1e-45, 65503.9, -1e-8])
    tensors = {"wide": torch.cat([values, -values]), "special": special, "double": torch.randn(999).double() * 1e-3}
    source = sources.write(tmp_path / "source", {**CUSTOM, "quantization_config": FP8}, tensors)
    sources.run(source, tmp_path / "made", dtype=dtype)
    to = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    sources.same(sources.tensors_of(tmp_path / "made"), {name: tensor.to(to) for name, tensor in tensors.items()})


def test_values_too_large_for_fp16_stop_the_work(tmp_path: Path) -> None:
    import torch

    source = sources.write_bins(tmp_path / "source", CUSTOM, {"big.weight": torch.full((3, 3), 7e4)})
    with pytest.raises(CheckpointError, match=r"big\.weight holds values that fp16 has no room for"):
        sources.run(source, tmp_path / "made", dtype="fp16")
    assert not list(tmp_path.glob("*made*"))


def test_gpt2_with_a_tied_head_and_old_tables(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=50, n_embd=32, n_layer=2, n_head=2, n_positions=32)
    model = sources.random(transformers.GPT2LMHeadModel(config))
    state = model.state_dict() | {f"transformer.h.{n}.attn.bias": torch.ones(1, 1, 32, 32) for n in range(2)}
    body = json.loads(config.to_json_string()) | {"architectures": ["GPT2LMHeadModel"]}
    source = sources.write_bins(tmp_path / "source", body, state)
    result = sources.run(source, tmp_path / "made", verify=True)
    assert result["logit_difference"] < 1e-5
    assert "lm_head.weight" not in sources.tensors_of(tmp_path / "made")
    loaded = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "made")
    sources.same(loaded.state_dict(), model.state_dict())
    record = json.loads((tmp_path / "made" / "quantui_conversion.json").read_text())
    assert record["aliases"] == {"lm_head.weight": "transformer.wte.weight"}


def test_t5_is_asked_by_its_own_class(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4)
    model = sources.random(transformers.T5ForConditionalGeneration(config))
    state = model.state_dict()
    names = {"shared.weight", "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"}
    assert names <= state.keys()
    body = json.loads(config.to_json_string()) | {"architectures": ["T5ForConditionalGeneration"]}
    source = sources.write_bins(tmp_path / "source", body, state)
    result = sources.run(source, tmp_path / "made", verify=True)  # which no causal language model can be loaded for
    assert result["logit_difference"] is None
    assert len(sources.tensors_of(tmp_path / "made").keys() & names) == 1
    loaded = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "made")
    sources.same(loaded.state_dict(), state)


def test_an_untied_head_that_shares_its_data_is_written_out(tmp_path: Path) -> None:
    model = sources.native_text("Llama")
    state = dict(model.state_dict())
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    body = json.loads(model.config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]}
    source = sources.write_bins(tmp_path / "source", body, state)
    assert sources.run(source, tmp_path / "made", verify=True)["logit_difference"] < 1e-5
    sources.same(sources.tensors_of(tmp_path / "made"), state)


def test_missing_and_unknown_tensors_of_a_native_model(tmp_path: Path) -> None:
    import torch

    model = sources.native_text("Llama")
    state = dict(model.state_dict())
    body = json.loads(model.config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]}
    whole = sources.write_bins(tmp_path / "whole", body, state | {"adapter.weight": torch.ones(3)})
    with pytest.raises(CheckpointError, match=r"adapter\.weight belongs to no place in the result.*--allow-extra"):
        sources.run(whole, tmp_path / "made")
    assert list(sources.run(whole, tmp_path / "made", allow_extra=True)["dropped"]) == ["adapter.weight"]
    del state["model.layers.1.mlp.up_proj.weight"]
    state["model.norm.weight"] = torch.ones(7)
    broken = sources.write_bins(tmp_path / "broken", body, state)
    with pytest.raises(CheckpointError) as caught:
        sources.run(broken, tmp_path / "out")
    assert "2 problems" in caught.value.what
    assert "model.layers.1.mlp.up_proj.weight is missing" in caught.value.what
    assert "model.norm.weight would have shape [7] where LlamaForCausalLM asks for [48]" in caught.value.what


class Runs:
    """Pickles to a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def test_an_evil_pickle_runs_nothing(tmp_path: Path) -> None:
    import torch

    proof = tmp_path / "proof"
    source = sources.write_bins(tmp_path / "source", CUSTOM, {"a": torch.ones(3), "b": Runs(f"touch {proof}")})
    with pytest.raises(CheckpointError, match="which is not a tensor, so it is not opened"):
        sources.run(source, tmp_path / "made")
    assert not proof.exists()
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("events")) == ["source"]


FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3", "activation_scheme": "dynamic"}


def blocked(weight: Any, block: tuple[int, int] = (128, 128)) -> tuple[Any, Any]:
    """A matrix as FP8 with one scale a block: (rows, columns) float8, (rows / block, columns / block) float32."""
    import torch

    rows, columns = (-(-size // side) for size, side in zip(weight.shape, block, strict=True))
    made, scales = torch.empty(weight.shape, dtype=torch.float8_e4m3fn), torch.empty(rows, columns)
    for row in range(rows):
        for column in range(columns):
            part = slice(row * block[0], (row + 1) * block[0]), slice(column * block[1], (column + 1) * block[1])
            scales[row, column] = weight[part].abs().max() / 448
            made[part] = (weight[part] / scales[row, column]).to(torch.float8_e4m3fn)
    return made, scales


def dequantized(weight: Any, scales: Any, block: tuple[int, int] = (128, 128)) -> Any:
    """The values again in float32, element by element."""
    import torch

    rows = torch.arange(weight.shape[0]) // block[0]
    columns = torch.arange(weight.shape[1]) // block[1]
    return weight.to(torch.float32) * scales[rows][:, columns]


@pytest.mark.parametrize("dtype", ["keep", "bf16", "fp16"])
@pytest.mark.parametrize("block", [(128, 128), (64, 32)])
def test_blocks_of_fp8_become_floats(tmp_path: Path, dtype: str, block: tuple[int, int]) -> None:
    import torch

    torch.manual_seed(0)
    sizes = [(128, 256), (300, 70), (1, 1), (129, 127), (5, 40_000), (2100, 3000)]
    tensors: dict[str, Any] = {"norm.weight": torch.randn(9), "embed.weight": torch.randn(4, 4).bfloat16()}
    to = torch.float16 if dtype == "fp16" else torch.bfloat16
    wanted = {name: tensor if dtype == "keep" else tensor.to(to) for name, tensor in tensors.items()}
    for number, size in enumerate(sizes):
        weight, scales = blocked(torch.randn(size), block)
        tensors |= {f"l{number}.weight": weight, f"l{number}.weight_scale_inv": scales}
        wanted[f"l{number}.weight"] = dequantized(weight, scales, block).to(to)
    config = {**CUSTOM, "quantization_config": {**FP8, "weight_block_size": list(block)}}
    source = sources.write(tmp_path / "source", config, tensors, shards=3)
    sources.run(source, tmp_path / "made", dtype=dtype)
    sources.same(sources.tensors_of(tmp_path / "made"), wanted)
    made = json.loads((tmp_path / "made" / "config.json").read_text())
    assert "quantization_config" not in made and made["dtype"] == str(to).removeprefix("torch.")
    record = json.loads((tmp_path / "made" / "quantui_conversion.json").read_text())
    assert {move["to"]: move.get("scale") for move in record["moves"]}["l1.weight"] == "l1.weight_scale_inv"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("gone", r"a\.weight is FP8, but its scales are missing"),
        ("shape", r"a\.weight_scale_inv is F32 \[1, 2\] where \[2, 1\] floats belong"),
        ("dtype", r"a\.weight_scale_inv is I64 \[2, 1\]"),
        ("orphan", r"b\.weight_scale_inv belongs to no place"),
        ("cube", r"a\.weight is FP8 with 3 axes"),
    ],
)
def test_scales_that_do_not_fit(tmp_path: Path, change: str, said: str) -> None:
    import torch

    weight, scales = blocked(torch.randn(200, 100))
    tensors = {"a.weight": weight, "a.weight_scale_inv": scales}
    if change == "gone":
        del tensors["a.weight_scale_inv"]
    else:
        more: dict[str, dict[str, Any]] = {
            "shape": {"a.weight_scale_inv": scales.T},
            "dtype": {"a.weight_scale_inv": scales.long()},
            "orphan": {"b.weight_scale_inv": scales.clone()},
            "cube": {"a.weight": weight[None]},
        }
        tensors |= more[change]
    source = sources.write(tmp_path / "source", {**CUSTOM, "quantization_config": FP8}, tensors)
    with pytest.raises(CheckpointError, match=said):
        sources.run(source, tmp_path / "made")


def test_a_mixture_of_experts_in_fp8_with_a_tensor_an_expert(tmp_path: Path) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    options = {"moe_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}
    config = transformers.Qwen3MoeConfig(**sources.TEXT | options)
    model = sources.random(transformers.Qwen3MoeForCausalLM(config))
    plain = sources.saved(model, tmp_path / "native")
    assert "model.layers.0.mlp.experts.0.gate_proj.weight" in plain
    tensors = {}
    for name, tensor in plain.items():
        if "proj" in name:
            tensors[name], tensors[f"{name}_scale_inv"] = blocked(tensor, (16, 16))
            plain[name] = dequantized(tensors[name], tensors[f"{name}_scale_inv"], (16, 16)).bfloat16()
        else:
            tensors[name] = plain[name] = tensor.bfloat16()
    body = json.loads((tmp_path / "native" / "config.json").read_text())
    body["quantization_config"] = {**FP8, "weight_block_size": [16, 16]}
    source = sources.write(tmp_path / "source", body, tensors, shards=2)
    sources.run(source, tmp_path / "made", verify=True)
    sources.same(sources.tensors_of(tmp_path / "made"), plain)
    transformers.Qwen3MoeForCausalLM.from_pretrained(tmp_path / "made")


def test_a_language_model_in_fp8_says_the_same(tmp_path: Path) -> None:
    model = sources.native_text("Qwen3", head_dim=8)
    plain = sources.saved(model, tmp_path / "native")
    tensors = dict(plain)
    for name in [name for name in plain if "_proj" in name]:
        tensors[name], tensors[f"{name}_scale_inv"] = blocked(plain[name], (16, 16))
    body = json.loads((tmp_path / "native" / "config.json").read_text())
    body["quantization_config"] = {**FP8, "weight_block_size": [16, 16]}
    result = sources.run(sources.write(tmp_path / "source", body, tensors), tmp_path / "made", verify=True)
    assert result["logit_difference"] < 1e-5 * result["logit_largest"]
