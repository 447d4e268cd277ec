"""Which layers a recipe takes, and what that costs in bytes. No torch: names, shapes and arithmetic.

Matching follows compressed_tensors/utils/match.py of 0.19.0: `re:` patterns are anchored at the start of the name only; an
exact name beats a pattern, a pattern beats a class, and among patterns or classes the first in the alphabet wins.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.shards import is_dealt, shards_of
from quantui.recipe.size import float_bytes, quantized_bytes

LINEAR_CLASSES = frozenset({"Linear", "Module"})
KEY_VALUE = (".k_proj", ".v_proj", ".qkv_proj", ".kv_b_proj")
"""How the Linears are named that make a module an attention module, which may be a target of its own.
Source: compressed_tensors/quantization/lifecycle/initialize.py, `_is_attention_module`."""


@dataclass(frozen=True)
class Match:
    """What a recipe does to a model.

    Attributes:
        taken: layer name to the group that quantizes it, in the order of the layers.
        left: layers that stay in float.
        bytes_before: stored size of the taken layers' weights.
        bytes_after: their size when quantized, scales and zero points included.
    """

    taken: dict[str, QuantGroup]
    left: tuple[str, ...]
    bytes_before: int
    bytes_after: int


def takes(pattern: str, name: str, classes: frozenset[str] = LINEAR_CLASSES) -> bool:
    """Whether a target or ignore entry takes the module of this name and these class names."""
    if pattern.startswith("re:"):
        return _regex(pattern[3:]).match(name) is not None
    return pattern == name or pattern in classes


def match(recipe: Recipe, layers: Sequence[Linear]) -> Match:
    """Sorts layers into quantized and left.

    Raises:
        RecipeError: a target or an ignore entry takes no layer, or a group size does not divide a layer (named).
    """
    taken: dict[str, QuantGroup] = {}
    targets, ignored = _Targets(recipe.groups), _Patterns(recipe.ignore)
    for layer in layers:
        group = targets.best(layer.name)
        if group is not None and not ignored.take(layer.name):
            taken[layer.name] = group
    _check_used(recipe, layers)
    _check_divides(recipe, [layer for layer in layers if layer.name in taken], taken)
    chosen = [layer for layer in layers if layer.name in taken]
    return Match(
        taken=taken,
        left=tuple(layer.name for layer in layers if layer.name not in taken),
        bytes_before=sum(float_bytes(layer) for layer in chosen),
        bytes_after=sum(quantized_bytes(layer, taken[layer.name]) for layer in chosen),
    )


def group_of(recipe: Recipe, name: str) -> QuantGroup | None:
    """The group whose target takes a Linear of this name best, ignoring `ignore`."""
    return _Targets(recipe.groups).best(name)


def taking_groups(recipe: Recipe, names: Iterable[str]) -> dict[str, QuantGroup | None]:
    """The group that takes each Linear of these names; None for those that stay in float."""
    targets, ignored = _Targets(recipe.groups), _Patterns(recipe.ignore)
    return {name: None if ignored.take(name) else targets.best(name) for name in names}


class _Patterns:
    """Target or ignore entries sorted by kind, since there may be thousands of exact names."""

    def __init__(self, entries: Iterable[str]) -> None:
        names = set(entries)
        self.patterns = [_regex(entry[3:]) for entry in sorted(names) if entry.startswith("re:")]
        self.names = {entry for entry in names if not entry.startswith("re:")}
        self.all = not LINEAR_CLASSES.isdisjoint(self.names)

    def take(self, name: str) -> bool:
        """Whether one of them takes the Linear of this name."""
        return self.all or name in self.names or any(pattern.match(name) for pattern in self.patterns)


class _Targets:
    """The groups of a recipe by what their targets are."""

    def __init__(self, groups: Sequence[QuantGroup]) -> None:
        by_target = {target: group for group in groups for target in group.targets}
        self.exact = {target: group for target, group in by_target.items() if not target.startswith("re:")}
        self.patterns = [(_regex(t[3:]), by_target[t]) for t in sorted(by_target) if t.startswith("re:")]
        self.rest = next((by_target[name] for name in sorted(LINEAR_CLASSES) if name in by_target), None)

    def best(self, name: str) -> QuantGroup | None:
        """The group that takes the Linear of this name: by exact name, else by the first pattern, else by class."""
        found = next((group for pattern, group in self.patterns if pattern.match(name)), self.rest)
        return self.exact.get(name, found)


def _check_used(recipe: Recipe, layers: Sequence[Linear]) -> None:
    """Refuses entries that take nothing: the engine would pass over a typo in silence."""
    names = [layer.name for layer in layers]
    attention = {name.rpartition(".")[0] for name in names if name.endswith(KEY_VALUE)}
    known = {*names, *attention}

    def is_used(entry: str) -> bool:
        if is_module_class(entry):
            return True  # attention and other classes are looked for in the model itself
        return entry in LINEAR_CLASSES or entry in known or (entry[:3] == "re:" and any(takes(entry, name) for name in known))

    for target in (target for group in recipe.groups for target in group.targets):
        if not is_used(target):
            raise _unused("target", target, names)
    for pattern in recipe.ignore:
        if not is_optional(pattern) and not is_used(pattern):
            raise _unused("ignore entry", pattern, names)


OPTIONAL_PARTS = frozenset({
    "lm_head", "vision_tower", "vision_model", "visual", "multi_modal_projector", "mlp1", "audio_tower", "embed_tokens",
    "router", "mlp.gate", "block_sparse_moe.gate", "shared_expert_gate", "norm",
})  # fmt: skip
"""Parts that one recipe for many models may ignore though this model lacks them: a text model has no vision tower, a tied
lm_head has no layer of its own."""


def is_optional(pattern: str) -> bool:
    """Whether an ignore entry may take nothing, because it names a part that many models lack."""
    return re.sub(r"\.\*|\\(?=\.)|[$^]", "", pattern.removeprefix("re:")).strip(".") in OPTIONAL_PARTS


def is_module_class(pattern: str) -> bool:
    """Whether an entry names a class other than Linear ("LlamaAttention"), which headers cannot show; "Linera" does not."""
    if pattern.startswith("re:") or "." in pattern or not pattern[:1].isupper() or pattern in LINEAR_CLASSES:
        return False
    return not _class_meant(pattern)


def named_like(entry: str, names: Sequence[str]) -> str:
    """What to write instead of an entry that matches no layer of these names."""
    if meant := _class_meant(entry):
        return f"did you mean {meant}?"
    return f"its layers are named like {', '.join(names[:: max(1, len(names) // 3)][:3]) or 'none'}"


def _class_meant(entry: str) -> str:
    return next(iter(difflib.get_close_matches(entry[:100], LINEAR_CLASSES, n=1, cutoff=0.8)), "")


def _unused(kind: str, pattern: str, names: Sequence[str]) -> RecipeError:
    what = f"the {kind} {pattern!r} matches no layer of this model"
    return RecipeError(what, where="recipe", todo=named_like(pattern, names))


def _check_divides(recipe: Recipe, layers: Iterable[Linear], taken: dict[str, QuantGroup]) -> None:
    if recipe.bypass_divisibility_checks:
        return
    for layer in layers:
        group = taken[layer.name]
        if not is_dealt(group.weights, layer.in_features):
            what = f"{layer.name} has {layer.in_features} columns, which {shards_of(group.weights)} ranks cannot share evenly"
            raise RecipeError(what, where="recipe", todo="simulate fewer ranks, or add the layer to ignore")
        for args in filter(None, (group.weights, group.input_activations)):
            columns = args.block_structure[1] if args.block_structure else args.group_size or 1  # rows need not divide
            if layer.in_features % columns:
                shape = f"{layer.out_features}x{layer.in_features}"
                what = f"groups of {columns} do not divide {layer.name} ({shape})"
                raise RecipeError(what, where="recipe", todo=_other_groups(args, layer, columns))


def _other_groups(args: QuantArgs, layer: Linear, columns: int) -> str:
    """What to do about groups of so many columns that do not divide a layer."""
    fits = next((n for n in (256, 128, 64, 32, 16, 8) if layer.in_features % n == 0 and n < columns), None)
    if (args.type == "float" and args.num_bits == 4) or args.scale_dtype is not None:
        return "add the layer to ignore, since this scheme has groups of one size only"
    if fits is None:
        return "use strategy channel, or add the layer to ignore"
    kind = "a block_structure with columns of" if args.strategy == "block" else "a group_size of"
    return f"use {kind} {fits}, or add the layer to ignore"


@functools.lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)
