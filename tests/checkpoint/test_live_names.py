"""The layer table told from headers against the modules of the live model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantui.checkpoint.files import Checkpoint, Tensor, open_checkpoint
from quantui.checkpoint.inspect import linear_layers
from tests.models.tiny import save_internvl, save_llama

pytestmark = pytest.mark.engine

DENSE = (
    "llama",
    "qwen2",
    "qwen3",
    "glm",
    "gemma3_text",
    "mistral",
    "phi3",
    "falcon",
    "opt",
    "bloom",
    "gpt_neox",
    "lfm2",
    "gpt2",
)
MOE = ("qwen3_moe", "mixtral", "deepseek_v3", "qwen2_moe", "olmoe", "phimoe")
IMAGE_TEXT = ("internvl", "qwen2_5_vl", "qwen2_vl", "qwen3_vl", "gemma3", "llava", "mistral3", "llama4", "idefics2", "mllama")
EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 8,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
NAMES = {"torch.float32": "F32", "torch.bfloat16": "BF16", "torch.float16": "F16", "torch.bool": "BOOL", "torch.int64": "I64"}


def live(model: Any) -> dict[str, tuple[int, int]]:
    """Every Linear of a model, less a head that is tied and so has no tensor."""
    import torch

    linears = {n: (m.out_features, m.in_features) for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    tied = {name.rpartition(".")[0] for name in getattr(model, "all_tied_weights_keys", None) or {}}
    return {name: shape for name, shape in linears.items() if name not in tied}


def stored(model: Any) -> Checkpoint:
    """The checkpoint that saving the model would give, in the names transformers' hub checkpoints have."""
    from transformers.core_model_loading import revert_weight_conversion

    tied = getattr(model, "all_tied_weights_keys", None) or {}
    state = revert_weight_conversion(model, {name: t for name, t in model.state_dict().items() if name not in tied})
    tensors = {name: Tensor(name, Path("model.safetensors"), NAMES[str(t.dtype)], tuple(t.shape)) for name, t in state.items()}
    return Checkpoint(Path("model"), model.config.to_dict(), tensors, False)


def on_meta(model_type: str, auto: str, **changes: Any) -> Any:
    """A model of transformers' default config for the type, with two layers, that has no weights."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(model_type)
    for part in (config, *(getattr(config, name, None) for name in ("text_config", "vision_config"))):
        for name in ("num_hidden_layers", "n_layer", "num_layers", "depth", "num_global_layers"):
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, 2)
        for name, value in changes.items():
            if isinstance(getattr(part, name, None), int):
                setattr(part, name, value)
        if isinstance(getattr(part, "layer_types", None), list):
            part.layer_types = part.layer_types[:2]
    with torch.device("meta"):
        return getattr(transformers, auto).from_config(config)


def named(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """What the headers tell."""
    return {layer.name: (layer.out_features, layer.in_features) for layer in linear_layers(checkpoint)}


@pytest.mark.parametrize(
    "save", [save_llama, lambda folder: save_llama(folder, tied=True), save_internvl], ids=["llama", "tied", "vl"]
)
def test_a_saved_folder_tells_the_linears_of_the_model_it_loads_as(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    folder = save(tmp_path / "m")
    image_text = (folder / "processor_config.json").exists()
    model = (AutoModelForImageTextToText if image_text else AutoModelForCausalLM).from_pretrained(folder)
    assert named(open_checkpoint(folder)) == live(model)
    assert len(live(model)) >= 14


@pytest.mark.parametrize("model_type", DENSE)
def test_dense_text_models(model_type: str) -> None:
    model = on_meta(model_type, "AutoModelForCausalLM")
    assert named(stored(model)) == live(model)


@pytest.mark.parametrize("model_type", MOE)
def test_mixtures_of_experts_differ_only_in_the_experts_that_transformers_fuses(model_type: str) -> None:
    model = on_meta(model_type, "AutoModelForCausalLM", **EXPERTS)
    told = named(stored(model))
    experts = {name for name in told if ".mlp.experts." in name}
    assert {name: shape for name, shape in told.items() if name not in experts} == live(model)
    assert {name.rpartition(".")[2] for name in experts} == {"gate_proj", "up_proj", "down_proj"}  # as the engine splits them


@pytest.mark.parametrize("model_type", IMAGE_TEXT)
def test_image_text_models(model_type: str) -> None:
    changes = {"num_local_experts": 2} if model_type == "llama4" else {}
    model = on_meta(model_type, "AutoModelForImageTextToText", **changes)
    told = {name: shape for name, shape in named(stored(model)).items() if ".experts." not in name}
    assert told == live(model)
