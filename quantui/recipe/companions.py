"""One value of a recipe set, and what has to change with it: a granularity needs its group size, FP4 its own scales."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationError

from quantui.errors import RecipeError
from quantui.recipe.args import DYNAMIC_STRATEGIES, OWN_OBSERVERS
from quantui.recipe.edit import changed, reasons
from quantui.recipe.match import LINEAR_CLASSES
from quantui.recipe.methods import AutoRound, Awq, Gptq, Hqq, OutlierSuppression, SmoothQuant
from quantui.recipe.rare import ROTATIONS, EngineModifier
from quantui.recipe.schema import ROUNDING, SUPPRESSION, QuantArgs, QuantGroup, Recipe
from quantui.recipe.schemes import PRESETS
from quantui.recipe.shards import KNOB, SENT, TARGET, dealt, sent_of, shards_of

Place = Literal["weights", "input_activations", "output_activations"]
Cache = Literal["kv_cache", "value_cache"]
IN_FLOAT: dict[Place, tuple[str, str]] = {
    "weights": ("the weights are left in float", "weight_type"),
    "input_activations": ("the activations are left in float", "activation_type"),
    "output_activations": ("the outputs are left in float", "output_type"),
}
"""What is said where something of them is set though they are not quantized, and the field that quantizes them."""


def main_group(recipe: Recipe) -> QuantGroup | None:
    """The group that the fields of weights and activations mean: the one that takes a class, else the first."""
    by_class = (group for group in recipe.groups if not LINEAR_CLASSES.isdisjoint(group.targets))
    return next(by_class, recipe.groups[0] if recipe.groups else None)


def with_main(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with other fields of its main group, which is made where there is none and dropped where it does nothing.

    Raises:
        RecipeError: they do not fit together.
    """
    old = main_group(recipe)
    try:
        new = QuantGroup(**({"name": "group_0", "targets": ("Linear",)} if old is None else dict(old)) | fields)
    except ValidationError as error:
        what = reasons(error)
        raise RecipeError(what, where="recipe", todo="leave it as it is, or change what it does not go with first") from error
    if old is None:
        return changed(recipe, groups=(new,))
    kept = [new] if new.quantizes or not old.quantizes else []
    pairs = ((group, kept if group is old else _followed(group, old, new)) for group in recipe.groups)
    return changed(recipe, groups=tuple(each for _, made in pairs for each in made))


def _followed(group: QuantGroup, old: QuantGroup, new: QuantGroup) -> list[QuantGroup]:
    """A group beside the main one; what ranks share of that goes with it."""
    ranks = shards_of(group.weights)
    if ranks <= 0 or group.targets != (TARGET,) or old.weights is None:
        return [group]
    sent = sent_of(group.weights)
    if dealt(old, ranks, sent).model_copy(update={"name": group.name}) != group:
        return [group]
    followed = new.weights is not None and new.weights.type == "int"
    return [dealt(new, ranks, sent).model_copy(update={"name": group.name})] if followed else []


def ranks_of(recipe: Recipe) -> str:
    """How many tensor-parallel ranks are simulated; "none" where none are."""
    return next((str(ranks) for group in recipe.groups if (ranks := shards_of(group.weights)) > 0), "none")


def with_ranks(recipe: Recipe, value: str) -> Recipe:
    """The recipe with scales for each of so many ranks, in a group of the layers that they share.

    A main group that takes layers by name or pattern takes those it is to deal itself.

    Raises:
        RecipeError: its weights are in float.
    """
    if value == ranks_of(recipe):
        return recipe
    sent = next((sent_of(group.weights) for group in recipe.groups if shards_of(group.weights) > 0), None)
    others = tuple(_whole(group) for group in recipe.groups if not (shards_of(group.weights) and group.targets == (TARGET,)))
    recipe = changed(recipe, groups=others)
    main = main_group(recipe)
    if value == "none":
        return recipe
    if main is None or main.weights is None:
        what, name = IN_FLOAT["weights"]
        raise RecipeError(what, where="recipe", todo=f"set {name} to int or float first")
    made = dealt(main, int(value), sent)
    if LINEAR_CLASSES.isdisjoint(main.targets):
        return with_main(recipe, weights=made.weights)
    return changed(recipe, groups=(*recipe.groups, made))


def _whole(group: QuantGroup) -> QuantGroup:
    if not shards_of(group.weights) or group.weights is None:
        return group
    kept = {key: value for key, value in group.weights.observer_kwargs.items() if key not in (KNOB, SENT)}
    return group.model_copy(update={"weights": group.weights.model_copy(update={"observer_kwargs": kept})})


def with_scheme(recipe: Recipe, name: str) -> Recipe:
    """The recipe with a preset for its main group; "custom" is what it has."""
    if name == "custom":
        return recipe
    if name == "none" and main_group(recipe) is None:
        return recipe
    weights, inputs = PRESETS["UNQUANTIZED" if name == "none" else name]
    return with_main(recipe, weights=weights, input_activations=inputs, output_activations=None, format=None)


def with_args(recipe: Recipe, place: Place, key: str, value: Any) -> Recipe:
    """The recipe with another value of its main group's weights, inputs or outputs, and what goes with it.

    Raises:
        RecipeError: those are in float, or it does not go with the rest.
    """
    group = main_group(recipe)
    old: QuantArgs | None = getattr(group, place) if group is not None else None
    if key == "type" and value == "none":
        return recipe if old is None else with_main(recipe, **{place: None, "format": None})
    if old is None and key != "type":
        what, name = IN_FLOAT[place]
        raise RecipeError(what, where="recipe", todo=f"set {name} to int or float first")
    if key == "observer_kwargs":
        value = value or {}
    if old is not None and getattr(old, key) == value:
        return recipe
    start = old or (QuantArgs(strategy="channel") if place == "weights" else QuantArgs(strategy="token", dynamic=True))
    args = _args(start, key, value, place)
    return with_main(recipe, **{place: args} | ({"format": None} if key in ("type", "num_bits") else {}))


def _args(old: QuantArgs, key: str, value: Any, place: Place) -> QuantArgs:
    fields = old.model_dump() | {key: value}
    if key in ("type", "num_bits"):
        fields = _typed(fields, key, place)
    elif key == "strategy":
        grouped = value in ("group", "tensor_group")
        fields["group_size"] = (old.group_size or (16 if value == "tensor_group" else 128)) if grouped else None
        fields["block_structure"] = (128, 128) if value == "block" else None
        if value == "token" or (old.dynamic and value not in DYNAMIC_STRATEGIES):
            fields["dynamic"] = value == "token"
        if fields["dynamic"] == "local" and value != "tensor_group":
            fields["dynamic"] = True
    elif key == "group_size":
        if value is None:
            fields["strategy"] = "channel" if place == "weights" else "token" if old.dynamic else "tensor"
        elif old.strategy not in ("group", "tensor_group"):
            fields |= {"strategy": "group", "block_structure": None}
    elif key == "dynamic":
        if value is True and old.strategy not in DYNAMIC_STRATEGIES:
            fields["strategy"] = "token"
        if value is False and old.strategy == "token":
            fields["strategy"] = "tensor"
        if value == "local":
            fields |= {"strategy": "tensor_group", "group_size": old.group_size or 16}
    if fields["dynamic"] is True and fields["observer"] in OWN_OBSERVERS and key != "observer":
        fields["observer"] = None
    return _made(fields)


def _typed(fields: dict[str, Any], key: str, place: Place) -> dict[str, Any]:
    """The fields with all that another type or bit width brings with it."""
    fp4 = fields["type"] == "float" and fields["num_bits"] == 4
    if fp4:
        made = PRESETS["NVFP4"][0 if place == "weights" else 1]
        return made.model_dump() if made is not None else fields
    if fields["scale_dtype"] is not None:  # NVFP4 and the MX formats have scales of their own
        fields |= {"scale_dtype": None, "zp_dtype": None}
        if fields["strategy"] == "tensor_group":
            fields |= {"strategy": "group"}
        if fields["dynamic"] == "local":
            fields |= {"dynamic": True}
    if fields["type"] == "float":
        if fields["num_bits"] != 8 and key == "num_bits":
            raise RecipeError("floats have 8 or 4 bits", where="recipe", todo="choose 8 or 4, or the type int")
        fields |= {"num_bits": 8, "symmetric": True}
    return fields


def _made(fields: dict[str, Any]) -> QuantArgs:
    try:
        return QuantArgs(**fields)
    except ValidationError as error:
        what = reasons(error)
        raise RecipeError(what, where="recipe", todo="leave it as it is, or change what it does not go with first") from error


def cache_of(recipe: Recipe, place: Cache) -> QuantArgs | None:
    """How keys and values, or values alone, are cached."""
    return recipe.kv_cache if place == "kv_cache" else recipe.value_cache


def with_cache(recipe: Recipe, place: Cache, key: str, value: Any) -> Recipe:
    """The recipe with another value of its K/V cache, or of values alone.

    Raises:
        RecipeError: there is none, or it does not go with the rest.
    """
    old = cache_of(recipe, place)
    if key == "type" and value in ("none", "same"):
        return changed(recipe, **{place: None} | ({"value_cache": None} if place == "kv_cache" else {}))
    if old is None and key != "type":
        what = "the K/V cache is left in float" if place == "kv_cache" else "values are cached as keys are"
        raise RecipeError(
            what, where="recipe", todo=f"set {'kv' if place == 'kv_cache' else 'value'}_type to int or float first"
        )
    if key == "observer_kwargs":
        value = value or {}
    if old is not None and getattr(old, key) == value:
        return recipe
    fields = (old or recipe.kv_cache or QuantArgs(observer="static_minmax")).model_dump() | {key: value}
    if fields["type"] == "float" and fields["num_bits"] != 8:
        if key == "num_bits":
            raise RecipeError("a cache of floats has 8 bits", where="recipe", todo="choose 8, or the type int")
        fields["num_bits"] = 8
    if key == "strategy":
        fields["dynamic"] = value == "token" or (bool(fields["dynamic"]) and value == "tensor")
    if key == "dynamic":
        fields["strategy"] = ("token" if value else "tensor") if fields["strategy"] != "tensor" else "tensor"
    if fields["dynamic"] and fields["observer"] in OWN_OBSERVERS and key != "observer":
        fields["observer"] = None
    return changed(recipe, **{place: _made(fields)})


def with_method(recipe: Recipe, owner: str, key: str, value: Any) -> Recipe:
    """The recipe with another value of a method it has chosen.

    Raises:
        RecipeError: it has not chosen it, or the value does not go with the rest.
    """
    old = getattr(recipe, owner)
    if old is None:
        raise RecipeError(f"the recipe does not use {owner}", where="recipe", todo=f"choose {owner} first")
    if key == "duo_scaling":
        value = {"true": True, "false": False}.get(str(value).lower(), value)
    try:
        made = type(old)(**dict(old) | {key: value})
    except ValidationError as error:
        what = reasons(error)
        raise RecipeError(f"{owner}.{key}: {what}", where="recipe", todo="correct the value") from error
    return changed(recipe, **{owner: made})


def rounding_of(recipe: Recipe) -> str:
    """Which of rtn, gptq, autoround and hqq rounds the weights."""
    return next((field for field in ROUNDING if getattr(recipe, field) is not None), "rtn")


def with_rounding(recipe: Recipe, name: str) -> Recipe:
    """The recipe with weights rounded otherwise; column orders go with GPTQ."""
    if name == rounding_of(recipe):
        return recipe
    chosen: dict[str, Any] = {"gptq": None, "autoround": None, "hqq": None}
    if name != "rtn":
        chosen[name] = {"gptq": Gptq, "autoround": AutoRound, "hqq": Hqq}[name]()
    groups = recipe.groups if name == "gptq" else tuple(_without_order(group) for group in recipe.groups)
    return changed(recipe, groups=groups, **chosen)


def _without_order(group: QuantGroup) -> QuantGroup:
    if group.weights is None or group.weights.actorder is None:
        return group
    return group.model_copy(update={"weights": group.weights.model_copy(update={"actorder": None})})


def suppression_of(recipe: Recipe) -> str:
    """Which outlier suppression a recipe has: none, smoothquant, awq, or a method of msModelSlim."""
    if recipe.outliers is not None:
        return recipe.outliers.method
    return next((field for field in SUPPRESSION if getattr(recipe, field) is not None), "none")


def with_suppression(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another outlier suppression."""
    if name == suppression_of(recipe):
        return recipe
    chosen: dict[str, Any] = {"smoothquant": None, "awq": None, "outliers": None}
    if name == "smoothquant":
        chosen[name] = SmoothQuant()
    elif name == "awq":
        chosen[name] = Awq()
    elif name != "none":
        chosen["outliers"] = OutlierSuppression.model_validate({"method": name})
    return changed(recipe, **chosen)


def with_rotation(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another rotation before everything else, or none."""
    wanted = {"spinquant": "SpinQuantModifier", "quip": "QuIPModifier"}.get(name)
    rotations = [modifier for modifier in recipe.engine_modifiers if modifier.name in ROTATIONS]
    if [modifier.name for modifier in rotations] == ([wanted] if wanted else []):
        return recipe
    kept = tuple(modifier for modifier in recipe.engine_modifiers if modifier.name not in ROTATIONS)
    return changed(recipe, engine_modifiers=((EngineModifier(name=wanted), *kept) if wanted else kept))
