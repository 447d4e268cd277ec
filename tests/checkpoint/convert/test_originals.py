"""The original architectures against their authors' own results, and against transformers where it has the same model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quantui.checkpoint.convert import originals
from quantui.checkpoint.convert.originals.known import ratio_scales
from quantui.errors import CheckpointError

pytestmark = pytest.mark.engine
UPSTREAM = Path(__file__).parents[2] / "fixtures" / "upstream"
CLOSE = 5e-6
"""Float32 logits of some units, summed in another order."""
ROUNDING = 1e-5
"""The same, relative to the largest value, between two programs whose weights are larger than a trained model's."""

SMALL = {
    "vocab_size": 97, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    """config.json of a fixture."""
    return json.loads((UPSTREAM / name / "config.json").read_text())  # type: ignore[no-any-return]


def weights_of(name: str) -> dict[str, Any]:
    """All tensors of a fixture by their original names."""
    import torch
    from safetensors.torch import load_file

    tensors: dict[str, Any] = {}
    for shard in sorted((UPSTREAM / name).glob("*-of-*")):
        tensors |= torch.load(shard, weights_only=True) if shard.suffix == ".bin" else load_file(shard)
    return tensors


def reference_of(name: str) -> dict[str, Any]:
    """What the authors' code computes."""
    from safetensors.torch import load_file

    return load_file(UPSTREAM / name / "reference.safetensors")


def run(name: str, config: dict[str, Any] | None = None, weights: dict[str, Any] | None = None) -> Any:
    """The logits computed here, of the fixture's ids and pictures."""
    given = reference_of(name)
    return originals.logits(
        config or config_of(name),
        (weights or weights_of(name)).__getitem__,
        given["input_ids"],
        given.get("pixel_values"),
        int(given["ctx"]) if "ctx" in given else None,
    )


def difference(first: Any, second: Any) -> float:
    """The largest absolute difference."""
    assert first.shape == second.shape
    return float((first - second).abs().max())


@pytest.mark.parametrize("name", ["chatglm2", "internlm2-text", "internvl-internlm2-github", "internvl-qwen2-github"])
def test_logits_are_those_of_the_authors_code(name: str) -> None:
    import torch

    made = run(name)
    assert made.dtype == torch.float32
    assert difference(made, reference_of(name)["logits"]) < CLOSE


def tiny(kind: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A random model of transformers and its config as a config.json would hold it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**SMALL | options)
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    for parameter in model.parameters():  # fresh norms are all ones and fresh biases all zeros, which would hide mistakes
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model, json.loads(config.to_json_string()) | {"architectures": [f"{kind}ForCausalLM"]}


def old_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """The same config with rope_theta and rope_scaling, as the fourth generation of transformers wrote it."""
    rope = dict(config.pop("rope_parameters"))
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type")
    return config | {"rope_theta": theta, "rope_scaling": None if kind == "default" else rope | {"type": kind}}


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Llama", {}),
        ("Llama", {"tie_word_embeddings": True}),
        ("Llama", {"attention_bias": True, "mlp_bias": True, "head_dim": 24}),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}}),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        ("Llama", {"rope_parameters": LLAMA3 | {"rope_theta": 10000.0}}),
        ("Llama", {"rope_parameters": YARN | {"rope_theta": 10000.0}}),
        ("Qwen2", {}),
        ("Qwen2", {"rope_parameters": YARN | {"rope_theta": 1e6, "truncate": False, "attention_factor": 1.1}}),
        ("Qwen3", {"head_dim": 32}),
        ("Qwen3", {"head_dim": 32, "attention_bias": True, "tie_word_embeddings": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("length", [20, 80])
def test_plain_language_models_equal_those_of_transformers(kind: str, options: dict[str, Any], length: int) -> None:
    import torch

    model, config = tiny(kind, **options)
    ids = torch.arange(length)[None] * 31 % 97
    with torch.inference_mode():
        expected = model(ids).logits
    read = model.state_dict().__getitem__
    scale = float(expected.abs().max())
    for spelled in (config, old_spelling(dict(config))):
        assert originals.can_run(spelled)
        assert difference(originals.logits(spelled, read, ids), expected) < ROUNDING * scale


def test_a_qwen3_head_is_128_wide_unless_told_otherwise() -> None:
    import torch

    model, config = tiny("Qwen3", head_dim=128)
    del config["head_dim"]
    ids = torch.arange(9)[None]
    with torch.inference_mode():
        expected = model(ids).logits
    assert difference(originals.logits(config, model.state_dict().__getitem__, ids), expected) < ROUNDING * float(
        expected.abs().max()
    )


@pytest.mark.parametrize("length", [20, 80])
def test_internlm_is_llama_with_biases_and_a_dynamic_base(length: int) -> None:
    import torch

    rope = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10000.0}
    model, config = tiny("Llama", attention_bias=True, num_key_value_heads=4, rope_parameters=rope)
    ids = torch.arange(length)[None] * 31 % 97
    original = {key: value for key, value in config.items() if key not in ("rope_parameters", "head_dim", "attention_bias")}
    original |= {"architectures": ["InternLMForCausalLM"], "model_type": "internlm", "bias": True}
    with torch.inference_mode():
        expected = model(ids).logits
    for rotary in ({}, {"rotary": {"base": 10000, "type": "dynamic", "scaling_factor": 1.0}}):
        made = originals.logits(original | rotary, model.state_dict().__getitem__, ids)
        assert difference(made, expected) < ROUNDING * float(expected.abs().max())


def test_internlm2_with_biases_is_llama_with_q_k_and_v_fused() -> None:
    import torch

    model, config = tiny("Llama", attention_bias=True, num_attention_heads=6, hidden_size=96)
    ids = torch.arange(20)[None] * 31 % 97
    renamed = {
        "embed_tokens": "tok_embeddings", "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo", "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3", "lm_head": "output",
    }  # fmt: skip
    tensors = {}
    for name, tensor in model.state_dict().items():
        for native, original in renamed.items():
            name = name.replace(native, original)
        tensors[name] = tensor
    for name in [name for name in tensors if "q_proj" in name]:
        query, key, value = (tensors.pop(name.replace("q_proj", f"{part}_proj")).unflatten(0, (-1, 16)) for part in "qkv")
        blocks = [
            torch.cat([query[3 * head : 3 * head + 3], key[head : head + 1], value[head : head + 1]]) for head in range(2)
        ]
        tensors[name.replace("self_attn.q_proj", "attention.wqkv")] = torch.cat(blocks).flatten(0, 1)
    original = old_spelling(config) | {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2"}
    with torch.inference_mode():
        expected = model(ids).logits
    for bias in ({"bias": True}, {}):  # the config class of InternLM2 has biases unless told otherwise
        made = originals.logits(original | bias, tensors.__getitem__, ids)
        assert difference(made, expected) < ROUNDING * float(expected.abs().max())


def test_a_tied_head_is_the_embedding() -> None:
    import torch

    config, weights = config_of("internlm2-text"), weights_of("internlm2-text")
    expected = run("internlm2-text", config, weights | {"output.weight": weights["model.tok_embeddings.weight"]})
    del weights["output.weight"]
    assert torch.equal(run("internlm2-text", config | {"tie_word_embeddings": True}, weights), expected)


def glm(**changes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The ChatGLM2 fixture with other options."""
    return config_of("chatglm2") | changes, weights_of("chatglm2")


def test_chatglm_without_sharing_keeps_each_heads_q_k_and_v_together() -> None:
    import torch

    config, weights = glm()
    heads, groups, width = 4, 2, 16
    for name in [name for name in weights if "query_key_value" in name]:
        query, key, value = weights[name].split([heads * width, groups * width, groups * width])
        blocks = []
        for head in range(heads):
            shared = slice(head // 2 * width, (head // 2 + 1) * width)
            blocks += [query[head * width : (head + 1) * width], key[shared], value[shared]]
        weights[name] = torch.cat(blocks)
    made = run("chatglm2", config | {"multi_query_attention": False}, weights)
    assert difference(made, reference_of("chatglm2")["logits"]) < CLOSE


def test_chatglm_biases_are_read_where_the_config_says_so() -> None:
    import torch

    config, weights = glm(add_bias_linear=True)
    sizes = {name: len(tensor) for name, tensor in weights.items() if "layers" in name and "norm" not in name}
    zeros = {name.replace(".weight", ".bias"): torch.zeros(size) for name, size in sizes.items()}
    assert torch.equal(run("chatglm2", config, zeros | weights), run("chatglm2"))


def test_chatglm_options_change_the_result() -> None:
    plain = run("chatglm2")
    for changes in ({"post_layer_norm": False}, {"apply_residual_connection_post_layernorm": True}, {"rope_ratio": 16}):
        assert difference(run("chatglm2", *glm(**changes)), plain) > 1e-3


@pytest.mark.parametrize(
    ("name", "ratio", "rope"),
    [
        ("THUDM/chatglm2-6b", 1, {"rope_type": "default", "rope_theta": 10000.0}),
        ("THUDM/chatglm2-6b-32k", 16, {"rope_type": "linear", "factor": 16.0, "rope_theta": 10000.0}),
        ("THUDM/chatglm3-6b-32k", 50, {"rope_type": "default", "rope_theta": 500000.0}),
    ],
)
def test_chatglm_equals_the_native_glm(name: str, ratio: int, rope: dict[str, Any]) -> None:
    import torch

    options = {"attention_bias": True, "head_dim": 16, "rms_norm_eps": 1e-5, "eos_token_id": 1, "bos_token_id": 1}
    model, _ = tiny("Glm", **options, rope_parameters=rope | {"partial_rotary_factor": 0.5})
    tensors = {}
    for key, tensor in model.state_dict().items():
        for native, original in {
            "model.embed_tokens": "transformer.embedding.word_embeddings", "model.norm": "transformer.encoder.final_layernorm",
            "model.layers": "transformer.encoder.layers", "self_attn.o_proj": "self_attention.dense",
            "gate_up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h", "lm_head": "transformer.output_layer",
        }.items():  # fmt: skip
            key = key.replace(native, original)
        tensors[key] = tensor
    for key in [key for key in tensors if "q_proj" in key]:
        parts = [tensors.pop(key.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[key.replace("self_attn.q_proj", "self_attention.query_key_value")] = torch.cat(parts)
    config = {
        "model_type": "chatglm", "_name_or_path": name, "rope_ratio": ratio, "num_layers": 2, "kv_channels": 16,
        "num_attention_heads": 4, "multi_query_attention": True, "multi_query_group_num": 2, "add_qkv_bias": True,
    }  # fmt: skip
    ids = torch.arange(60)[None] * 31 % 97
    with torch.inference_mode():
        expected = model(ids).logits
    assert difference(originals.logits(config, tensors.__getitem__, ids), expected) < ROUNDING * float(expected.abs().max())


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({"_name_or_path": "THUDM/chatglm2-6b-32k", "rope_ratio": 16}, "positions"),
        ({"_name_or_path": "THUDM/chatglm3-6b-32k", "rope_ratio": 50}, "base"),
        ({"auto_map": {"AutoModel": "THUDM/glm-4-9b-chat--modeling_chatglm.ChatGLM"}, "rope_ratio": 500}, "base"),
        ({"rope_ratio": 16}, "positions"),
        ({"rope_ratio": 50}, "base"),
        ({"rope_ratio": 8}, ""),
        ({}, "base"),
    ],
)
def test_the_generation_of_a_chatglm_is_read_from_its_config(config: dict[str, Any], scales: str) -> None:
    assert ratio_scales(config) == scales
    assert originals.can_run(config_of("chatglm2") | config) is bool(scales)


NATIVE_VISION = {
    "embeddings.class_embedding": "embeddings.cls_token",
    "embeddings.position_embedding": "embeddings.position_embeddings",
    "embeddings.patch_embedding": "embeddings.patch_embeddings.projection",
    "encoder.layers.": "encoder.layer.",
    "attn.proj": "attention.projection_layer",
    "attn.": "attention.",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}


def original_vision(native: dict[str, Any]) -> dict[str, Any]:
    """A native vision part under the original names, with q, k and v fused."""
    import torch

    tensors = {}
    for name, tensor in native.items():
        for original, renamed in NATIVE_VISION.items():
            name = name.replace(renamed, original)
        tensors[f"vision_model.{name}"] = tensor
    for name in [name for name in tensors if "q_proj" in name]:
        parts = [tensors.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        tensors[name.replace("q_proj", "qkv")] = torch.cat(parts)
    return tensors


@pytest.mark.parametrize("size", [(56, 56), (28, 84), (84, 84)])
@pytest.mark.parametrize(
    ("norm", "normed", "bias"), [("rms_norm", True, False), ("layer_norm", False, True), ("layer_norm", True, True)]
)
def test_internvit_equals_the_native_vision_part(norm: str, normed: bool, bias: bool, size: tuple[int, int]) -> None:
    import torch
    from transformers import InternVLVisionConfig, InternVLVisionModel

    from quantui.checkpoint.convert.originals import internvl

    torch.manual_seed(0)
    config = InternVLVisionConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, image_size=[56, 56],
        patch_size=[14, 14], norm_type=norm, use_qk_norm=normed, attention_bias=bias, layer_norm_eps=1e-6,
    )  # fmt: skip
    model = InternVLVisionModel(config).eval()
    model.layernorm = torch.nn.Identity()  # the native head's own norm, which InternVL leaves out too
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    pixels = torch.randn(2, 3, *size)
    with torch.inference_mode():
        seen = model(pixels, output_hidden_states=True)
    vision = {
        "num_hidden_layers": 3, "num_attention_heads": 4, "hidden_size": 64, "patch_size": 14, "image_size": 56,
        "qk_normalization": normed, "qkv_bias": bias, "norm_type": norm,
    }  # fmt: skip
    if (norm, normed, bias) == ("rms_norm", True, False):  # the authors' defaults, which a saved config may leave out
        vision = {key: value for key, value in vision.items() if key not in ("qk_normalization", "qkv_bias", "norm_type")}
    read = original_vision(model.state_dict()).__getitem__
    with torch.inference_mode():
        for select, expected in ((-1, seen.last_hidden_state), (-2, seen.hidden_states[-2]), (1, seen.hidden_states[1])):
            made = internvl.see({"vision_config": vision, "select_layer": select}, read, pixels)
            assert difference(made, expected) < ROUNDING * float(expected.abs().max())


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_piece_holds_its_four_patches_row_by_row(version: str) -> None:
    import torch

    from quantui.checkpoint.convert.originals.internvl import shuffle

    x = torch.randn(2, 6, 6, 5)
    made = shuffle(x, 0.5, version)
    assert made.shape == (2, 3, 3, 20)
    for row in range(3):
        for column in range(3):
            block = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].reshape(2, 20)
            assert torch.equal(made[:, column, row] if version == "v1" else made[:, row, column], block)


def test_the_first_pixel_shuffle_is_read_from_the_config() -> None:
    name = "internvl-qwen2-github"
    assert difference(run(name, config_of(name) | {"ps_version": "v1"}), run(name)) > 1e-5


def test_every_tensor_is_read_and_none_twice() -> None:
    given = reference_of("internvl-qwen2-github")
    weights, seen = weights_of("internvl-qwen2-github"), []

    def read(name: str) -> Any:
        seen.append(name)
        return weights[name]

    config = config_of("internvl-qwen2-github")
    originals.logits(config, read, given["input_ids"], given["pixel_values"], int(given["ctx"]))
    assert sorted(seen) == sorted(weights)


def test_half_precision_weights_are_computed_in_float32() -> None:
    import torch

    rounded = {name: tensor.bfloat16() for name, tensor in weights_of("internlm2-text").items()}
    widened = {name: tensor.float() for name, tensor in rounded.items()}
    made = run("internlm2-text", weights=rounded)
    assert made.dtype == torch.float32
    assert torch.equal(made, run("internlm2-text", weights=widened))


def test_pictures_that_do_not_fit_the_ids_are_refused() -> None:
    name = "internvl-qwen2-github"
    given, read = reference_of(name), weights_of(name).__getitem__
    with pytest.raises(CheckpointError, match="0 image tokens where the pictures make 4"):
        originals.logits(config_of(name), read, given["input_ids"], given["pixel_values"], 7000)
    with pytest.raises(CheckpointError, match="takes no pictures"):
        originals.logits(config_of("chatglm2"), read, given["input_ids"], given["pixel_values"], 1)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("internlm2-text", {"architectures": ["InternLM2ForRewardModel"]}, "InternLM2ForRewardModel is not known"),
        ("internlm2-text", {"architectures": None, "model_type": "bert"}, "bert is not known"),
        ("internlm2-text", {"hidden_act": "gelu"}, "activation gelu"),
        ("internlm2-text", {"rope_scaling": {"type": "longrope", "factor": 2}}, "longrope"),
        ("internlm2-text", {"rope_scaling": {"type": "yarn", "factor": 2, "mscale": 1.0}}, "mscale"),
        ("internlm2-text", {"rope_pos_id_version": "v2pe"}, "v2pe"),
        ("internlm2-text", {"partial_rotary_factor": 0.5}, "part of each head"),
        ("internlm2-text", {"quantization_config": {"quant_method": "awq"}}, "quantized"),
        ("chatglm2", {"quantization_bit": 4}, "quantized"),
        ("chatglm2", {"pre_seq_len": 128}, "prefix"),
        ("chatglm2", {"rope_ratio": 3}, "rope_ratio"),
        ("chatglm2", {"vision_config": {}}, "no ChatGLM2"),
        ("internvl-qwen2-github", {"llm_config": {"architectures": ["Phi3ForCausalLM"]}}, "Phi3ForCausalLM"),
        ("internvl-qwen2-github", {"llm_config": None}, "llm_config"),
        ("internvl-qwen2-github", {"vision_config": {"norm_type": "batch_norm"}}, "batch_norm"),
        ("internvl-qwen2-github", {"vision_config": {"hidden_act": "quick_gelu"}}, "quick_gelu"),
        ("internvl-qwen2-github", {"vision_config": {"model_type": "clip"}}, "clip"),
    ],
)
def test_what_is_not_known_is_refused_by_name(name: str, changes: dict[str, Any], reason: str) -> None:
    import torch

    config = config_of(name) | changes
    assert not originals.can_run(config)
    with pytest.raises(CheckpointError, match=reason):
        originals.logits(config, {}.__getitem__, torch.zeros(1, 3, dtype=torch.int64))


def test_more_tokens_than_a_sliding_window_are_refused() -> None:
    import torch

    model, config = tiny("Qwen2")
    config |= {"use_sliding_window": True, "sliding_window": 8}
    ids = torch.arange(9)[None]
    assert originals.logits(config, model.state_dict().__getitem__, ids[:, :8]).shape == (1, 8, 97)
    with pytest.raises(CheckpointError, match="sliding window"):
        originals.logits(config, model.state_dict().__getitem__, ids)


def test_asking_whether_it_can_run_loads_no_torch() -> None:
    code = "import sys; from quantui.checkpoint.convert.originals import can_run; can_run({}); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
