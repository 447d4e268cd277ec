"""Which layers a recipe takes, and what that costs in bytes. No torch: names, shapes and arithmetic.

Matching follows compressed_tensors/utils/match.py of 0.19.0: `re:` patterns are anchored at the start of the name only; an
exact name beats a pattern, a pattern beats a class, and among equals the first group wins.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe

LINEAR_CLASSES = frozenset({"Linear", "Module"})


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
    for layer in layers:
        group = group_of(recipe, layer.name)
        if group is not None and not any(takes(pattern, layer.name) for pattern in recipe.ignore):
            taken[layer.name] = group
    _check_used(recipe, layers)
    _check_divides(recipe, [layer for layer in layers if layer.name in taken], taken)
    chosen = [layer for layer in layers if layer.name in taken]
    return Match(
        taken=taken,
        left=tuple(layer.name for layer in layers if layer.name not in taken),
        bytes_before=sum(layer.parameters * _item_bytes(layer.dtype) for layer in chosen),
        bytes_after=sum(quantized_bytes(layer, taken[layer.name]) for layer in chosen),
    )


def group_of(recipe: Recipe, name: str) -> QuantGroup | None:
    """The group whose target takes a Linear of this name best, ignoring `ignore`."""
    ranked = [
        (_rank(target, name), index, group)
        for index, group in enumerate(recipe.groups)
        for target in group.targets
        if takes(target, name)
    ]
    return min(ranked, key=lambda entry: entry[:2])[2] if ranked else None


def quantized_bytes(layer: Linear, group: QuantGroup) -> int:
    """Stored size of one layer's weight in this group, in bytes: packed values, scales, zero points, activation scales."""
    args = group.weights
    if args is None:
        return layer.parameters * _item_bytes(layer.dtype)
    scales = _scales(args, layer)
    scale_bytes = 1 if args.scale_dtype in ("torch.uint8", "torch.float8_e4m3fn") else 2
    if args.num_bits < 8 and args.type == "int":
        values = layer.out_features * ceil(layer.in_features / (32 // args.num_bits)) * 4
    else:
        values = layer.parameters * args.num_bits // 8
    extra = scales if not args.symmetric else 0
    static = group.input_activations is not None and not group.input_activations.dynamic
    return values + scales * scale_bytes + extra + (2 if static else 0)


def _scales(args: QuantArgs, layer: Linear) -> int:
    """How many scales the weight of a layer has."""
    if args.strategy == "channel":
        return layer.out_features
    if args.strategy in ("group", "tensor_group") and args.group_size:
        return layer.out_features * ceil(layer.in_features / args.group_size)
    if args.strategy == "block" and args.block_structure:
        rows, columns = args.block_structure
        return ceil(layer.out_features / rows) * ceil(layer.in_features / columns)
    return 1


def _check_used(recipe: Recipe, layers: Sequence[Linear]) -> None:
    """Refuses entries that take nothing: the engine would pass over a typo in silence."""
    names = [layer.name for layer in layers]
    for group in recipe.groups:
        for target in group.targets:
            if is_module_class(target):
                continue  # attention and other classes are looked for in the model itself
            if not any(takes(target, name) for name in names):
                raise _unused("target", target, names)
    for pattern in recipe.ignore:
        if not (is_module_class(pattern) or is_optional(pattern) or any(takes(pattern, name) for name in names)):
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
    """Whether an entry names a class other than Linear ("LlamaAttention"), which headers cannot show."""
    return not pattern.startswith("re:") and "." not in pattern and pattern[:1].isupper() and pattern not in LINEAR_CLASSES


def _unused(kind: str, pattern: str, names: Sequence[str]) -> RecipeError:
    examples = ", ".join(names[:: max(1, len(names) // 3)][:3]) or "none"
    return RecipeError(
        f"the {kind} {pattern!r} matches no layer of this model", where="recipe", todo=f"its layers are named like {examples}"
    )


def _check_divides(recipe: Recipe, layers: Iterable[Linear], taken: dict[str, QuantGroup]) -> None:
    if recipe.bypass_divisibility_checks:
        return
    for layer in layers:
        args = taken[layer.name].weights
        size = args.group_size if args and args.strategy in ("group", "tensor_group") else None
        rows, columns = args.block_structure if args and args.strategy == "block" and args.block_structure else (1, size or 1)
        if layer.in_features % columns or layer.out_features % rows:
            fits = next((n for n in (256, 128, 64, 32, 16, 8) if layer.in_features % n == 0 and n < columns), None)
            shape = f"{layer.out_features}x{layer.in_features}"
            todo = (
                f"use a group size of {fits}, or add the layer to ignore"
                if fits
                else "use strategy channel, or add the layer to ignore"
            )
            raise RecipeError(f"groups of {columns} do not divide {layer.name} ({shape})", where="recipe", todo=todo)


def _rank(target: str, name: str) -> int:
    return 0 if target == name else 1 if target.startswith("re:") else 2


@functools.lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _item_bytes(dtype: str) -> int:
    return {"F32": 4, "F64": 8, "BF16": 2, "F16": 2}.get(dtype, 1)
