"""Automatic fallback: before a recipe runs, the layers that cost most are found on its own samples and stay in float."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

from quantui.errors import RecipeError
from quantui.events import EventWriter
from quantui.recipe import llmcompressor
from quantui.recipe.methods import Fallback
from quantui.recipe.schema import Recipe
from quantui.recipe.words import FLOAT
from quantui.sensitivity.apply import applied
from quantui.sensitivity.candidates import OWN, chosen_schemes
from quantui.sensitivity.run import score_part
from quantui.sensitivity.scores import Scores
from quantui.sensitivity.select import by_layer, by_unit, fall_back, fallback_order, units_of
from quantui.spec import QuantizeSpec, SensitivitySpec
from quantui.stages import Stages

SAMPLES = 64
"""Samples that layers are scored on at most: their order settles long before the scores do."""
FOLDER = "sensitivity"
"""In the run folder: the scores."""


@dataclass(frozen=True)
class Fallen:
    """What fell back.

    Attributes:
        recipe: with those layers in `ignore`, and no fallback left to be done.
        note: which they are, for a person.
    """

    recipe: Recipe
    note: str


def carry_out(spec: QuantizeSpec, recipe: Recipe, events: EventWriter, stages: Stages, folder: Path) -> Fallen:
    """Scores every layer by `fisher` in the recipe's own schemes, and lets the worst fall back.

    Args:
        spec: the job, which has calibration data.
        recipe: one that asks for a fallback.
        stages: told how far it is; the current one is this.
        folder: the job's; the scores are kept there.

    Raises:
        RecipeError: the level or the budget cannot be met.
        InputError: the model or its samples cannot be scored.
    """
    assert recipe.fallback is not None and spec.calibration is not None and spec.calibration_path is not None
    plain = recipe.model_copy(update={"fallback": None})
    asked = SensitivitySpec(
        name=spec.name,
        model=spec.model,
        recipe=llmcompressor.dumps(plain),
        recipe_path=spec.recipe_path,
        calibration=spec.calibration,
        calibration_path=spec.calibration_path,
        out=str(folder / FOLDER),
        schemes=(OWN,),
        samples=SAMPLES,
        device=spec.device,
        trust_remote_code=spec.trust_remote_code,
        roots=spec.roots,
    )
    scores = score_part(asked, events, stages)
    gc.collect()  # its model, before the next is loaded
    now = chosen_schemes(plain, scores.names, scores.schemes)
    choice = worst(scores, now, recipe.fallback)
    layers = [name for name, scheme in choice.items() if scheme == FLOAT and now[name] != FLOAT]
    note = f"{len(layers)} layers fell back to float: {', '.join(layers)}" if layers else "no layer fell back to float"
    return Fallen(applied(plain, scores, choice), note)


def worst(scores: Scores, now: dict[str, str], asked: Fallback) -> dict[str, str]:
    """Layer -> scheme after the fallback, the worst group first; a group falls back whole.

    Args:
        now: layer -> scheme of the recipe.

    Raises:
        RecipeError: there are fewer groups than the level asks for, or nothing in float keeps the budget.
    """
    units = units_of(scores)
    start = by_unit(units, now)
    most = len(fallback_order(units, start))
    if asked.level is not None:
        if asked.level > most:
            what = f"a fallback of L{asked.level} asks for more than the {most} quantized layers or groups there are"
            raise RecipeError(what, where="recipe", todo=f"give {most} or less")
        return by_layer(units, fall_back(units, start, asked.level).choice)
    assert asked.bits_per_weight is not None
    points = [fall_back(units, start, level) for level in range(most + 1)]
    within = [point for point in points if scores.sizes.bits(point.bytes) <= asked.bits_per_weight]
    if not within:
        least = scores.sizes.bits(points[0].bytes)
        budget = f"{asked.bits_per_weight:g}"
        what = f"the recipe takes {least:.2f} bits a weight without any fallback, more than its budget of {budget}"
        raise RecipeError(what, where="recipe", todo=f"raise bits_per_weight to {least:.2f} or more, or quantize to fewer bits")
    return by_layer(units, within[-1].choice)
