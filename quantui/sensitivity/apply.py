"""A choice of schemes as a recipe, and whether scores belong to a model and a recipe. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quantui.errors import InputError
from quantui.recipe import edit
from quantui.recipe.match import group_of, takes
from quantui.recipe.schema import QuantGroup, Recipe
from quantui.recipe.words import FLOAT, cache_words
from quantui.sensitivity.candidates import cache_schemes, chosen_schemes, scope_hash
from quantui.sensitivity.scores import Scores


@dataclass(frozen=True)
class Forecast:
    """What a recipe comes to by the scores.

    Attributes:
        choice: layer -> scheme; words of no candidate where the recipe has another scheme.
        kl: foretold, nats a token (the method's unit where it has another).
        bytes: of the whole model.
        bits: per weight, over all Linears.
        unknown: layers in a scheme that was not scored; they count as float.
    """

    choice: dict[str, str]
    kl: float
    bytes: int
    bits: float
    unknown: tuple[str, ...]


def forecast(scores: Scores, recipe: Recipe) -> Forecast:
    """What the recipe comes to."""
    choice = chosen_schemes(recipe, scores.names, scores.schemes)
    scored = scores.bytes_of(choice)
    unknown = tuple(name for name, scheme in choice.items() if (name, scheme) not in scores.by_layer)
    return Forecast(
        choice, scores.kl_of(choice | cached(scores, recipe)), scores.sizes.total(scored), scores.sizes.bits(scored), unknown
    )


def cached(scores: Scores, recipe: Recipe) -> dict[str, str]:
    """Keys and values in the scheme that the recipe caches them in, as far as they were scored in it."""
    words = dict(zip((".k_cache", ".v_cache"), map(cache_words, cache_schemes(recipe) or ()), strict=False))
    return {row.name: row.scheme for row in scores.caches if row.scheme == words.get(row.name[-8:])}


def applied(recipe: Recipe, scores: Scores, choice: Mapping[str, str]) -> Recipe:
    """The recipe with these layers in these schemes; what is in them already is left as it stands.

    Args:
        choice: layer -> a candidate's name or "float".

    Raises:
        RecipeError: it does not go with the rest of the recipe.
    """
    now = chosen_schemes(recipe, choice, scores.schemes)
    moved = {name: scheme for name, scheme in choice.items() if now[name] != scheme}
    if not moved:
        return recipe
    made = _undecided(recipe, moved)
    back = chosen_schemes(made, moved, scores.schemes)
    by_name = {candidate.name: candidate.group for candidate in scores.schemes}
    for scheme in dict.fromkeys(moved.values()):
        names = [name for name, wanted in moved.items() if wanted == scheme and back[name] != scheme]
        if names:
            made = edit.fall_back(made, names) if scheme == FLOAT else edit.give_scheme(made, names, by_name[scheme])
    return made


def check_belongs(scores: Scores, recipe: Recipe, model: str | None = None) -> None:
    """Refuses scores of another model or recipe.

    Args:
        model: its hash, None where the model is not at hand.

    Raises:
        InputError: they differ.
    """
    if model is not None and scores.meta.get("model_hash") != model:
        what = f"the scores are of another model ({scores.meta.get('model')})"
        raise InputError(what, where="scores", todo="score this model, or say --force")
    if scores.meta.get("recipe_hash") != scope_hash(recipe, scores.schemes):
        what = f"the scores are of another recipe ({scores.meta.get('recipe')}): its schemes, or what its patterns take, differ"
        raise InputError(what, where="scores", todo="score with this recipe, or say --force")


def _undecided(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """The recipe without what it says of these layers by their own names."""
    groups: list[QuantGroup] = []
    for group in recipe.groups:
        left = tuple(target for target in group.targets if target not in names)
        if left:
            groups.append(group if left == group.targets else group.model_copy(update={"targets": left}))
    ignore = tuple(entry for entry in recipe.ignore if entry not in names)
    made = recipe.model_copy(update={"groups": tuple(groups), "ignore": ignore})
    return made if groups else recipe


def restorable(recipe: Recipe, name: str) -> bool:
    """Whether a layer would be quantized if nothing but patterns spoke of it."""
    made = _undecided(recipe, {name: FLOAT})
    group = group_of(made, name)
    return group is not None and group.quantizes and not any(takes(entry, name) for entry in made.ignore)
