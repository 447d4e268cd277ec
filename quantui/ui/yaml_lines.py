"""Which field of the form a line of recipe YAML belongs to, and the other way round; works on text that cannot be read too."""

from __future__ import annotations

import re

from quantui.recipe.fields import FIELDS
from quantui.recipe.rare import RARE, ROTATIONS
from quantui.recipe.schema import Recipe

KEY = re.compile(r"(?P<indent>[ ]*)(?:- +)*(?P<key>\"[^\"]*\"|'[^']*'|[\w.*-]+) *:(?= |$)")
PLACE = re.compile(r":(\d+)(?::\d+)?$")

STANDS_FOR = {
    "weight": ("config_groups.*.weights", "scheme"),
    "activation": ("config_groups.*.input_activations", "scheme"),
    "output": ("config_groups.*.output_activations",),
    "kv": ("kv_cache_scheme", "KVCacheModifier.keys"),
    "value": ("KVCacheModifier.values",),
    "outliers": ("SmoothQuantModifier", "AWQModifier", "OutlierSuppressionModifier"),
    "smoothing": ("SmoothQuantModifier", "OutlierSuppressionModifier"),
    "rotation": ("SpinQuantModifier", "QuIPModifier"),
    "rounding": ("GPTQModifier", "AutoRoundModifier", "HQQModifier", "QuantizationModifier"),
    "gptq": ("GPTQModifier",), "autoround": ("AutoRoundModifier",), "hqq": ("HQQModifier",), "awq": ("AWQModifier",),
    "sparse": ("SparseModifier",), "fallback": ("FallbackModifier",),
    "scheme": ("scheme", "config_groups"), "targets": ("targets",),
    "engine": tuple(name for name in RARE if name not in ROTATIONS),
}  # fmt: skip
"""Where a field stands when its own key is not written, by the beginning of its name."""

REFUSED = {
    "weights": "weight_type", "input_activations": "activation_type", "kv_cache": "kv_type", "value_cache": "value_type",
    "gptq": "rounding", "autoround": "rounding", "hqq": "rounding", "awq": "outliers", "smoothquant": "outliers",
    "outliers": "outliers", "sparse": "sparse", "layers": "targets",
}  # fmt: skip
"""The field that a refusal's place is shown at, by the end of that place."""


def paths(source: str) -> list[tuple[str, ...]]:
    """The keys above and on each line, from the outermost; () where there are none."""
    stack: list[tuple[int, str]] = []
    found: list[tuple[str, ...]] = []
    for line in source.split("\n"):
        key = KEY.match(line)
        if key is not None:
            indent = len(key["indent"])
            stack = [entry for entry in stack if entry[0] < indent] + [(indent, key["key"].strip("\"'"))]
        found.append(tuple(name for _, name in stack))
    return found


def line_of(source: str, name: str) -> int:
    """The line on which a field of the form stands, from 1; 0 where nothing in the text says it."""
    field = FIELDS.get(name)
    if field is None:
        return 0
    above = paths(source)
    wanted = [field.llmcompressor, *STANDS_FOR.get(name, STANDS_FOR.get(name.split("_")[0], ()))]
    for pattern in wanted:
        for number, path in enumerate(above, 1):
            if _ends(path, pattern) and (number == 1 or above[number - 2] != path):
                return number
    return 0


def field_at(source: str, line: int) -> str:
    """The field of the form that a line belongs to, "" for none."""
    above = paths(source)
    if not 1 <= line <= len(above):
        return ""
    path = above[line - 1]
    while path:
        found = [field for field in FIELDS.values() if _ends(path, field.llmcompressor)]
        if found:
            return max(found, key=lambda field: len(field.llmcompressor)).name
        for prefix, patterns in STANDS_FOR.items():
            if any(_ends(path, pattern) for pattern in patterns):
                return next((name for name in FIELDS if name.split("_")[0] == prefix), "")
        path = path[:-1]
    return ""


def line_with(source: str, rule: str) -> int:
    """The line that a target or ignore entry is written on, from 1; 0 where it is not found."""
    spelled = {rule, rule.replace("\\", "\\\\")}
    for number, line in enumerate(source.split("\n"), 1):
        if not line.lstrip().startswith("#") and any(form in line for form in spelled):
            return number
    return 0


def place_of(where: str) -> int:
    """The line that the place of an error names, 0 for none."""
    found = PLACE.search(where)
    return int(found[1]) if found else 0


def field_of_place(place: str, recipe: Recipe) -> str:
    """The field that a refusal is shown at: by the part of the recipe it concerns, else by the group's scheme."""
    part = place.rsplit(".", 1)[-1]
    if part in REFUSED:
        return REFUSED[part]
    return "weight_type" if any(group.name == part for group in recipe.groups) else ""


def _ends(path: tuple[str, ...], pattern: str) -> bool:
    parts = pattern.split(".")
    tail = path[len(path) - len(parts) :]
    return bool(pattern) and len(tail) == len(parts) and all(b in ("*", a) for a, b in zip(tail, parts, strict=True))


__all__ = ["field_at", "field_of_place", "line_of", "line_with", "paths", "place_of"]
