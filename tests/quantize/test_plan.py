"""What a plan settles before any weight is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from quantui.calibration import schema
from quantui.calibration.sources import Sample, read_samples
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import CalibrationError, RecipeError
from quantui.quantize.plan import make_plan
from quantui.recipe.llmcompressor import load
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe, SmoothQuant
from quantui.recipe.schemes import preset_group
from quantui.workspace import RECIPES

pytestmark = pytest.mark.engine
FP8 = Recipe(groups=(preset_group("FP8", ("Linear",)),), ignore=("lm_head",))


@pytest.fixture
def texts(chats: Path) -> list[Sample]:
    """Text samples."""
    return read_samples(schema.load(chats))


def test_text_model_runs_layer_by_layer(llama: Path, texts: list[Sample]) -> None:
    """All but lm_head, each attention layer's cache, and the engine's recipe unchanged."""
    recipe = load(RECIPES / "fp8-w8a8-kv8.yaml")
    plan = make_plan(recipe, open_checkpoint(llama), texts)
    assert (len(plan.linears), plan.left, len(plan.attention)) == (14, ("lm_head",), 2)
    assert (plan.pipeline, plan.recipe, plan.notes) == ("independent", recipe, ())


def test_vision_model_with_vision_ignored_runs_layer_by_layer(internvl: Path, pictures: Path) -> None:
    """The shipped recipe leaves the vision tower and the projector alone."""
    plan = make_plan(load(RECIPES / "fp8-w8a8-kv8.yaml"), open_checkpoint(internvl), read_samples(schema.load(pictures)))
    assert plan.pipeline == "independent"
    assert not any("vision" in name or "projector" in name for name in plan.linears)


def test_static_vision_needs_pictures(internvl: Path, texts: list[Sample]) -> None:
    """Text alone would never calibrate it."""
    with pytest.raises(CalibrationError, match="no sample has a picture"):
        make_plan(FP8, open_checkpoint(internvl), texts)


def test_smoothquant_cannot_reach_vision(internvl: Path, pictures: Path) -> None:
    """Refused with the reason."""
    smooth = FP8.model_copy(update={"smoothquant": SmoothQuant()})
    with pytest.raises(RecipeError, match="SmoothQuant"):
        make_plan(smooth, open_checkpoint(internvl), read_samples(schema.load(pictures)))


def test_static_recipe_needs_samples(llama: Path) -> None:
    """A static scale without data is refused before loading."""
    with pytest.raises(CalibrationError, match="no calibration data"):
        make_plan(FP8, open_checkpoint(llama), [])


def test_unknown_class_is_refused(llama: Path, texts: list[Sample]) -> None:
    """Class names are looked for in the model itself."""
    recipe = Recipe(groups=(QuantGroup(name="g", targets=("MistralAttention",), input_activations=QuantArgs()),))
    with pytest.raises(RecipeError, match="no module of this model has the class 'MistralAttention'"):
        make_plan(recipe, open_checkpoint(llama), texts)


def test_recipe_that_ignores_everything_is_refused(llama: Path, texts: list[Sample]) -> None:
    """The engine would run it and quantize nothing."""
    recipe = FP8.model_copy(update={"ignore": ("re:.*",)})
    with pytest.raises(RecipeError, match="nothing would be quantized"):
        make_plan(recipe, open_checkpoint(llama), texts)


def test_moving_average_observer_is_pointed_out(llama: Path, texts: list[Sample]) -> None:
    """A K/V scheme that names no observer gets one that clips peaks."""
    plan = make_plan(
        FP8.model_copy(update={"kv_cache": QuantArgs(type="float", strategy="tensor")}), open_checkpoint(llama), texts
    )
    assert any("clips peaks" in note for note in plan.notes)


def test_dynamic_recipe_needs_no_samples(internvl: Path) -> None:
    """Nothing static: vision layers need no picture either."""
    recipe = Recipe(groups=(preset_group("FP8_DYNAMIC", ("Linear",)),), ignore=("re:.*lm_head",))
    assert len(make_plan(recipe, open_checkpoint(internvl), []).linears) == 28
