"""What a recipe will do to one model, settled on the meta device before any weight is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

from quantui.calibration.sources import Sample
from quantui.checkpoint.files import Checkpoint
from quantui.checkpoint.inspect import section, summary_of
from quantui.checkpoint.load import Outline, empty_model, outline_of
from quantui.errors import CalibrationError, RecipeError
from quantui.quantize.experts import NOT_APPLIED, check_openable, with_experts
from quantui.quantize.modifiers.feeds import FEEDS
from quantui.recipe.match import Match, is_module_class, match, takes
from quantui.recipe.schema import AwqMapping, QuantGroup, Recipe
from quantui.recipe.shards import by_shard, shards_of


@dataclass(frozen=True)
class Plan:
    """What will happen.

    Attributes:
        recipe: what the engine is given.
        linears: module names of the Linears that will be quantized.
        left: those that stay float.
        attention: module names of the attention layers whose K/V cache will be quantized.
        pipeline: "independent" runs layer after layer; "basic" runs the whole model, which also reaches vision layers.
        notes: what a person should know about it.
        stacked: module names of routed experts whose inputs are quantized, which transformers leaves out of the result.
    """

    recipe: Recipe
    linears: tuple[str, ...]
    left: tuple[str, ...]
    attention: tuple[str, ...]
    pipeline: Literal["independent", "basic"]
    notes: tuple[str, ...]
    stacked: tuple[str, ...]


def make_plan(recipe: Recipe, checkpoint: Checkpoint, samples: list[Sample], *, trust_remote_code: bool = False) -> Plan:
    """Settles layers, pipeline and the engine's recipe.

    Raises:
        RecipeError: the recipe does not fit the model.
        CalibrationError: it needs samples, or pictures, that are not there.
    """
    image_text = summary_of(checkpoint).kind == "image-text"
    empty = empty_model(checkpoint.folder, image_text=image_text, trust_remote_code=trust_remote_code)
    model = with_experts(outline_of(empty), empty)
    _check_classes(recipe, model)
    found = match(recipe, model.linears)
    if not found.taken and recipe.kv_cache is None:
        raise RecipeError(
            "every layer it targets is ignored, so nothing would be quantized", where="recipe", todo="shorten ignore"
        )
    attention = model.attention if recipe.kv_cache is not None else ()
    check_samples(recipe, samples)
    outside = _outside_decoder(tuple(found.taken), model, recipe)
    if outside and not any(sample.image for sample in samples):
        what = f"{outside[0]} is quantized with a static scale, but no sample has a picture, so it would never be calibrated"
        raise CalibrationError(what, where="calibration", todo="calibrate with pictures, or ignore the vision layers")
    if outside and recipe.smoothquant is not None:
        what = (
            "SmoothQuant goes layer by layer through the text decoder and cannot reach the vision layers this recipe quantizes"
        )
        raise RecipeError(what, where="recipe", todo="ignore the vision layers, or leave SmoothQuant out")
    if recipe.outliers is not None:
        _check_feeds(checkpoint.config)
    mixed = len({sample.image is None for sample in samples}) > 1
    whole = with_mappings(_with_shards(recipe, found, model), checkpoint.config, model.decoder)
    engine_recipe, notes = _with_exact_ignores(whole, found.left, model)
    if outside:
        notes = (*notes, f"{len(outside)} layers lie outside the text decoder: the whole model is calibrated at once")
    if recipe.kv_cache is not None and recipe.kv_cache.observer is None and not recipe.kv_cache.dynamic:
        notes = (*notes, "kv_cache_scheme names no observer: the engine's moving average clips peaks; static_minmax keeps them")
    if recipe.has_own_cache:
        what = "its K/V scales are kept for exports; neither transformers nor vLLM applies them to the folder itself"
        notes = (*notes, what)
    if recipe.has_online_rotations:
        what = "its rotations are partly done at run time: vLLM does so, transformers leaves them out when it opens the folder"
        notes = (*notes, what)
    single = {name for name, _ in empty.named_modules()}
    experts = tuple(linear.name for linear in model.linears if linear.name not in single)
    if experts:
        check_openable(experts, found.taken)
    stacked = tuple(name for name in experts if name in found.taken and found.taken[name].input_activations is not None)
    if stacked:
        notes = (*notes, NOT_APPLIED)
    pipeline: Literal["independent", "basic"] = "basic" if outside or mixed else "independent"
    return Plan(engine_recipe, tuple(found.taken), found.left, attention, pipeline, notes, stacked)


def _with_shards(recipe: Recipe, found: Match, model: Outline) -> Recipe:
    """The recipe with a group for each number of columns in place of one that simulates tensor-parallel ranks."""
    columns = {linear.name: linear.in_features for linear in model.linears}
    made: dict[str, QuantGroup] = {}
    for name, group in found.taken.items():
        if shards_of(group.weights):
            key = f"{group.name}_{columns[name]}"
            before = made[key].targets if key in made else ()
            update = {"name": key, "targets": (*before, name)}
            made[key] = by_shard(group, columns[name], inputs=True).model_copy(update=update)
    plain = (group for group in recipe.groups if not shards_of(group.weights))
    return recipe.model_copy(update={"groups": (*plain, *made.values())}) if made else recipe


def with_mappings(recipe: Recipe, config: dict[str, Any], decoder: str) -> Recipe:
    """The recipe with mappings of SmoothQuant and AWQ from what is known to feed what.

    The engine infers them by names alone: it stops at fused layers, and takes a vision tower's layers for the text decoder's.
    """
    feeds = FEEDS.get((section(config, "text_config") or config).get("model_type", ""), ())
    at = rf"re:^{re.escape(f'{decoder}.' if decoder else '')}layers\.\d+\."
    named = [(feed.kind, at + feed.source + "$", tuple(f"{at}{path}$" for path in feed.readers)) for feed in feeds]
    update: dict[str, Any] = {}
    if named and recipe.awq is not None and recipe.awq.mappings is None:
        found = tuple(AwqMapping(smooth_layer=source, balance_layers=readers) for _, source, readers in named)
        update["awq"] = recipe.awq.model_copy(update={"mappings": found})
    if named and recipe.smoothquant is not None and recipe.smoothquant.mappings is None:
        pairs = tuple((readers, source) for kind, source, readers in named if kind == "norm")
        update["smoothquant"] = recipe.smoothquant.model_copy(update={"mappings": pairs})
    return recipe.model_copy(update=update) if update else recipe


def check_samples(recipe: Recipe, samples: list[Sample]) -> None:
    """Refuses a recipe that needs samples where there are none.

    Raises:
        CalibrationError: there are none.
    """
    if recipe.needs_calibration and not samples:
        what = "the recipe has static scales or a method that looks at data, but there is no calibration data"
        raise CalibrationError(what, where="calibration", todo="give a calibration file, or make the activations dynamic")


def _check_classes(recipe: Recipe, model: Outline) -> None:
    named = [target for group in recipe.groups for target in group.targets] + list(recipe.ignore)
    for name in named:
        if is_module_class(name) and name not in model.classes:
            raise RecipeError(
                f"no module of this model has the class {name!r}", where="recipe", todo="use Linear, a name or a re: pattern"
            )


def _check_feeds(config: dict[str, Any]) -> None:
    """Refuses to suppress outliers in a model of which it is not known what feeds what."""
    text = section(config, "text_config") or config
    if (kind := text.get("model_type")) not in FEEDS:
        what = f"outlier suppression does not know which norms feed which layers in a model of type {kind}"
        todo = f"leave it out, or use SmoothQuant or AWQ with mappings; known are {', '.join(FEEDS)}"
        raise RecipeError(what, where="recipe", todo=todo)


def _outside_decoder(names: tuple[str, ...], model: Outline, recipe: Recipe) -> list[str]:
    """Quantized layers that need data and that the layer-by-layer pipeline would never feed."""
    if not recipe.needs_calibration or not model.decoder:
        return []
    head = model.decoder.rpartition(".")[0]
    prefixes = (f"{model.decoder}.", f"{head}.lm_head" if head else "lm_head", "lm_head")
    return [name for name in names if not name.startswith(prefixes)]


def _with_exact_ignores(recipe: Recipe, left: tuple[str, ...], model: Outline) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe with `ignore` as exact layer names, where its patterns would also take attention modules.

    The engine gives an ignored attention module a K/V scale all the same and never calibrates it.
    """
    hit = [name for name in model.attention if any(takes(pattern, name, frozenset()) for pattern in recipe.ignore)]
    if recipe.kv_cache is None or not hit:
        return recipe, ()
    note = (
        f"ignore keeps Linear layers in float; the K/V cache of {len(hit)} attention layers it names is quantized all the same"
    )
    return recipe.model_copy(update={"ignore": left}), (note,)
