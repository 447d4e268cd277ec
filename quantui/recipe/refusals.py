"""What cannot work in a recipe, with the reason and the nearest that can; and what this version does not carry out."""

from __future__ import annotations

from quantui.recipe.args import OWN_OBSERVERS
from quantui.recipe.schema import Recipe


def not_run_yet(recipe: Recipe) -> list[str]:
    """What in a recipe this version reads, edits and writes but cannot carry out, each as a name a person knows."""
    own = [args.observer for args in recipe.arguments if args.observer in OWN_OBSERVERS]
    return [
        *(["HQQ"] if recipe.hqq else []),
        *([f"outlier suppression {recipe.outliers.method}"] if recipe.outliers else []),
        *(["sparse weights (W4A8S)"] if recipe.sparse else []),
        *(["automatic fallback"] if recipe.fallback else []),
        *(["values cached otherwise than keys"] if recipe.value_cache not in (None, recipe.kv_cache) else []),
        *(f"the observer {name}" for name in dict.fromkeys(own) if name),
    ]
