"""Modifiers of a document as one recipe."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from typing import Any, NamedTuple

from quantui.errors import RecipeError
from quantui.recipe import text
from quantui.recipe.args import Frozen
from quantui.recipe.llmcompressor.groups import read_groups
from quantui.recipe.llmcompressor.names import KNOBS, ORDER, QUANTIZATION_FIELDS, QUANTIZERS
from quantui.recipe.llmcompressor.shape import Found, Notes, find_modifiers
from quantui.recipe.llmcompressor.values import args, given, names, validated
from quantui.recipe.methods import AutoRound, Awq, AwqMapping, Fallback, Gptq, Hqq, OutlierSuppression, SmoothQuant, Sparse
from quantui.recipe.rare import RARE, EngineModifier, spelled_as_here
from quantui.recipe.schema import Recipe

_METHODS: dict[str, type[Frozen]] = {"GPTQModifier": Gptq, "AutoRoundModifier": AutoRound, "HQQModifier": Hqq}
_OTHERS: dict[str, tuple[str, type[Frozen]]] = {
    "OutlierSuppressionModifier": ("outliers", OutlierSuppression),
    "SparseModifier": ("sparse", Sparse),
    "FallbackModifier": ("fallback", Fallback),
}

_KINDS = f"{', '.join(list(QUANTIZERS)[:-1])} and {list(QUANTIZERS)[-1]}"
_ONE = "use several config_groups in one modifier for mixed precision"


class Read(NamedTuple):
    """A recipe, and what was understood in its text though the engine would read it otherwise or not at all."""

    recipe: Recipe
    notes: tuple[str, ...]


@functools.lru_cache(maxsize=16)
def read(source: str, where: str = "recipe") -> Read:
    """Reads a recipe, and says what in it the engine would have read otherwise; what was read lately is kept.

    Raises:
        RecipeError: it is none, or it quantizes nothing; with line and column.
    """
    document = text.Document(_spaced(source), where, RecipeError, columns=True)
    notes = Notes(document)
    recipe = read_recipe(document, notes)
    return Read(recipe, tuple(notes.said))


def _spaced(source: str) -> str:
    """JSON with its tabs as blanks, which YAML would stumble over; any other text as it is."""
    if "\t" in source and source.lstrip()[:1] == "{":
        try:
            json.loads(source)
        except (ValueError, RecursionError):
            return source
        return source.replace("\t", " ")
    return source


def read_recipe(document: text.Document, notes: Notes) -> Recipe:
    """The recipe that a document's modifiers make together.

    Raises:
        RecipeError: it is none, or it quantizes nothing.
    """
    found = _with_split_awq(document, notes, find_modifiers(document, notes))
    _check_twice(document, found)
    fields: dict[str, Any] = {"engine_modifiers": ()}
    for each in found:
        if each.name in QUANTIZERS:
            more = _quantization(document, notes, each)
            if "kv_cache" in fields and "kv_cache" in more:
                what = "kv_cache_scheme and KVCacheModifier stand side by side"
                raise document.fail(what, (*each.path, "kv_cache_scheme"), "keep one of them")
            fields |= more
        elif each.name == "KVCacheModifier":
            fields |= _caches(document, each)
        elif each.name in RARE:
            fields["engine_modifiers"] += (_rare(document, each),)
        else:
            fields |= _method(document, notes, each)
    _note_order(notes, found)
    if not any(each.name in QUANTIZERS or each.name == "KVCacheModifier" for each in found):
        raise document.fail(f"a recipe needs exactly one of {_KINDS}, this one has none", (), _ONE)
    recipe = validated(document, Recipe, fields, ())
    if not recipe.quantizes:
        raise document.fail(
            "the recipe quantizes nothing", (), "give the modifier a scheme, config_groups or a kv_cache_scheme"
        )
    return recipe


def _check_twice(document: text.Document, found: list[Found]) -> None:
    quantizers = [each for each in found if each.name in QUANTIZERS]
    if len(quantizers) > 1:
        what = f"a recipe needs exactly one of {_KINDS}, this one has {len(quantizers)}"
        raise document.fail(what, quantizers[1].path, _ONE)
    seen: set[str] = set()
    for each in found:
        if each.name in seen:
            raise document.fail(f"{each.name} stands twice", each.path, "keep one of the two")
        seen.add(each.name)


def _note_order(notes: Notes, found: list[Found]) -> None:
    ranks = [0 if each.name in RARE else ORDER.index(each.name) for each in found]
    for each, rank, before in zip(found[1:], ranks[1:], ranks, strict=False):
        if rank < before:
            notes.add(f"{each.name} is moved up: it takes effect before the modifiers that the file names above it", each.path)


def _with_split_awq(document: text.Document, notes: Notes, found: list[Found]) -> list[Found]:
    """What AWQModifier of earlier versions says of quantization, as a QuantizationModifier of its own."""
    made: list[Found] = []
    for each in found:
        old = {key: value for key, value in each.fields.items() if key in QUANTIZATION_FIELDS}
        if each.name != "AWQModifier" or not old:
            made.append(each)
            continue
        made.append(replace(each, fields={key: value for key, value in each.fields.items() if key not in old}))
        if any(other.name in QUANTIZERS for other in found):
            todo = "say what is quantized in the QuantizationModifier alone"
            raise document.fail(f"{next(iter(old))} stands in AWQModifier beside a quantizing modifier", each.path, todo)
        notes.add(f"{', '.join(old)} of AWQModifier belong to a QuantizationModifier behind it now", each.path)
        made.append(Found(each.path, "QuantizationModifier", old))
    return made


def _quantization(document: text.Document, notes: Notes, found: Found) -> dict[str, Any]:
    """What a quantizing modifier says, as fields of Recipe."""
    body, path = found.fields, found.path
    fields: dict[str, Any] = {
        "groups": read_groups(document, notes, found),
        "ignore": names(document, given(body, "ignore", ()), (*path, "ignore")),
        "bypass_divisibility_checks": body.get("bypass_divisibility_checks", False),
    }
    if not isinstance(fields["bypass_divisibility_checks"], bool):
        raise document.fail(
            "bypass_divisibility_checks is true or false", (*path, "bypass_divisibility_checks"), "correct the value"
        )
    if body.get("kv_cache_scheme") is not None:
        fields["kv_cache"] = args(document, body["kv_cache_scheme"], (*path, "kv_cache_scheme"))
    field = QUANTIZERS[found.name]
    if field is not None:
        knobs = {key: body[key] for key in KNOBS[found.name] if key in body}
        fields[field] = validated(document, _METHODS[found.name], knobs, path)
    return fields


def _caches(document: text.Document, found: Found) -> dict[str, Any]:
    kinds = {"keys": "kv_cache", "values": "value_cache"}
    made = {kinds[key]: args(document, value, (*found.path, key)) for key, value in found.fields.items() if value is not None}
    if "kv_cache" not in made:
        raise document.fail("KVCacheModifier says nothing of keys", found.path, "give it keys, and values where they differ")
    return made


def _rare(document: text.Document, found: Found) -> EngineModifier:
    for key in ("targets", "ignore"):
        if found.fields.get(key) is not None:
            names(document, found.fields[key], (*found.path, key))
    validated(document, RARE[found.name], spelled_as_here(found.name, found.fields), found.path)
    return validated(document, EngineModifier, {"name": found.name, "settings": found.fields}, found.path)


def _method(document: text.Document, notes: Notes, found: Found) -> dict[str, Any]:
    """A modifier that neither holds groups nor is passed on as it is, as a field of Recipe."""
    body, path = dict(found.fields), found.path
    if "ignore" in body:
        body["ignore"] = names(document, given(body, "ignore", ()), (*path, "ignore"))
    if found.name == "SmoothQuantModifier":
        if "smoothing_strength" in body:
            body["strength"] = body.pop("smoothing_strength")
        if body.get("mappings") is not None:
            pairs = _mappings(document, notes, body["mappings"], (*path, "mappings"))
            body["mappings"] = tuple((mapping.balance_layers, mapping.smooth_layer) for mapping in pairs)
        return {"smoothquant": validated(document, SmoothQuant, body, path, {"strength": "smoothing_strength"})}
    if found.name == "AWQModifier":
        if body.get("mappings") is not None:
            body["mappings"] = _mappings(document, notes, body["mappings"], (*path, "mappings"))
        return {"awq": validated(document, Awq, body, path)}
    field, model = _OTHERS[found.name]
    return {field: validated(document, model, body, path)}


def _mappings(document: text.Document, notes: Notes, value: Any, path: text.Path) -> tuple[AwqMapping, ...]:
    """Pairs of layers to balance and the norm before them, written as SmoothQuant does or as AWQ does."""
    made = []
    for index, pair in enumerate(value if isinstance(value, list) else [None]):
        place = (*path, index)
        if isinstance(pair, dict) and {"smooth_layer", "balance_layers"} <= set(pair):
            layers, norm, hook = pair["balance_layers"], pair["smooth_layer"], pair.get("activation_hook_target")
            extra = [key for key in pair if key not in AwqMapping.model_fields]
            if extra:
                raise document.fail(f"unknown key {extra[0]!r} in a mapping", (*place, extra[0]), "leave it out")
        elif (
            isinstance(pair, list) and len(pair) == 2 and (isinstance(pair[1], str) or (isinstance(pair[1], list) and pair[1]))
        ):
            layers, norm, hook = pair[0], pair[1] if isinstance(pair[1], str) else pair[1][0], None
        else:
            what = "mappings must be a list of pairs: [[layers to balance], the norm before them]"
            raise document.fail(what, place, "write each as [[re:.*q_proj, re:.*k_proj], re:.*input_layernorm]")
        taken, (norm,) = names(document, layers, place), names(document, norm, place)
        made.append(
            validated(
                document, AwqMapping, {"smooth_layer": norm, "balance_layers": taken, "activation_hook_target": hook}, place
            )
        )
    return tuple(made)
