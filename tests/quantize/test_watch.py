"""Statistics gathered while the engine calibrates: those of the float model, and nothing changes for them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from quantui.quantize.watch import why_not
from quantui.recipe import llmcompressor
from quantui.stats.table import StatsTable
from tests.quantize.conftest import RunJob

pytestmark = pytest.mark.engine

STATIC_WITH_CACHE = """
default_stage:
  default_modifiers:
    QuantizationModifier:
      targets: [Linear]
      ignore: [lm_head, 're:.*vision_tower.*', 're:.*multi_modal_projector.*']
      scheme: FP8
      kv_cache_scheme: {num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}
"""
SMOOTH = """
default_stage:
  default_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.5}
    QuantizationModifier: {targets: [Linear], ignore: [lm_head], scheme: FP8}
"""


def expected_table(folder: Path, calibration: Path, *, image_text: bool, samples: int | None = None) -> StatsTable:
    import itertools

    from quantui.calibration import schema
    from quantui.calibration.feed import Feed
    from quantui.checkpoint.load import load_model
    from quantui.checkpoint.processor import load_processor
    from quantui.stats.finish import finish
    from quantui.stats.observe import observe

    feed = Feed(schema.load(calibration))
    feed.settle(load_processor(folder, image_text=image_text))
    model = load_model(folder, image_text=image_text)
    return finish(model, observe(model, itertools.islice(feed.loader(model.dtype), samples)), None, {})


def compare(found: StatsTable, expected: StatsTable) -> int:
    """Every tensor that both have, to what bfloat16 rounds otherwise in other kernels; how many those are."""
    shared = [entry for entry in expected.entries if found.has(*entry)]
    for name, role in shared:
        scale = np.abs(expected.stat(name, role, "absmax")).max()
        for stat in ("max", "min", "mean", "absmean"):
            pair = found.stat(name, role, stat), expected.stat(name, role, stat)
            np.testing.assert_allclose(*pair, rtol=0, atol=0.02 * scale, err_msg=f"{name} {stat}")
        assert found.tokens(name, role) == expected.tokens(name, role)
    return len(shared)


@pytest.mark.parametrize("kind", ["text", "image-text"])
def test_a_quantize_job_gathers_the_float_models_statistics_and_is_not_changed_by_it(
    kind: str, llama: Path, internvl: Path, chats: Path, pictures: Path, run_job: RunJob
) -> None:
    folder, data = (llama, chats) if kind == "text" else (internvl, pictures)
    every = "import quantui.quantize.watch as watch; watch.LEAST = 6"
    watched = run_job(folder, STATIC_WITH_CACHE, data, statistics=True, before=every)
    assert watched.failed is None and watched.result is not None
    found = StatsTable.load(Path(watched.result["stats"]))
    expected = expected_table(folder, data, image_text=kind != "text")
    assert watched.result["stats_seconds"] < watched.result["seconds"]["quantize"]
    assert compare(found, expected) > 30 and len(found.attention) == 2
    text = [layer.name for layer in expected.layers if not layer.place.vision and layer.name != "lm_head"]
    assert all(found.has(name, "input") for name in text if "projector" not in name)
    cause = found.cause("model.layers.1.mlp.down_proj" if kind == "text" else text[-1], "input")
    assert cause.sample >= 0 and cause.where
    if kind == "text":
        bare = run_job(folder, STATIC_WITH_CACHE, data)
        assert bare.failed is None and bare.result is not None and "stats" not in bare.result
        for file in ("model.safetensors", "config.json"):
            one, other = (hashlib.sha256((outcome.out / file).read_bytes()).hexdigest() for outcome in (watched, bare))
            assert one == other


def test_smoothing_is_watched_before_it_smooths_and_only_the_first_samples_of_the_first_pass_count(
    llama: Path, chats: Path, run_job: RunJob
) -> None:
    watched = run_job(llama, SMOOTH, chats, statistics=True)
    assert watched.failed is None and watched.result is not None and watched.result["stats_samples"] == 4
    found = StatsTable.load(Path(watched.result["stats"]))
    assert compare(found, expected_table(llama, chats, image_text=False, samples=4)) > 30
    assert len(found.meta["samples"]) == 4 and found.meta["samples_given"] == 6


def test_only_passes_that_show_the_float_model_are_gathered() -> None:
    static, smooth = (llmcompressor.loads(text, where="r") for text in (STATIC_WITH_CACHE, SMOOTH))
    gptq = llmcompressor.loads(
        STATIC_WITH_CACHE.replace("QuantizationModifier", "GPTQModifier").replace("FP8", "W8A8"), where="r"
    )
    dynamic = llmcompressor.loads(STATIC_WITH_CACHE.replace("FP8", "FP8_DYNAMIC").split("      kv_cache")[0], where="r")
    assert not any(why_not(recipe, "independent") for recipe in (static, smooth)) and not why_not(gptq, "basic")
    assert "GPTQModifier changes layers" in why_not(gptq, "independent")
    assert all("no calibration data" in why_not(dynamic, pipeline) for pipeline in ("independent", "basic"))
