"""The main job, run by the real engine in a real worker process on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quantui.calibration import schema
from quantui.calibration.preview import open_seer
from quantui.calibration.survey import gather, survey
from quantui.checkpoint.files import open_checkpoint
from quantui.events import Done, Log, Metric, Progress
from quantui.recipe import llmcompressor
from quantui.spec import QUANTIZE_STAGES
from quantui.workspace import RECIPES
from tests.device import DEVICE
from tests.quantize.conftest import Outcome, RunJob

pytestmark = pytest.mark.engine

STAGES = tuple(stage for stage in QUANTIZE_STAGES if stage != "fallback")
HEAD = "quant_stage:\n  quant_modifiers:\n"
KV = "{num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true, observer: static_minmax}"
KV_WITH_IGNORED_ATTENTION = f"""{HEAD}    QuantizationModifier:
      ignore: [lm_head, "re:.*layers.0.*"]
      scheme: FP8
      kv_cache_scheme: {KV}
"""
SMOOTH_GPTQ = f"""{HEAD}    SmoothQuantModifier: {{smoothing_strength: 0.5}}
    GPTQModifier:
      ignore: [lm_head]
      config_groups:
        g: {{targets: [Linear], weights: {{num_bits: 4, strategy: group, group_size: 32}}}}
"""
WHOLE_VISION = f"{HEAD}    QuantizationModifier: {{ignore: ['re:.*lm_head'], scheme: FP8}}\n"
FORCE_LAYER_BY_LAYER = """
import quantui.quantize.plan as plan
whole = plan._outside_decoder
plan._outside_decoder = lambda *a: []
"""


@pytest.fixture(scope="module")
def fp8(llama: Path, chats: Path, run_job: RunJob) -> Outcome:
    """The shipped recipe on the tiny Llama, evaluated."""
    return run_job(llama, (RECIPES / "fp8-w8a8-kv8.yaml").read_text(), chats, evaluate=True)


def test_result_holds_what_was_done(fp8: Outcome, llama: Path) -> None:
    """Counts, sizes, times and measures of the result."""
    assert fp8.failed is None
    result = fp8.result
    assert result is not None
    assert (result["layers_quantized"], result["layers_left"], result["kv_layers"]) == (14, 1, 2)
    assert result["bytes_before"] == open_checkpoint(llama).nbytes > result["bytes_after"] == open_checkpoint(fp8.out).nbytes
    assert result["calibration_samples"] == 6
    assert result["evaluation_samples"] == 8
    assert result["perplexity_before"] > 1
    assert result["perplexity_after"] > 1
    assert result["reopen_max_logit_difference"] < 1e-2
    assert tuple(result["seconds"]) == STAGES
    assert 1e8 < result["peak_memory_bytes"] < 4e9
    assert (result["peak_device_memory_bytes"] is None) == (DEVICE == "cpu")


def test_events_tell_stages_layers_and_samples(fp8: Outcome) -> None:
    """Stages in order, layer i of N with sample j of M, numbers without gaps, and an end."""
    assert [stamped.seq for stamped in fp8.events] == list(range(1, len(fp8.events) + 1))
    progress = fp8.of(Progress)
    assert list(dict.fromkeys(event.stage for event in progress)) == list(STAGES)
    layers = [event for event in progress if event.unit == "layers" and event.stage == "quantize"]
    assert {(event.done, event.total) for event in layers} == {(0, 3), (1, 3), (2, 3)}
    assert {event.part_total for event in layers} == {6}
    assert any(log.source == "llmcompressor" for log in fp8.of(Log))
    assert isinstance(fp8.events[-1].event, Done)
    assert {"bytes_after", "evaluate_result/exact_match"} <= {metric.name for metric in fp8.of(Metric)}


def test_result_and_log_tell_the_hash_of_the_token_ids(fp8: Outcome, llama: Path, chats: Path) -> None:
    """The hash that a preview of the same file shows, though no preview loads torch."""
    calibration = schema.load(chats)
    seer = open_seer(llama)
    found = survey(seer, gather(seer, calibration).samples, calibration)
    assert fp8.result is not None
    assert fp8.result["token_hash"] == found.token_hash
    assert fp8.result["calibration_tokens"] == found.total_tokens
    assert any(str(found.token_hash) in log.text for log in fp8.of(Log))


def test_folder_is_whole(fp8: Outcome, llama: Path) -> None:
    """Every sidecar, a recipe that reads back, both forms of ignore, and files anybody may read."""
    names = {file.name for file in fp8.out.iterdir()}
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json", "recipe.yaml", "quantui.json"} <= names
    assert {file.name for file in llama.iterdir()} <= names
    assert llmcompressor.load(fp8.out / "recipe.yaml") == llmcompressor.load(RECIPES / "fp8-w8a8-kv8.yaml")
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in fp8.out.iterdir())
    tensors = open_checkpoint(fp8.out).tensors
    assert tensors["model.layers.1.self_attn.k_scale"].elements == 1
    assert tensors["model.layers.0.mlp.up_proj.weight"].dtype == "F8_E4M3"


def test_nothing_is_left_in_staging(fp8: Outcome) -> None:
    """The staging folder became the result."""
    assert not list(fp8.out.parent.glob(".*"))


def test_kv_cache_of_an_ignored_attention_is_calibrated(llama: Path, chats: Path, run_job: RunJob) -> None:
    """The engine alone would leave uninitialised scales there (finding 4 of the reference)."""
    outcome = run_job(llama, KV_WITH_IGNORED_ATTENTION, chats)
    assert outcome.failed is None
    assert outcome.result is not None
    assert (outcome.result["layers_quantized"], outcome.result["kv_layers"]) == (7, 2)
    assert "the K/V cache of 1 attention layers" in outcome.result["notes"][0]
    assert "model.layers.0.self_attn.k_scale" in open_checkpoint(outcome.out).tensors
    assert outcome.result["exact_match_before"] is None


def test_smoothquant_and_gptq(llama: Path, chats: Path, run_job: RunJob) -> None:
    """Two modifiers, each with its own pass, and exact GPTQ losses by layer."""
    outcome = run_job(llama, SMOOTH_GPTQ, chats)
    assert outcome.failed is None
    losses = {metric.name: metric.value for metric in outcome.of(Metric) if metric.name.startswith("gptq_loss/")}
    assert len(losses) == 14
    assert losses["gptq_loss/model.layers.1.mlp.down_proj"] > 0
    assert all(round(value, 2) != value for value in losses.values())


def test_vision_tower_is_calibrated_with_the_whole_model(internvl: Path, pictures: Path, run_job: RunJob) -> None:
    """Static scales in the vision tower, and a folder that re-opens though ignore is written in checkpoint names."""
    outcome = run_job(internvl, WHOLE_VISION, pictures, evaluate=True)
    assert outcome.failed is None
    assert outcome.result is not None
    assert (outcome.result["layers_quantized"], outcome.result["layers_left"]) == (28, 1)
    assert any("whole model is calibrated at once" in note for note in outcome.result["notes"])
    ignore = json.loads((outcome.out / "config.json").read_text())["quantization_config"]["ignore"]
    assert "lm_head" in ignore


def test_uncalibrated_scales_are_found(internvl: Path, pictures: Path, run_job: RunJob) -> None:
    """With the pipeline that never reaches the vision tower, the job fails and keeps nothing."""
    outcome = run_job(internvl, WHOLE_VISION, pictures, before=FORCE_LAYER_BY_LAYER)
    assert outcome.failed is not None
    assert outcome.failed.reason == "run"
    assert "scales are unusable" in outcome.failed.what
    assert "vision_tower" in outcome.failed.what
    assert not outcome.out.exists()
    assert not list(outcome.out.parent.glob(".out*"))


def test_float8_is_refused_on_a_device_that_has_none(llama: Path, chats: Path, run_job: RunJob) -> None:
    without = "import quantui.quantize.run as run; run.has_float8 = lambda device: False"
    recipe = "quant_stage:\n  quant_modifiers:\n    QuantizationModifier: {ignore: [lm_head], scheme: %s}\n"
    failed = run_job(llama, recipe % "FP8_DYNAMIC", chats, before=without).failed
    assert failed is not None and "float8" in failed.what and failed.reason == "input" and "choose cpu" in failed.todo
    assert run_job(llama, recipe % "W8A8", chats, before=without).failed is None
