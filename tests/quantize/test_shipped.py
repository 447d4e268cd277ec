"""Every shipped recipe is run on the first layers of the embedded chat model with a few short samples, to a folder that opens
and is as large as the page foretells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import linear_layers
from quantui.recipe import llmcompressor
from quantui.recipe.match import match
from quantui.workspace import ASSETS, RECIPES
from tests.quantize.conftest import RunJob

pytestmark = pytest.mark.engine
ELSEWHERE = {"fp8-w8a8-kv8", "int8-w4a8-sparse", "internvl2-w8a8-m2"}
"""Run in test_run.py and modifiers/test_jobs.py; the last is for models that read pictures."""
FILES = {file.stem: file for file in sorted(RECIPES.glob("*.yaml"))}


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration file of two short chats."""
    folder = tmp_path_factory.mktemp("few")
    said = (ASSETS / "demo" / "chat-data" / "calibration.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "calibration.jsonl").write_text("".join(said[:2]), encoding="utf-8")
    text = "sources: [{kind: jsonl, path: calibration.jsonl}]\nsamples: 2\nmax_tokens: 16\n"
    (folder / "calibration.yaml").write_text(text, encoding="utf-8")
    return folder / "calibration.yaml"


@pytest.fixture(scope="session")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded chat model without its last two layers of four: the others are of the same shapes."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("chat") / "chat"
    shutil.copytree(ASSETS / "demo" / "chat", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}), encoding="utf-8")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(("model.layers.2.", "model.layers.3."))}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return folder


def tensor_bytes(folder: Path) -> int:
    """Bytes of all tensors of a model."""
    return sum(tensor.nbytes for tensor in open_checkpoint(folder).tensors.values())


@pytest.mark.parametrize("name", sorted(FILES.keys() - ELSEWHERE))
def test_a_shipped_recipe_runs(name: str, chat: Path, few: Path, run_job: RunJob) -> None:
    source = FILES[name].read_text(encoding="utf-8")
    recipe = llmcompressor.loads(source)
    outcome = run_job(chat, source, few if recipe.needs_calibration else None)
    assert outcome.failed is None and outcome.result is not None
    layers = outcome.result["layers_quantized"]
    most = 0 if not recipe.groups else 14 - 2 * any("down_proj" in name for name in recipe.ignore)
    assert 0 < layers < most if recipe.fallback else layers == most
    assert (outcome.out / "recipe.yaml").is_file()
    if not recipe.fallback:  # which leaves more in float than the recipe says by itself
        found = match(recipe, linear_layers(open_checkpoint(chat)))
        caches = 2 * 2 * 2 if recipe.kv_cache else 0  # a k_scale and a v_scale in bf16 for each of two layers
        assert tensor_bytes(outcome.out) == tensor_bytes(chat) - found.bytes_before + found.bytes_after + caches
