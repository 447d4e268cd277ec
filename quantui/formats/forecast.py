"""Which recipe goes into which format, before anything is quantized. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quantui.checkpoint.inspect import Linear
from quantui.formats.base import CacheOutline, Format, Outline
from quantui.formats.catalog import FORMATS
from quantui.formats.schemes import inputs_of, weights_of
from quantui.numerics.quantized import Weights
from quantui.recipe.args import LEVELS_OBSERVER
from quantui.recipe.match import match
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.shards import by_shard

CACHE_ONLY = "lmdeploy-kv"
"""The format that holds no weights."""

TYPICAL = 4096
"""Rows and columns of a layer where no model is given: a multiple of every group and packing."""


@dataclass(frozen=True)
class Fit:
    """Whether a format can hold what a recipe makes.

    Attributes:
        format: its name.
        reason: why it cannot; empty where it can.
        layer: the first layer it cannot hold, or the recipe's group where no model is given.
    """

    format: str
    reason: str = ""
    layer: str = ""

    @property
    def holds(self) -> bool:
        """Whether it can."""
        return not self.reason


def fits(recipe: Recipe, layers: Sequence[Linear] = ()) -> list[Fit]:
    """Whether each format can hold what a recipe makes of these layers, or of layers of any convenient shape.

    Raises:
        RecipeError: the recipe does not fit the layers.
    """
    made = outlines(recipe, layers)
    return [_fit(held, recipe, made) for held in FORMATS.values()]


def outlines(recipe: Recipe, layers: Sequence[Linear] = ()) -> list[Outline]:
    """What a recipe makes of layers, or of one layer of each of its groups."""
    if layers:
        taken = match(recipe, layers).taken
        shapes = {layer.name: layer for layer in layers}
        pairs = [(name, group, shapes[name].out_features, shapes[name].in_features) for name, group in taken.items()]
    else:
        pairs = [(group.name, group, TYPICAL, TYPICAL) for group in recipe.groups]
    return [_outline(recipe, *pair) for pair in pairs if pair[1].weights is not None]


def _outline(recipe: Recipe, name: str, group: QuantGroup, rows: int, columns: int) -> Outline:
    group = by_shard(group, columns, inputs=True)
    assert group.weights is not None  # outlines passes over groups without
    weights = weights_of(group.weights)
    if recipe.sparse is not None:
        weights = Weights(sparse=True)
    elif group.weights.observer == LEVELS_OBSERVER:
        weights = Weights("nf4", 4, "group", weights.group_size)
    elif group.weights.observer_kwargs.get("stages") == 2:
        weights = replace(weights, two_stage=True)
    return Outline(name, weights, inputs_of(group.input_activations), rows, columns)


def _fit(held: Format, recipe: Recipe, made: Sequence[Outline]) -> Fit:
    if recipe.has_online_rotations and not held.name.startswith("compressed-tensors"):
        return Fit(held.name, "its rotations are partly done while the model runs, which only compressed-tensors can say")
    if held.name == CACHE_ONLY and recipe.kv_cache is None:
        return Fit(held.name, "its K/V cache is not quantized, and these files hold nothing else")
    for outline in made:
        if reason := held.refusal(outline):
            return Fit(held.name, reason, outline.name)
    for args in (recipe.kv_cache, recipe.value_cache):
        if args is not None and not args.dynamic and (reason := held.refusal_of_cache(_cache(args))):
            return Fit(held.name, reason, "kv_cache")
    return Fit(held.name)


def _cache(args: QuantArgs) -> CacheOutline:
    kind = "int" if args.type == "int" else "float8"
    strategy = {"attn_head": "head", "channel": "channel"}.get(args.strategy, "tensor")
    return CacheOutline(kind, args.num_bits, strategy, args.strategy == "channel")  # type: ignore[arg-type]
