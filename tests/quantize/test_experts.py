"""Routed experts that transformers stacks: forecast, quantized one by one, saved under their own names, opened again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from quantui.workspace import RECIPES
from tests.models import tiny
from tests.quantize.conftest import RunJob

pytestmark = pytest.mark.engine
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}


def save(kind: str, folder: Path) -> Path:
    """A random model of four experts a layer, two of which see a token."""
    import torch
    from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    words, routed = tiny.tokenizer(), {"num_experts_per_tok": 2, "intermediate_size": 96}
    sizes: dict[str, Any] = SIZES | routed | {"vocab_size": len(words)}
    if kind == "mixtral":
        model: Any = MixtralForCausalLM(MixtralConfig(**sizes, num_local_experts=4))
    else:
        model = Qwen3MoeForCausalLM(Qwen3MoeConfig(**sizes, num_experts=4, moe_intermediate_size=48))
    model.to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "down"), [("mixtral", "block_sparse_moe.experts.3.w2"), ("qwen3_moe", "mlp.experts.3.down_proj")]
)
@pytest.mark.parametrize("recipe", ["fp8-w8a8-kv8", "int8-w8a16"])
def test_experts_are_quantized_and_found_again(
    kind: str, down: str, recipe: str, chats: Path, run_job: RunJob, tmp_path: Path
) -> None:
    outcome = run_job(save(kind, tmp_path / kind), (RECIPES / f"{recipe}.yaml").read_text(), chats, statistics=True)
    assert outcome.failed is None and outcome.result is not None
    assert outcome.result["layers_quantized"] == 2 * (4 + 4 * 3)
    assert any("routed experts" in note for note in outcome.result["notes"]) == (recipe == "fp8-w8a8-kv8")
    with safe_open(outcome.out / "model.safetensors", "pt") as file:
        assert f"model.layers.1.{down}.weight_scale" in file.keys()  # noqa: SIM118  (no mapping)


@pytest.mark.parametrize(("name", "ignored"), [("int8-w8a8-static", False), ("int8-w8a16", True)])
def test_what_transformers_could_not_open_is_refused(
    name: str, ignored: bool, chats: Path, run_job: RunJob, tmp_path: Path
) -> None:
    recipe = (RECIPES / f"{name}.yaml").read_text()
    text = recipe.replace("ignore: [", "ignore: ['re:.*experts.*', ", 1) if ignored else recipe
    failed = run_job(save("mixtral", tmp_path / "model"), text, chats).failed
    assert failed is not None and failed.reason == "input" and "experts" in failed.what and "float8" in failed.todo


def test_experts_may_stay_float_beside_float8(chats: Path, run_job: RunJob, tmp_path: Path) -> None:
    recipe = (RECIPES / "fp8-dynamic.yaml").read_text().replace("ignore: [", "ignore: ['re:.*experts.*', ", 1)
    outcome = run_job(save("mixtral", tmp_path / "model"), recipe, chats)
    assert outcome.failed is None and outcome.result is not None and outcome.result["layers_quantized"] == 8
