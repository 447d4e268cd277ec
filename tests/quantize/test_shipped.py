"""Every shipped recipe that can be run is run, on the embedded chat model: a few short samples, to a folder that opens."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantui.recipe import llmcompressor
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


@pytest.mark.parametrize("name", FILES.keys() - ELSEWHERE)
def test_a_shipped_recipe_runs(name: str, few: Path, run_job: RunJob) -> None:
    source = FILES[name].read_text(encoding="utf-8")
    recipe = llmcompressor.loads(source)
    outcome = run_job(ASSETS / "demo" / "chat", source, few if recipe.needs_calibration else None)
    assert outcome.failed is None and outcome.result is not None
    layers = outcome.result["layers_quantized"]
    assert 0 < layers < 24 if recipe.fallback else layers == (28 if recipe.groups else 0)  # four down_proj stay there anyway
    assert outcome.result["bytes_after"] <= outcome.result["bytes_before"] + 1000 and (outcome.out / "recipe.yaml").is_file()
