"""How the value of a field is found in a recipe, and put into one, by the part of the recipe it belongs to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Literal, cast

from pydantic import BaseModel, ValidationError

from quantui.errors import RecipeError
from quantui.recipe.companions import (
    Place,
    cache_of,
    main_group,
    ranks_of,
    rounding_of,
    suppression_of,
    with_args,
    with_cache,
    with_main,
    with_method,
    with_ranks,
    with_rotation,
    with_rounding,
    with_scheme,
    with_suppression,
)
from quantui.recipe.edit import changed, reasons
from quantui.recipe.methods import Fallback, Sparse
from quantui.recipe.rare import EngineModifier
from quantui.recipe.schema import Recipe
from quantui.recipe.schemes import PRESETS
from quantui.recipe.text import Document

Value = str | int | float | bool | tuple[str, ...] | None
Get = Callable[[Recipe], Value]
Set = Callable[[Recipe, Any], Recipe]


def access(part: str, key: str) -> tuple[Get, Set]:
    """How to read and write a field of this part and key."""
    if part in ("weights", "input_activations", "output_activations"):
        return _of_args(cast(Place, part), key)
    if part == "group":
        return _of_group(key)
    if part in ("kv_cache", "value_cache"):
        return _of_cache(cast(Literal["kv_cache", "value_cache"], part), key)
    if part == "recipe":
        return lambda recipe: cast(Value, getattr(recipe, key)), lambda recipe, value: changed(recipe, **{key: value})
    if part == "fallback":
        return _of_fallback(key)
    if part in _SPECIAL:
        return _SPECIAL[part]
    return _of_method(part, key)


def _of_args(part: Place, key: str) -> tuple[Get, Set]:
    def get(recipe: Recipe) -> Value:
        group = main_group(recipe)
        args = getattr(group, part) if group else None
        if args is None:
            return "none" if key == "type" else None
        value = getattr(args, key)
        if key == "block_structure":
            return "x".join(map(str, value)) if value else None
        return str(value).lower() if key == "dynamic" else cast(Value, value)

    def put(recipe: Recipe, value: Any) -> Recipe:
        return with_args(recipe, part, key, {"true": True, "false": False}.get(value, value) if key == "dynamic" else value)

    return get, put


def _of_group(key: str) -> tuple[Get, Set]:
    def get(recipe: Recipe) -> Value:
        group = main_group(recipe)
        return cast(Value, getattr(group, key)) if group else None

    return get, lambda recipe, value: with_main(recipe, **{key: value})


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


def _offload(recipe: Recipe) -> Value:
    return None if recipe.awq is None else "none" if recipe.awq.offload_device is None else "engine"


def _batched(recipe: Recipe) -> Value:
    value = recipe.gptq.batched_quantization if recipe.gptq else None
    return None if recipe.gptq is None else "none" if value is None else str(value)


def _with_batched(recipe: Recipe, value: str) -> Recipe:
    known = value.strip().lower()
    number = None if known == "none" else int(known) if known.isdecimal() else known
    return with_method(recipe, "gptq", "batched_quantization", number)


def _smoothing(recipe: Recipe) -> str:
    return "smoothquant" if recipe.smoothquant is not None else "outliers"


def _not_smoothed(recipe: Recipe) -> Value:
    return cast(Value, getattr(getattr(recipe, _smoothing(recipe)), "ignore", ()))


def _modifiers(recipe: Recipe) -> Any:
    return {modifier.name: modifier.settings for modifier in recipe.engine_modifiers}


def _with_modifiers(recipe: Recipe, value: Any) -> Recipe:
    given = {str(name): {} for name in value} if isinstance(value, list) else value or {}
    if not all(isinstance(settings, dict | None) for settings in given.values()):
        what = "behind the name of a modifier stands a mapping of its settings"
        raise RecipeError(what, where="engine_modifiers", todo='write it as {"QuIPModifier": {"rotations": ["v"]}}')
    try:
        made = tuple(EngineModifier(name=str(name), settings=settings or {}) for name, settings in given.items())
    except ValidationError as error:
        raise RecipeError(reasons(error), where="engine_modifiers", todo="correct the value") from error
    return changed(recipe, engine_modifiers=made)


def text_of(data: Any) -> str | None:
    """A list or mapping in one line; None for an empty one.

    Raises:
        ValueError: it cannot be written so.
        TypeError: the same.
    """
    return json.dumps(data, ensure_ascii=False, allow_nan=False) if data else None


def data_of(text: str) -> Any:
    """What is written as JSON, or as YAML.

    Raises:
        RecipeError: it is neither.
    """
    try:
        return json.loads(text)  # whose numbers YAML does not all take for numbers
    except (ValueError, RecursionError):
        return Document(text, "value", RecipeError).data


def as_text(get: Callable[[Recipe], Any], put: Set) -> tuple[Get, Set]:
    """How to read and write a list or mapping as the text that stands for it."""

    def plain(value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value.model_dump(mode="json", exclude_none=True)
        return [plain(each) for each in value] if isinstance(value, list | tuple) else value

    return lambda recipe: text_of(plain(get(recipe))), lambda recipe, value: put(
        recipe, None if value is None else data_of(value)
    )


def _targets(recipe: Recipe) -> Value:
    group = main_group(recipe)
    return () if group is None else group.targets


def _with_sparsity(recipe: Recipe, value: bool) -> Recipe:
    return changed(recipe, sparse=(recipe.sparse or Sparse()) if value else None)


_SPECIAL: dict[str, tuple[Get, Set]] = {
    "scheme": (_scheme, with_scheme),
    "ranks": (ranks_of, with_ranks),
    "suppression": (suppression_of, with_suppression),
    "strength": (_strength, _with_strength),
    "rotation": (_rotation, with_rotation),
    "rounding": (rounding_of, with_rounding),
    "targets": (_targets, lambda recipe, value: with_main(recipe, targets=value)),
    "offload": (
        _offload,
        lambda recipe, value: with_method(recipe, "awq", "offload_device", None if value == "none" else "default"),
    ),
    "batched": (_batched, _with_batched),
    "smoothing": (_not_smoothed, lambda recipe, value: with_method(recipe, _smoothing(recipe), "ignore", value)),
    "modifiers": (_modifiers, _with_modifiers),
    "sparsity": (lambda recipe: recipe.sparse is not None, _with_sparsity),
}
