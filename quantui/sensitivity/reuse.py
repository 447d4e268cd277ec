"""Whether scores are of these very inputs, so that they need not be made again. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantui.recipe import llmcompressor
from quantui.recipe.schema import Recipe
from quantui.sensitivity.apply import cached
from quantui.sensitivity.candidates import candidates, scope_hash
from quantui.sensitivity.scores import Scores
from quantui.stats.finish import model_hash


def hashes(model: Path, calibration: str, recipe: Recipe, schemes: Sequence[str] = ()) -> dict[str, str]:
    """What scores are kept under: hashes of the model, of the calibration file's text and of the recipe's scope."""
    return {
        "model_hash": model_hash(model),
        "calibration_hash": hashlib.sha256(calibration.encode()).hexdigest(),
        "recipe_hash": scope_hash(recipe, candidates(recipe, schemes)),
    }


def same_inputs(
    scores: Scores, *, model: str, calibration: str, recipe: str, method: str, schemes: Sequence[str], draws: int = 4
) -> bool:
    """Whether scores were made by this method of these files; model, calibration and recipe are paths."""
    loaded = llmcompressor.load(Path(recipe))
    wanted: dict[str, Any] = dict(hashes(Path(model), Path(calibration).read_text(encoding="utf-8"), loaded, schemes))
    drawn = scores.meta.get("draws") in (None, draws)
    same_cache = len(cached(scores, loaded)) == len(scores.caches) and bool(scores.caches) == (loaded.kv_cache is not None)
    asked = scores.method == method and drawn and (same_cache or method == "local")  # which scores no caches
    return asked and all(scores.meta.get(key) == value for key, value in wanted.items())
