"""Methods of the engine beside plain rounding, run to their end: the folder opens and gives the same logits."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantui.checkpoint.files import open_checkpoint
from quantui.formats.tensors import read_tensor
from tests.models.tiny import write_chats
from tests.quantize.conftest import Outcome, RunJob

pytestmark = pytest.mark.engine

GROUPS = "ignore: [lm_head], config_groups: {g: {targets: [Linear], weights: {num_bits: 4, strategy: group, group_size: 32}}}"
W8A8 = "    QuantizationModifier: {ignore: [lm_head], scheme: W8A8}"
RECIPES = {
    "AWQ on a CPU": f"    AWQModifier: {{n_grid: 4}}\n    QuantizationModifier: {{{GROUPS}}}",
    "SpinQuant": f"    SpinQuantModifier: {{rotations: [R1, R2]}}\n{W8A8}",
    "SparseGPT": f"    SparseGPTModifier: {{sparsity: 0.5, mask_structure: '2:4', ignore: [lm_head]}}\n{W8A8}",
}


def run(llama: Path, chats: Path, run_job: RunJob, modifiers: str) -> Outcome:
    """A job of these modifiers on the tiny Llama."""
    return run_job(llama, f"quant_stage:\n  quant_modifiers:\n{modifiers}\n", chats)


@pytest.mark.parametrize("modifiers", RECIPES.values(), ids=RECIPES.keys())
def test_a_method_runs_to_its_end(llama: Path, chats: Path, run_job: RunJob, modifiers: str) -> None:
    done = run(llama, chats, run_job, modifiers)
    assert done.failed is None and done.result is not None
    assert done.result["layers_quantized"] == 14 and done.result["reopen_max_logit_difference"] < 1e-2


LEARNING = """
from auto_round.algorithms.quantization.sign_round.quantizer import SignRoundQuantizer
learn = SignRoundQuantizer.quantize_block
def watched(self, block, samples, others, *rest, input_ids, **more):
    assert len({sample.shape for sample in samples}) == 1 and len({int((ids == 0).sum()) for ids in input_ids}) > 1
    assert {int(each) for ids in input_ids for each in ids.unique()} == {0, -100}
    assert all(bool((cosine.square() + sine.square() > 0.99).all()) for cosine, sine in others["position_embeddings"])
    return learn(self, block, samples, others, *rest, input_ids=input_ids, **more)
SignRoundQuantizer.quantize_block = watched
"""
"""Chats of several lengths are learned from under one set of positions, and what fills them up does not count."""


def test_autoround_learns_what_is_saved(llama: Path, run_job: RunJob, tmp_path: Path) -> None:
    chats = write_chats(tmp_path)
    lines = chats.with_name("calibration.jsonl").read_text().splitlines()
    chats.with_name("calibration.jsonl").write_text(
        "".join(f"{line}\n".replace("fox", "fox " * (i + 1)) for i, line in enumerate(lines))
    )
    groups = GROUPS.replace("num_bits", "symmetric: false, num_bits")
    modifier = f"AutoRoundModifier: {{iters: 2, enable_torch_compile: false, {groups}}}"
    done = run_job(llama, f"quant_stage:\n  quant_modifiers:\n    {modifier}\n", chats, before=LEARNING)
    assert done.failed is None and done.result is not None
    assert done.result["layers_quantized"] == 14 and done.result["reopen_max_logit_difference"] < 1e-2
    written = open_checkpoint(done.out)
    (zeros,) = (name for name in written.tensors if "layers.0.mlp.up_proj" in name and "zero_point" in name)
    assert len(read_tensor(written.tensors[zeros]).unique()) > 1


def test_rotations_of_run_time_are_kept_with_a_warning(llama: Path, chats: Path, run_job: RunJob) -> None:
    done = run(llama, chats, run_job, f"    QuIPModifier: {{}}\n{W8A8}")
    assert done.failed is None and done.result is not None
    assert any("run time" in note for note in done.result["notes"])
    assert done.result["reopen_max_logit_difference"] > 1e-2  # which is what the note is about


def test_the_worst_layers_fall_back_by_themselves(llama: Path, chats: Path, run_job: RunJob) -> None:
    done = run(llama, chats, run_job, f"    FallbackModifier: {{level: 2}}\n{W8A8}")
    assert done.failed is None and done.result is not None
    assert list(done.result["seconds"])[:3] == ["start", "fallback", "load"]
    (note,) = [note for note in done.result["notes"] if "fell back to float" in note]
    layers = note.partition(": ")[2].split(", ")
    assert done.result["layers_quantized"] == 14 - len(layers) and len(layers) >= 2
    written = open_checkpoint(done.out).tensors
    for name in layers:
        assert f"{name}.weight_scale" not in written and written[f"{name}.weight"].dtype == "BF16"
    assert sum(name.endswith(".weight_scale") for name in written) == 14 - len(layers)
    assert "FallbackModifier" not in (done.out / "recipe.yaml").read_text()


def test_a_fallback_keeps_a_budget_or_says_what_is_needed(llama: Path, chats: Path, run_job: RunJob) -> None:
    done = run(llama, chats, run_job, f"    FallbackModifier: {{bits_per_weight: 3}}\n{W8A8}")
    assert done.failed is not None and not done.out.exists()
    assert "without any fallback, more than its budget of 3" in done.failed.what and "bits_per_weight to" in done.failed.todo
