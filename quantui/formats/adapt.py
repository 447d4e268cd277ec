"""What stands between two formats beside the layers: norms that msModelSlim wraps, and what its recipes add to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from quantui.errors import OutputError, RecipeError
from quantui.formats.base import CacheScales, OpenFolder, TensorPart
from quantui.formats.model_files import read_json
from quantui.formats.tensors import read_tensor
from quantui.recipe import llmcompressor
from quantui.recipe.schema import Recipe

FAMILY = ("msmodelslim", "ascend-v1", "numpy")
"""Formats of msModelSlim, which keep what it adds to norms."""

WITH_NORM_BIAS = ("m1", "m2", "m4", "m5")
"""Suppressions of outliers after which msModelSlim writes a bias for every norm. Source: its anti_outlier, `NormBias`."""


def adapted(source: OpenFolder, target: str) -> OpenFolder:
    """The folder as another format takes it.

    Raises:
        OutputError: a norm has a bias that the model's own class has no place for, transforms are left to run time, or keys and
            values have scales that no format has beside each other.
    """
    source = replace(source, caches=tuple(map(even, source.caches)))
    if (source.extras.get("transform_config") or {}).get("config_groups") and not target.startswith("compressed-tensors"):
        _check_transforms(source)
    if source.format in FAMILY and target not in FAMILY:
        return _without_wrapping(source)
    if target in FAMILY and source.format not in FAMILY:
        recipe = recipe_of(source.folder)
        if recipe is not None and recipe.outliers is not None and recipe.outliers.method in WITH_NORM_BIAS:
            names = (part.name for part in source.tensors if len(part.tensor.shape) == 1)
            norms = tuple(name.removesuffix(".weight") for name in names if name.endswith("norm.weight"))
            return replace(source, extras=source.extras | {"norms_with_bias": norms})
    return source


def even(cache: CacheScales) -> CacheScales:
    """The cache with as many scales for values as for keys, and zero points for both or for neither, as formats have them.

    Raises:
        OutputError: neither side has one scale for all that the other has more of.
    """
    counts = [scale.numel() for scale in (cache.key_scale, cache.value_scale)]
    if min(counts) not in (1, max(counts)):
        what = f"its keys have {counts[0]} scales and its values {counts[1]}, which no format has beside each other"
        raise OutputError(what, where=cache.name, todo="quantize keys and values with one strategy")
    parts = {}
    with_zeros = cache.key_zero is not None or cache.value_zero is not None
    for side, scale, zero in (("key", cache.key_scale, cache.key_zero), ("value", cache.value_scale, cache.value_zero)):
        if with_zeros and zero is None:
            zero = scale.new_zeros(scale.shape)
        parts[f"{side}_scale"] = scale.reshape(-1).expand(max(counts)).clone()
        parts[f"{side}_zero"] = None if zero is None else zero.reshape(-1).expand(max(counts)).clone()
    strategy: Any = "head" if max(counts) > 1 and cache.strategy == "tensor" else cache.strategy
    return replace(cache, **parts, strategy=strategy)


def recipe_of(folder: Path) -> Recipe | None:
    """The recipe a folder was made with, where it keeps one that can be read."""
    try:
        return llmcompressor.load(folder / "recipe.yaml")
    except RecipeError:
        return None


def asked_of(folder: Path) -> Recipe | None:
    """The recipe as somebody asked for it, before automatic fallback was carried out; where the folder keeps it."""
    asked = (read_json(folder / "quantui.json") or {}).get("recipe")
    try:
        return llmcompressor.loads(asked) if isinstance(asked, str) else recipe_of(folder)
    except RecipeError:
        return None


def _check_transforms(source: OpenFolder) -> None:
    for name, group in source.extras["transform_config"]["config_groups"].items():
        for apply in group.get("apply", ()):
            if not str(apply.get("location", "")).startswith("weight_"):
                what = f"its transform {name} is done while the model runs, which only compressed-tensors can say"
                raise OutputError(what, where=str(source.folder), todo="quantize with rotations R1 and R2 only")


def _without_wrapping(source: OpenFolder) -> OpenFolder:
    """Without what anti-outlier added to norms: everything twice, and biases of zeros."""
    wrapped = set(source.extras.get("wrapped", ()))
    if source.format == "ascend-v1":  # which writes no second copy to tell them by
        scaled = {part.name.removesuffix(".weight") for part in source.tensors if part.name.endswith("norm.weight")}
        biased = {part.name.removesuffix(".bias") for part in source.tensors if part.name.endswith("norm.bias")}
        wrapped |= scaled if scaled == biased else set()
    parts = []
    for part in source.parts:
        owner, _, leaf = part.name.rpartition(".")
        if isinstance(part, TensorPart) and owner.removesuffix(".module") in wrapped:
            if leaf == "bias" and bool(read_tensor(part.tensor).any()):
                what = "its norm has a bias, which the model's own class has no place for"
                raise OutputError(what, where=owner, todo="export to msmodelslim or ascend-v1")
            if leaf == "bias" or owner.endswith(".module"):
                continue
        parts.append(part)
    return replace(source, parts=tuple(parts))
