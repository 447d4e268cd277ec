"""How the value of a field is found in a recipe, and put into one, by the part of the recipe it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

from quantui.errors import RecipeError
from quantui.recipe.companions import (
    cache_of,
    main_group,
    rounding_of,
    suppression_of,
    with_args,
    with_cache,
    with_main,
    with_method,
    with_rotation,
    with_rounding,
    with_scheme,
    with_suppression,
)
from quantui.recipe.edit import changed
from quantui.recipe.methods import Fallback, Sparse
from quantui.recipe.schema import Recipe
from quantui.recipe.schemes import PRESETS

Value = str | int | float | bool | tuple[str, ...] | None
Get = Callable[[Recipe], Value]
Set = Callable[[Recipe, Any], Recipe]


def access(part: str, key: str) -> tuple[Get, Set]:
    """How to read and write a field of this part and key."""
    if part in ("weights", "input_activations"):
        return _of_args(cast(Literal["weights", "input_activations"], part), key)
    if part in ("kv_cache", "value_cache"):
        return _of_cache(cast(Literal["kv_cache", "value_cache"], part), key)
    if part == "recipe":
        return lambda recipe: cast(Value, getattr(recipe, key)), lambda recipe, value: changed(recipe, **{key: value})
    if part == "fallback":
        return _of_fallback(key)
    if part in _SPECIAL:
        return _SPECIAL[part]
    return _of_method(part, key)


def _of_args(part: Literal["weights", "input_activations"], key: str) -> tuple[Get, Set]:
    def get(recipe: Recipe) -> Value:
        group = main_group(recipe)
        args = getattr(group, part) if group else None
        if args is None:
            return "none" if key == "type" else None
        return str(args.dynamic).lower() if key == "dynamic" else cast(Value, getattr(args, key))

    def put(recipe: Recipe, value: Any) -> Recipe:
        return with_args(recipe, part, key, {"true": True, "false": False}.get(value, value) if key == "dynamic" else value)

    return get, put


def _of_cache(part: Literal["kv_cache", "value_cache"], key: str) -> tuple[Get, Set]:
    def get(recipe: Recipe) -> Value:
        args = cache_of(recipe, part)
        if args is None:
            return {"kv_cache": "none", "value_cache": "same"}[part] if key == "type" else None
        return cast(Value, getattr(args, key))

    return get, lambda recipe, value: with_cache(recipe, part, key, value)


def _of_method(part: str, key: str) -> tuple[Get, Set]:
    def get(recipe: Recipe) -> Value:
        method = getattr(recipe, part)
        value = getattr(method, key) if method is not None else None
        return str(value).lower() if method is not None and key == "duo_scaling" else value

    return get, lambda recipe, value: with_method(recipe, part, key, value)


def _of_fallback(key: str) -> tuple[Get, Set]:
    def put(recipe: Recipe, value: Any) -> Recipe:
        if value is None:
            other = recipe.fallback is not None and getattr(recipe.fallback, key) is None
            return recipe if other else changed(recipe, fallback=None)
        return changed(recipe, fallback=Fallback(**{key: value}))

    return lambda recipe: getattr(recipe.fallback, key) if recipe.fallback else None, put


def _scheme(recipe: Recipe) -> Value:
    group = main_group(recipe)
    if group is None:
        return "none"
    pair = (group.weights, group.input_activations)
    plain = group.output_activations is None and group.format is None
    return next((name for name, preset in PRESETS.items() if plain and preset == pair), "custom")


def _strength(recipe: Recipe) -> Value:
    if recipe.smoothquant is not None:
        return recipe.smoothquant.strength
    return recipe.outliers.alpha if recipe.outliers is not None else None


def _with_strength(recipe: Recipe, value: Any) -> Recipe:
    if recipe.outliers is not None:
        return with_method(recipe, "outliers", "alpha", value)
    if value is None and recipe.smoothquant is not None:
        raise RecipeError("SmoothQuant needs a strength", where="smoothing_strength", todo="give it 0 to 1; 0.5 is usual")
    return with_method(recipe, "smoothquant", "strength", value)


def _rotation(recipe: Recipe) -> Value:
    names = {"SpinQuantModifier": "spinquant", "QuIPModifier": "quip"}
    return next((names[modifier.name] for modifier in recipe.engine_modifiers if modifier.name in names), "none")


def _targets(recipe: Recipe) -> Value:
    group = main_group(recipe)
    return () if group is None else group.targets


def _with_sparsity(recipe: Recipe, value: bool) -> Recipe:
    return changed(recipe, sparse=(recipe.sparse or Sparse()) if value else None)


_SPECIAL: dict[str, tuple[Get, Set]] = {
    "scheme": (_scheme, with_scheme),
    "suppression": (suppression_of, with_suppression),
    "strength": (_strength, _with_strength),
    "rotation": (_rotation, with_rotation),
    "rounding": (rounding_of, with_rounding),
    "targets": (_targets, lambda recipe, value: with_main(recipe, targets=value)),
    "sparsity": (lambda recipe: recipe.sparse is not None, _with_sparsity),
}
