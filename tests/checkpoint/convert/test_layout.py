"""Original layouts made by the test's own renaming, converted, and compared tensor by tensor and logit by logit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantui.errors import CheckpointError
from tests.checkpoint.convert import sources

pytestmark = pytest.mark.engine

DYNAMIC = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 5000.0}
LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 700.0}
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip
SIX_B = {"attention_bias": False, "use_qk_norm": True, "norm_type": "rms_norm"}
"""What InternViT-6B has and the smaller ones have not."""


def logits(model: Any, *, tile: int = 0, length: int = 20) -> Any:
    """What a model says to fixed tokens, and to a fixed picture of `tile` pixels."""
    import torch

    ids = torch.arange(length)[None] * 31 % 96
    if not tile:
        with torch.inference_mode():
            return model(input_ids=ids).logits
    places = (tile // 14) ** 2
    ids = torch.cat([ids[:, :3], torch.full((1, places), sources.IMAGE), ids[:, 3:]], dim=1)
    pixels = torch.sin(torch.arange(3 * tile * tile, dtype=torch.float32) * 0.7).reshape(1, 3, tile, tile)
    with torch.inference_mode():
        return model(input_ids=ids, pixel_values=pixels.to(model.dtype)).logits


def check(native: Path, target: Path, *, tile: int = 0, length: int = 20) -> None:
    """Both folders load as models that say exactly the same."""
    import torch

    from quantui.checkpoint.load import load_model

    model, loaded = (load_model(folder, image_text=bool(tile)) for folder in (native, target))
    sources.same(model.state_dict(), loaded.state_dict())
    assert torch.equal(logits(model, tile=tile, length=length), logits(loaded, tile=tile, length=length))


@pytest.mark.parametrize(
    ("kind", "sight", "options", "shards"),
    [
        ("Qwen2", {"attention_bias": False}, {"rope_parameters": DYNAMIC, "num_key_value_heads": 6}, 3),
        ("Qwen2", SIX_B, {"tie_word_embeddings": True}, 1),
        ("Qwen3", {}, {"head_dim": 24}, 1),
        ("Qwen3", SIX_B, {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True}, 9),
        ("Llama", {}, {"rope_parameters": LLAMA3}, 1),
        ("Llama", {"use_qk_norm": True}, {"attention_bias": True, "num_key_value_heads": 1}, 1),
        ("InternLM2", {}, {"rope_parameters": DYNAMIC}, 4),
        ("InternLM2", SIX_B, {"attention_bias": True, "rope_parameters": LINEAR}, 1),
        ("InternLM2", {}, {"tie_word_embeddings": True, "num_key_value_heads": 3}, 1),
    ],
    ids=str,
)
def test_internvl_there_and_back(
    tmp_path: Path, kind: str, sight: dict[str, Any], options: dict[str, Any], shards: int
) -> None:
    import torch

    fused = kind == "InternLM2"
    model = sources.native_internvl("Llama" if fused else kind, sight, dtype=torch.bfloat16 if shards == 9 else None, **options)
    native = sources.saved(model, tmp_path / "native")
    original = sources.as_github(native, fused=fused, kv_heads=options.get("num_key_value_heads", 2))
    config = sources.github_config(model, "InternLM2ForCausalLM" if fused else "")
    source = sources.write(tmp_path / "github", config, original, shards)
    result = sources.run(source, tmp_path / "made", verify=True)
    assert result["logit_difference"] < 2e-2 if shards == 9 else result["logit_difference"] < 1e-5 * result["logit_largest"]
    sources.same(sources.tensors_of(tmp_path / "made"), native)
    check(tmp_path / "native", tmp_path / "made", tile=28, length=80)  # past what scaled positions were trained on

    sources.run(tmp_path / "made", tmp_path / "back", verify=True)
    sources.same(sources.tensors_of(tmp_path / "back"), original)
    restored = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {**restored, "torch_dtype": 0} == {**config, "torch_dtype": 0}


@pytest.mark.parametrize("kind", ["Qwen2", "InternLM2"])
def test_a_tied_head_that_was_stored_comes_back(tmp_path: Path, kind: str) -> None:
    fused = kind == "InternLM2"
    model = sources.native_internvl("Llama" if fused else kind, tie_word_embeddings=True)
    native = sources.saved(model, tmp_path / "native")
    names = ("output", "tok_embeddings") if fused else ("lm_head", "embed_tokens")
    original = sources.as_github(native, fused=fused)
    original[f"language_model.{names[0]}.weight"] = original[f"language_model.model.{names[1]}.weight"].clone()
    config = sources.github_config(model, "InternLM2ForCausalLM" if fused else "")
    source = sources.write(tmp_path / "github", config, original)
    result = sources.run(source, tmp_path / "made")
    assert list(result["dropped"]) == [f"language_model.{names[0]}.weight"]
    sources.same(sources.tensors_of(tmp_path / "made"), native)
    check(tmp_path / "native", tmp_path / "made", tile=28)
    sources.run(tmp_path / "made", tmp_path / "back")
    sources.same(sources.tensors_of(tmp_path / "back"), original)


@pytest.mark.parametrize(("layer", "tile"), [(-1, 56), (-2, 28), (-4, 28), (-4, 56)])
def test_layers_and_sizes_of_pictures(tmp_path: Path, layer: int, tile: int) -> None:
    model = sources.native_internvl("Qwen2", {"num_hidden_layers": 5}, layer=layer, tile=tile)
    native = sources.saved(model, tmp_path / "native")
    config = sources.github_config(model, tile=tile)
    source = sources.write(tmp_path / "github", config, sources.as_github(native))
    sources.run(source, tmp_path / "made", verify=True)
    check(tmp_path / "native", tmp_path / "made", tile=tile)
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert (config["vision_feature_layer"], config["image_seq_length"]) == (layer, (tile // 14) ** 2)


@pytest.mark.parametrize(
    ("kind", "tied", "record"),
    [
        ("Qwen2", False, "none"),
        ("Qwen2", True, "damaged"),
        ("Qwen3", True, "none"),
        ("Qwen3", False, "other model"),
        ("Llama", False, "none"),
        ("Llama", True, "other model"),
    ],
)
def test_native_to_github_and_back_without_a_record(tmp_path: Path, kind: str, tied: bool, record: str) -> None:
    sight: dict[str, dict[str, Any]] = {"Qwen3": SIX_B, "Llama": {"attention_bias": False}}
    model = sources.native_internvl(kind, sight.get(kind), layer=-2, tie_word_embeddings=tied, rope_parameters=DYNAMIC)
    native = sources.saved(model, tmp_path / "native")
    other = sources.github_config(sources.native_internvl(kind, hidden_size=60))
    bodies = {"damaged": '{"source_config": {"llm_', "other model": json.dumps({"source_config": other, "dropped": 7})}
    if record in bodies:
        (tmp_path / "native" / "quantui_conversion.json").write_text(bodies[record])
    sources.run(tmp_path / "native", tmp_path / "github", verify=True)
    sources.same(sources.tensors_of(tmp_path / "github"), sources.as_github(native))
    sources.run(tmp_path / "github", tmp_path / "again", verify=True)
    sources.same(sources.tensors_of(tmp_path / "again"), native)
    check(tmp_path / "native", tmp_path / "again", tile=28)


def test_heads_are_tied_where_the_native_model_ties_them(tmp_path: Path) -> None:
    """transformers ties by the outer config, whose default is True, whatever the inner one says."""
    model = sources.native_internvl("Qwen2", tie_word_embeddings=True)
    native = sources.saved(model, tmp_path / "native")
    file = tmp_path / "native" / "config.json"
    config = json.loads(file.read_text())
    config["text_config"]["tie_word_embeddings"] = False
    file.write_text(json.dumps(config))
    sources.run(tmp_path / "native", tmp_path / "github", verify=True)
    sources.same(sources.tensors_of(tmp_path / "github"), sources.as_github(native))
    sources.run(tmp_path / "github", tmp_path / "again")
    check(tmp_path / "native", tmp_path / "again", tile=28)


@pytest.mark.parametrize(
    ("options", "kv_heads"),
    [
        ({}, 1),
        ({"attention_bias": True}, 2),
        ({"tie_word_embeddings": True}, 6),
        ({"rope_parameters": DYNAMIC}, 3),
        ({"rope_parameters": LINEAR}, 2),
    ],
)
def test_internlm2_becomes_llama(tmp_path: Path, options: dict[str, Any], kv_heads: int) -> None:
    model = sources.native_text("Llama", num_key_value_heads=kv_heads, **options)
    native = sources.saved(model, tmp_path / "native")
    config = sources.text_config(model, "InternLM2ForCausalLM")
    source = sources.write(tmp_path / "source", config, sources.as_internlm2(native, 6, kv_heads))
    assert sources.run(source, tmp_path / "made", verify=True)["architecture"] == "LlamaForCausalLM"
    sources.same(sources.tensors_of(tmp_path / "made"), native)
    check(tmp_path / "native", tmp_path / "made", length=80)


@pytest.mark.parametrize("bias", [True, False])
def test_internlm_becomes_llama(tmp_path: Path, bias: bool) -> None:
    import torch

    rope = {"rope_type": "dynamic", "factor": 1.0, "rope_theta": 10000.0}
    model = sources.native_text("Llama", num_key_value_heads=6, attention_bias=bias, rope_parameters=rope)
    native = sources.saved(model, tmp_path / "native")
    config = sources.text_config(model, "InternLMForCausalLM")
    for name in ("rope_theta", "rope_scaling", "num_key_value_heads"):
        del config[name]
    inv_freq = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(4) for n in range(2)}
    source = sources.write(tmp_path / "source", config, native | inv_freq)
    result = sources.run(source, tmp_path / "made", verify=True)
    assert sorted(result["dropped"]) == sorted(inv_freq)
    sources.same(sources.tensors_of(tmp_path / "made"), native)
    check(tmp_path / "native", tmp_path / "made", length=80)


@pytest.mark.parametrize(("ratio", "heads", "groups"), [(None, 4, 2), (1, 4, 0), (50, 6, 1), (16, 4, 0)])
def test_chatglm_becomes_glm(tmp_path: Path, ratio: int | None, heads: int, groups: int) -> None:
    import torch

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    if ratio == 50:
        rope["rope_theta"] *= ratio
    if ratio == 16:
        rope |= {"rope_type": "linear", "factor": 16.0}
    model = sources.native_text(
        "Glm", num_attention_heads=heads, num_key_value_heads=groups or heads, head_dim=8, attention_bias=True,
        rope_parameters=rope,
    )  # fmt: skip
    native = sources.saved(model, tmp_path / "native")
    config = {
        "architectures": ["ChatGLMModel"], "model_type": "chatglm", "hidden_size": 48, "ffn_hidden_size": 80,
        "num_layers": 2, "num_attention_heads": heads, "kv_channels": 8, "padded_vocab_size": 97, "seq_length": 64,
        "multi_query_attention": bool(groups), "multi_query_group_num": groups, "add_qkv_bias": True, "rmsnorm": True,
        "layernorm_epsilon": 1e-5, "add_bias_linear": False, "post_layer_norm": True,
        **({} if ratio is None else {"rope_ratio": ratio}),
    }  # fmt: skip
    names = {
        "model.embed_tokens": "transformer.embedding.word_embeddings", "model.norm": "transformer.encoder.final_layernorm",
        "lm_head": "transformer.output_layer", "model.layers": "transformer.encoder.layers",
        "self_attn.o_proj": "self_attention.dense", "gate_up_proj": "dense_h_to_4h", "down_proj": "dense_4h_to_h",
    }  # fmt: skip
    original: dict[str, Any] = {"transformer.rotary_pos_emb.inv_freq": torch.ones(2)}
    for name, tensor in native.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            parts = [native[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            if not groups:  # by head
                parts = [head for triple in zip(*(part.chunk(heads) for part in parts), strict=True) for head in triple]
            name, tensor = name.replace("self_attn.q_proj", "self_attention.query_key_value"), torch.cat(parts)
        for here, there in names.items():
            name = name.replace(here, there)
        original[name] = tensor
    source = sources.write_bins(tmp_path / "source", config, original)
    sources.run(source, tmp_path / "made", verify=True)
    sources.same(sources.tensors_of(tmp_path / "made"), native)
    check(tmp_path / "native", tmp_path / "made", length=80)


def test_a_head_that_is_not_the_embedding_is_not_dropped(tmp_path: Path) -> None:
    model = sources.native_internvl("Qwen2", tie_word_embeddings=True)
    original = sources.as_github(sources.saved(model, tmp_path / "native"))
    original["language_model.lm_head.weight"] = 2 * original["language_model.model.embed_tokens.weight"]
    source = sources.write(tmp_path / "github", sources.github_config(model), original)
    with pytest.raises(CheckpointError, match=r"language_model\.lm_head\.weight is not language_model\.model\.embed_tokens"):
        sources.run(source, tmp_path / "made")


def test_a_native_head_of_its_own_stays_whatever_the_config_says(tmp_path: Path) -> None:
    model = sources.native_internvl("Qwen2")
    native = sources.saved(model, tmp_path / "native")
    file = tmp_path / "native" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tie_word_embeddings": True}))
    sources.run(tmp_path / "native", tmp_path / "github", verify=True)
    sources.same(sources.tensors_of(tmp_path / "github"), sources.as_github(native))
    assert not json.loads((tmp_path / "github" / "config.json").read_text())["llm_config"]["tie_word_embeddings"]
