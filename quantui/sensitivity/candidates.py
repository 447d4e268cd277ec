"""The schemes that layers are tried in, and which layers are tried. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.llmcompressor.shape import nearest
from quantui.recipe.match import LINEAR_CLASSES, group_of, takes, taking_groups
from quantui.recipe.patterns import is_pattern
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.schemes import PRESETS, preset_group
from quantui.recipe.size import float_bytes, quantized_bytes
from quantui.recipe.words import FLOAT, scheme_words

USUAL = ("W8A16", "W4A16")
"""What is tried beside the recipe's own schemes where nothing else is asked for."""
OWN = "recipe"
"""Stands for the recipe's own schemes in a list of names."""


@dataclass(frozen=True)
class Candidate:
    """A scheme a layer can be in.

    Attributes:
        name: how scores, page and command line call it: "W8A8 int8 per tensor static".
        group: its numbers; name and targets mean nothing here.
    """

    name: str
    group: QuantGroup

    @property
    def inputs(self) -> QuantArgs | None:
        """How inputs of the layer are quantized."""
        return self.group.input_activations

    @property
    def is_static(self) -> bool:
        """Whether it needs the range of the layer's inputs."""
        return self.inputs is not None and self.inputs.dynamic is not True

    @property
    def weight_numbers(self) -> str:
        """What decides how weights are rounded, as text."""
        return _numbers(self.group.model_copy(update={"input_activations": None, "output_activations": None}))

    def as_json(self) -> dict[str, Any]:
        """Plain data that `from_json` reads."""
        return {"name": self.name, "group": self.group.model_dump(mode="json", exclude_none=True)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Candidate:
        """The reverse of `as_json`."""
        return cls(str(data["name"]), QuantGroup.model_validate(data["group"]))


def candidates(recipe: Recipe, names: Sequence[str] = ()) -> tuple[Candidate, ...]:
    """The schemes to try.

    Args:
        names: presets, names of groups of the recipe, or "recipe" for all of those; none means the recipe's own and USUAL.

    Raises:
        RecipeError: there is no such scheme, or nothing is left to try.
    """
    found: dict[str, Candidate] = {}
    for name in names or (OWN, *USUAL):
        for group in _groups(recipe, name):
            plain = _plain(group)
            words = scheme_words(plain)
            if plain.weights is not None and words not in found:
                found[words] = Candidate(words, plain)
    if not found:
        what = "there is no scheme to try: the recipe quantizes no weights"
        raise RecipeError(what, where="recipe", todo="name schemes with --schemes, for example W8A8,W4A16")
    return tuple(found.values())


def cache_schemes(recipe: Recipe) -> tuple[QuantArgs, QuantArgs] | None:
    """How a recipe caches keys and values; None for float."""
    return None if recipe.kv_cache is None else (recipe.kv_cache, recipe.value_cache or recipe.kv_cache)


def cache_name(attention: str, role: str) -> str:
    """What keys or values of an attention layer are called among layers: "model.layers.0.self_attn.k_cache"."""
    return f"{attention}.{role[0]}_cache"


def scored_layers(recipe: Recipe, layers: Iterable[Linear]) -> list[Linear]:
    """The layers that are tried: those a target takes, unless a pattern leaves them out.

    A layer that is ignored by its own name has been decided on and may be decided on again, so it is tried.
    """
    shut = [entry for entry in recipe.ignore if is_pattern(entry) or entry in LINEAR_CLASSES]
    return [
        layer
        for layer in layers
        if group_of(recipe, layer.name) is not None and not any(takes(entry, layer.name) for entry in shut)
    ]


def fits(layer: Linear, candidate: Candidate) -> bool:
    """Whether the scheme's groups divide the layer."""
    for args in filter(None, (candidate.group.weights, candidate.inputs)):
        columns = args.block_structure[1] if args.block_structure else args.group_size or 1
        if layer.in_features % columns:
            return False
    return True


def stored_bytes(layer: Linear, candidate: Candidate | None) -> int:
    """What the layer's weight takes on disk in a scheme, None for float."""
    return float_bytes(layer) if candidate is None else quantized_bytes(layer, candidate.group)


def chosen_schemes(recipe: Recipe, names: Iterable[str], known: Sequence[Candidate]) -> dict[str, str]:
    """The scheme in which a recipe has each layer, by its candidate's name: FLOAT, or words that no candidate has."""
    by_group = {group.name: scheme_words(_plain(group)) for group in recipe.groups}
    same = {_numbers(candidate.group): candidate.name for candidate in known}
    by_numbers = {group.name: same.get(_numbers(group), by_group[group.name]) for group in recipe.groups}
    taken = taking_groups(recipe, names).items()
    return {name: by_numbers[group.name] if group is not None and group.quantizes else FLOAT for name, group in taken}


def scope_hash(recipe: Recipe, known: Sequence[Candidate]) -> str:
    """SHA-256 over what the scores depend on in a recipe: its schemes and what its patterns take, not single decisions.

    So scores stay those of a recipe while layers fall back or change their scheme one by one.
    """
    groups = [
        (sorted(t for t in group.targets if is_pattern(t) or "." not in t), _numbers(group))
        for group in recipe.groups
        if any(is_pattern(t) or "." not in t for t in group.targets)
    ]
    shut = sorted(entry for entry in recipe.ignore if is_pattern(entry) or entry in LINEAR_CLASSES)
    body = [sorted(groups), shut, sorted(_numbers(candidate.group) for candidate in known)]
    return hashlib.sha256(json.dumps(body).encode()).hexdigest()


def _numbers(group: QuantGroup) -> str:
    """What decides the numbers of a group, as text."""
    parts = group.model_dump(mode="json", include={"weights", "input_activations", "output_activations"}, exclude_none=True)
    for args in parts.values():
        for key in ("observer", "observer_kwargs", "actorder"):
            args.pop(key, None)
    return json.dumps(parts, sort_keys=True)


def _groups(recipe: Recipe, name: str) -> Iterable[QuantGroup]:
    if name == OWN:
        return recipe.groups
    own = next((group for group in recipe.groups if group.name == name), None)
    if own is not None:
        return (own,)
    if name.lower() == FLOAT:
        return ()  # float is always a choice, and costs nothing to score
    if name.upper() not in PRESETS:
        raise RecipeError(f"unknown scheme {name!r}", where="--schemes", todo=nearest(name, (OWN, *PRESETS)))
    return (preset_group(name, ("Linear",)),)


def _plain(group: QuantGroup) -> QuantGroup:
    return group.model_copy(update={"name": "scheme", "targets": ("Linear",)})
