"""What msModelSlim's example scripts add to config.json for MindIE.

Source: msModelSlim 26.1.0, example/common/utils.py, lines 133 to 184, and vlm_utils.py, lines 45 to 128, with their defaults
where neither the recipe nor the layers tell a value.
"""

from __future__ import annotations

from typing import Any

from quantui.formats.adapt import asked_of
from quantui.formats.ascend_labels import ATTENTION, CACHE, label_of, of_rank
from quantui.formats.base import OpenFolder
from quantui.recipe.schema import Recipe

PARTS = ("vision_config", "llm_config", "text_config")
"""Parts of a composed model's config.json, each of which says `quantize` too."""

OF_PICTURES = ("group_size", "act_method", "anti_method", "is_lowbit", "mm_tensor", "w_sym", "open_outlier", "is_dynamic",
               "w_bit", "a_bit", "dev_type")  # fmt: skip
"""What the script for image-text models writes of it all."""

ACT_METHOD = {"histogram": 2, "auto": 3}
"""act_method by the observer of inputs; every other finds extremes, which is 1."""


def with_mindie_keys(source: OpenFolder, kind: str) -> dict[str, Any]:
    """config.json with `quantize` and `quantization_config`.

    Args:
        kind: the scheme of the model, "W8A8".
    """
    said = {"quantize": kind.lower()}
    body, config = layer_settings(source, kind) | recipe_settings(asked_of(source.folder)), dict(source.config)
    if "vision_config" in config:
        body = {key: body[key] for key in OF_PICTURES}
        config |= {part: config[part] | said for part in PARTS if isinstance(config.get(part), dict)}
    return config | said | {"quantization_config": body | source.extras.get("quant_settings", {})}


def layer_settings(source: OpenFolder, kind: str) -> dict[str, Any]:
    """All of it, as far as the layers tell, in the order of the scripts."""
    outlines = [of_rank(part.outline) for part in source.layers]
    of_kind = (outline for outline in outlines if label_of(outline) == kind)
    first = next(of_kind, outlines[0] if outlines else None)
    size = next((o.weights.group_size for o in outlines if o.weights.kind == "int" and o.weights.group_size), 0)
    sparse = kind == "W8A8S"
    dealt = (part for part in source.layers if part.outline.weights.ranks)
    sends = any(part.load(True).reduce_scale is not None for part in dealt)
    return {
        "group_size": size,
        "kv_quant_type": CACHE if source.caches else None,
        "fa_quant_type": ATTENTION if ATTENTION in source.extras.get("labels", {}).values() else None,
        "w_bit": 4 if sparse else first.weights.bits if first else 16,
        "a_bit": first.inputs.bits if first and first.inputs else 16,
        "dev_type": "cpu",
        "fraction": 0.01,
        "act_method": 1,
        "co_sparse": False,
        "anti_method": "",
        "disable_level": "L0",
        "do_smooth": False,
        "use_sigma": False,
        "sigma_factor": 3.0,
        "is_lowbit": bool(size) or sparse,
        "mm_tensor": bool(first and first.weights.strategy == "tensor"),
        "w_sym": all(outline.weights.symmetric for outline in outlines),
        "open_outlier": not size,
        "is_dynamic": kind.endswith("_DYNAMIC"),
    } | ({"reduce_quant_type": "per_channel"} if sends else {})


def recipe_settings(recipe: Recipe | None) -> dict[str, Any]:
    """What the recipe that was asked for tells; nothing where a folder keeps none."""
    if recipe is None:
        return {}
    made: dict[str, Any] = {}
    observers = (group.input_activations.observer for group in recipe.groups if group.input_activations is not None)
    made["act_method"] = next((ACT_METHOD[observer] for observer in observers if observer in ACT_METHOD), 1)
    if recipe.awq is not None:
        made["anti_method"] = "m3"
    elif recipe.smoothquant is not None:
        made["anti_method"] = "m1"
    elif recipe.outliers is not None and recipe.outliers.method != "lmdeploy":
        made["anti_method"] = recipe.outliers.method
    if recipe.sparse is not None:
        made |= {"fraction": recipe.sparse.fraction, "use_sigma": recipe.sparse.sigma is not None}
        made |= {"sigma_factor": recipe.sparse.sigma} if recipe.sparse.sigma is not None else {}
    if recipe.fallback is not None and recipe.fallback.level is not None:
        made["disable_level"] = f"L{recipe.fallback.level}"
    return made
