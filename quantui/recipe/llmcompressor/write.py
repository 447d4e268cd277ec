"""A recipe in exactly the shape that the engine reads."""

from __future__ import annotations

import re
from typing import Any

import yaml

from quantui.recipe.schema import Awq, QuantArgs, QuantGroup, Recipe, SmoothQuant


def dumps(recipe: Recipe, *, comment: str = "") -> str:
    """The recipe as `oneshot(recipe=...)` reads it; `loads` gives an equal recipe back."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    staged = {"quant_stage": {"quant_modifiers": modifiers(recipe)}}
    return head + yaml.dump(staged, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def modifiers(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Every modifier of a recipe with its fields, in the order they run, as plain data."""
    made: dict[str, dict[str, Any]] = {modifier.name: dict(modifier.settings) for modifier in recipe.engine_modifiers}
    if recipe.outliers is not None:
        made["OutlierSuppressionModifier"] = recipe.outliers.model_dump(mode="json", exclude_none=True)
    if recipe.smoothquant is not None:
        made["SmoothQuantModifier"] = _smoothquant(recipe.smoothquant)
    if recipe.awq is not None:
        made["AWQModifier"] = _awq(recipe.awq)
    if recipe.sparse is not None:
        made["SparseModifier"] = recipe.sparse.model_dump(mode="json", exclude_none=True)
    if recipe.fallback is not None:
        made["FallbackModifier"] = recipe.fallback.model_dump(mode="json", exclude_none=True)
    if recipe.kv_cache is not None and recipe.has_own_cache:
        values = {"values": _args(recipe.value_cache)} if recipe.value_cache is not None else {}
        made["KVCacheModifier"] = {"keys": _args(recipe.kv_cache), **values}
    name, body = _quantizer(recipe)
    return made | {name: body}


def _quantizer(recipe: Recipe) -> tuple[str, dict[str, Any]]:
    """The modifier that holds the groups: its name and its fields."""
    name = "QuantizationModifier"
    body: dict[str, Any] = {"ignore": list(recipe.ignore)}
    if recipe.gptq is not None:
        name = "GPTQModifier"
        body |= recipe.gptq.model_dump(mode="json", exclude={"actorder"} if recipe.gptq.actorder == "static" else None)
    elif recipe.autoround is not None:
        name, body = "AutoRoundModifier", body | recipe.autoround.model_dump(mode="json", exclude_none=True)
    elif recipe.hqq is not None:
        name, body = "HQQModifier", body | recipe.hqq.model_dump(mode="json")
    if recipe.bypass_divisibility_checks:
        body["bypass_divisibility_checks"] = True
    if recipe.groups:
        body["config_groups"] = {group.name: _group(group) for group in recipe.groups}
    else:
        body["targets"] = []
    if recipe.kv_cache is not None and not recipe.has_own_cache:
        body["kv_cache_scheme"] = _args(recipe.kv_cache)
    return name, body


def _smoothquant(smooth: SmoothQuant) -> dict[str, Any]:
    body: dict[str, Any] = {"smoothing_strength": smooth.strength, "ignore": list(smooth.ignore) or None}
    body["algorithm"] = smooth.algorithm
    if smooth.mappings is not None:
        body["mappings"] = [[list(layers), norm] for layers, norm in smooth.mappings]
    return body


def _awq(awq: Awq) -> dict[str, Any]:
    body: dict[str, Any] = {"duo_scaling": awq.duo_scaling, "n_grid": awq.n_grid}
    if awq.mappings is not None:
        body["mappings"] = [mapping.model_dump(mode="json", exclude_none=True) for mapping in awq.mappings]
    return body | ({"offload_device": None} if awq.offload_device is None else {})


def _group(group: QuantGroup) -> dict[str, Any]:
    body: dict[str, Any] = {"targets": list(group.targets)}
    for field in ("weights", "input_activations", "output_activations"):
        args = getattr(group, field)
        if args is not None:
            body[field] = _args(args)
    return body | ({"format": group.format} if group.format else {})


def _args(args: QuantArgs) -> dict[str, Any]:
    body = args.model_dump(mode="json", exclude_none=True)
    return {key: value for key, value in body.items() if key != "observer_kwargs" or value}


class _Dumper(yaml.SafeDumper):
    """yaml's dumper, which reads rare line ends back as others unless they are escaped."""

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors: the engine reads them, people do not."""
        return True


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_str)
