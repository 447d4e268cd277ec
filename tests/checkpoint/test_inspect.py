"""What a model is, told from headers and config alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import (
    check_loadable,
    linear_layers,
    native_model_types,
    needs_remote_code,
    summarize,
    summary_of,
)
from quantui.errors import CheckpointError
from tests.checkpoint.shards import LLAMA, Shapes, llama_tensors, write_config, write_llama, write_shard

REMOTE = ("internvl_chat", "chatglm", "internlm2", "internlm", "baichuan", "qwen", "deepseek_vl_v2", "", "LLAMA")


def named(folder: Path, tensors: Shapes, **config: Any) -> list[str]:
    """Names of the Linears that a folder of these tensors has."""
    write_config(folder, config or LLAMA)
    write_shard(folder / "model.safetensors", tensors)
    return [layer.name for layer in linear_layers(open_checkpoint(folder))]


def test_the_linears_of_a_llama_by_name_and_shape(tmp_path: Path) -> None:
    layers = {layer.name: layer for layer in linear_layers(open_checkpoint(write_llama(tmp_path / "m")))}
    attention = [f"model.layers.{i}.self_attn.{k}_proj" for i in (0, 1) for k in "qkvo"]
    mlp = [f"model.layers.{i}.mlp.{k}_proj" for i in (0, 1) for k in ("gate", "up", "down")]
    assert set(layers) == {*attention, *mlp, "lm_head"}
    down, key = layers["model.layers.1.mlp.down_proj"], layers["model.layers.0.self_attn.k_proj"]
    assert (down.out_features, down.in_features, down.dtype, down.parameters) == (64, 128, "BF16", 8192)
    assert (key.out_features, key.in_features) == (32, 64)


def test_blocks_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m", num_hidden_layers=12)
    blocks = [int(layer.name.split(".")[2]) for layer in linear_layers(open_checkpoint(folder)) if "." in layer.name]
    assert blocks == sorted(blocks) and blocks[-1] == 11


def test_a_tied_head_is_not_listed(tmp_path: Path) -> None:
    assert "lm_head" not in named(tmp_path / "m", llama_tensors(tied=True))


def test_embeddings_norms_routers_and_convolutions_are_no_linears(tmp_path: Path) -> None:
    matrix = ("F32", (4, 4))
    none = [
        "model.embed_tokens", "transformer.wte", "transformer.wpe", "bert.embeddings.word_embeddings", "shared",
        "encoder.embed_positions", "gpt_neox.embed_in", "model.tok_embeddings", "visual.pos_embed",
        "model.layers.0.self_attn.q_norm", "model.layers.0.input_layernorm", "h.0.ln_1",
        "model.embed_tokens_per_layer", "model.layers.0.mlp.gate",
        "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
    ]  # fmt: skip
    linears = [
        "model.layers.0.mlp.gate_proj", "model.layers.0.conv.in_proj", "model.norm_head.proj",
        "time_embedding.linear_1", "vision.embeddings.patch_embedding",
        "model.layers.0.mlp.shared_expert.up_proj", "model.layers.0.mlp.shared_expert_gate",
    ]  # fmt: skip
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {f"{name}.weight": matrix for name in (*none, *linears)}
    tensors |= {"conv1.weight": ("F32", (4, 4, 3)), "visual.patch_embed.proj.weight": ("F32", (4, 3, 2, 2)), "a.bias": matrix}
    assert sorted(named(tmp_path / "m", tensors, model_type="x", architectures=[])) == sorted(linears)


def test_transposed_convolutions_of_gpt2_are_no_linears(tmp_path: Path) -> None:
    tensors: Shapes = {f"h.0.{name}.weight": ("F32", (4, 4)) for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")}
    assert named(tmp_path / "gpt2", tensors, model_type="gpt2") == []
    assert len(named(tmp_path / "bigcode", tensors, model_type="gpt_bigcode")) == 3


@pytest.mark.parametrize(
    ("model_type", "stored", "module"),
    [
        ("internvl", "language_model.model.layers.3.self_attn.q_proj", "model.language_model.layers.3.self_attn.q_proj"),
        ("internvl", "language_model.lm_head", "lm_head"),
        ("internvl", "vision_tower.encoder.layer.0.mlp.fc1", "model.vision_tower.encoder.layer.0.mlp.fc1"),
        ("internvl", "model.language_model.layers.0.mlp.up_proj", "model.language_model.layers.0.mlp.up_proj"),
        ("mllama", "multi_modal_projector", "model.multi_modal_projector"),
        ("qwen2_5_vl", "model.layers.3.mlp.up_proj", "model.language_model.layers.3.mlp.up_proj"),
        ("qwen2_5_vl", "visual.blocks.0.attn.qkv", "model.visual.blocks.0.attn.qkv"),
        ("qwen2_5_vl", "model.language_model.layers.3.mlp.up_proj", "model.language_model.layers.3.mlp.up_proj"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.5.w1", "model.layers.0.mlp.experts.5.gate_proj"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.5.w2", "model.layers.0.mlp.experts.5.down_proj"),
        ("mixtral", "model.layers.0.block_sparse_moe.experts.5.w3", "model.layers.0.mlp.experts.5.up_proj"),
        ("llama4", "language_model.model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj"),
        ("llama", "language_model.model.layers.0.self_attn.q_proj", "language_model.model.layers.0.self_attn.q_proj"),
    ],
)
def test_checkpoint_names_become_module_names(tmp_path: Path, model_type: str, stored: str, module: str) -> None:
    assert named(tmp_path / "m", {f"{stored}.weight": ("BF16", (8, 8))}, model_type=model_type) == [module]


@given(names=st.lists(st.text("a0.²_١", min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
def test_any_names_can_be_sorted(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    found = named(folder, {f"{name}.weight": ("F32", (1, 1)) for name in names})
    assert len(found) == len(names)


# --- remote code


@pytest.mark.parametrize(
    "model_type", ["llama", "qwen2", "qwen3_moe", "mixtral", "glm", "gemma3", "internvl", "qwen2_5_vl", "gpt2"]
)
def test_native_models_need_no_remote_code(model_type: str) -> None:
    assert not needs_remote_code({"model_type": model_type})


@pytest.mark.parametrize("model_type", REMOTE)
def test_other_models_need_remote_code(model_type: str) -> None:
    assert needs_remote_code({"model_type": model_type})


def test_a_config_without_a_model_type_needs_remote_code() -> None:
    assert needs_remote_code({"architectures": ["LlamaForCausalLM"]})
    assert needs_remote_code({"model_type": ["llama"]})


def test_the_table_of_native_types_is_read_whole() -> None:
    assert len(native_model_types()) > 300


@pytest.mark.engine
def test_the_table_of_native_types_is_that_of_transformers() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert native_model_types() == set(CONFIG_MAPPING_NAMES)


# --- summaries


def test_a_text_model_in_short(tmp_path: Path) -> None:
    summary = summarize(write_llama(tmp_path / "toy"))
    assert (summary.name, summary.architecture, summary.family, summary.kind) == ("toy", "LlamaForCausalLM", "Llama", "text")
    assert (summary.dtype, summary.blocks, summary.quantized, summary.remote_code) == ("bf16", 2, None, False)
    weights = {name: shape for name, (_, shape) in llama_tensors().items()}
    assert summary.parameters == sum(shape[0] * (shape[1] if len(shape) > 1 else 1) for shape in weights.values())
    assert summary.bytes == (tmp_path / "toy" / "model.safetensors").stat().st_size


def test_an_image_text_model_in_short(tmp_path: Path) -> None:
    folder = write_config(
        tmp_path / "m",
        {
            "architectures": ["InternVLChatModel"],
            "model_type": "internvl_chat",
            "vision_config": {"num_hidden_layers": 24},
            "llm_config": {"num_layers": 28},
        },
    )
    write_shard(folder / "model.safetensors", {"a.weight": ("F16", (8, 8)), "b.weight": ("F32", (2,))})
    summary = summarize(folder)
    assert (summary.kind, summary.family, summary.blocks, summary.dtype) == ("image-text", "InternVLChat", 28, "fp16")
    assert summary.remote_code


def test_the_blocks_of_the_text_part_count(tmp_path: Path) -> None:
    config = {"model_type": "internvl", "vision_config": {"num_hidden_layers": 24}, "text_config": {"num_hidden_layers": 7}}
    folder = write_config(tmp_path / "m", config)
    write_shard(folder / "model.safetensors", {"a.weight": ("F16", (8, 8))})
    assert summarize(folder).blocks == 7
    assert summarize(folder).architecture == "internvl"


@pytest.mark.parametrize(
    ("section", "method"),
    [({"quant_method": "gptq"}, "gptq"), ({"bits": 4}, "unknown"), (None, None), ({}, None), ("int8", None)],
)
def test_a_quantized_model_names_its_method(tmp_path: Path, section: Any, method: str | None) -> None:
    assert summarize(write_llama(tmp_path / "m", quantization_config=section)).quantized == method


configs = st.dictionaries(
    st.sampled_from(
        [
            "architectures",
            "model_type",
            "text_config",
            "llm_config",
            "vision_config",
            "quantization_config",
            "num_hidden_layers",
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["num_layers", "quant_method", "x"]), inner)
        ),
        max_leaves=4,
    ),
)


@given(config=configs)
def test_no_config_breaks_the_summary(tmp_path_factory: pytest.TempPathFactory, config: dict[str, Any]) -> None:
    folder = write_config(tmp_path_factory.getbasetemp() / "any", {"model_type": "llama"} | config)
    write_shard(folder / "model.safetensors", {"a.weight": ("F16", (8, 8))})
    opened = open_checkpoint(folder)
    assert summary_of(opened).blocks >= 0
    linear_layers(opened)
    try:
        check_loadable(opened, trust_remote_code=False)
    except CheckpointError as error:
        assert error.todo


# --- what cannot be quantized as it is


def loadable(folder: Path, *, trust: bool = False) -> None:
    """Checks that the folder can be quantized."""
    check_loadable(open_checkpoint(folder), trust_remote_code=trust)


def test_a_model_that_needs_remote_code_must_be_allowed_to(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m", model_type="own_model")
    with pytest.raises(CheckpointError, match=r"'own_model' needs Python code.*--trust-remote-code"):
        loadable(folder)
    loadable(folder, trust=True)


def test_a_model_of_another_quantization_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"quantized already \(awq\).*float checkpoint"):
        loadable(write_llama(tmp_path / "m", quantization_config={"quant_method": "awq"}), trust=True)
    loadable(write_llama(tmp_path / "ours", quantization_config={"quant_method": "compressed-tensors"}))


def test_weights_that_transformers_would_not_find_are_refused(tmp_path: Path) -> None:
    folder = write_llama(tmp_path / "m")
    loadable(folder)
    (folder / "model.safetensors").rename(folder / "consolidated.safetensors")
    with pytest.raises(CheckpointError, match=r"consolidated.safetensors.*rename it model\.safetensors"):
        loadable(folder)


@pytest.mark.parametrize("model_type", ["internvl_chat", "internlm2", "internlm", "chatglm"])
def test_original_layouts_are_sent_to_the_conversion(tmp_path: Path, model_type: str) -> None:
    with pytest.raises(CheckpointError, match=r"is an original layout.*convert it first"):
        loadable(write_llama(tmp_path / "m", model_type=model_type))
