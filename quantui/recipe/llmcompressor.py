"""llm-compressor's recipe YAML <-> Recipe.

The engine runs a recipe of a shape it does not know "successfully" and quantizes nothing, so everything here is strict: a
recipe is understood whole or refused with the line and the valid names. Field names and defaults are those of
llm-compressor 0.14.0.1 (modifiers/quantization/quantization/mixin.py, modifiers/gptq/base.py,
modifiers/transform/smoothquant/base.py) and compressed-tensors 0.19.0 (quantization/quant_args.py).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from quantui.errors import RecipeError
from quantui.recipe import text
from quantui.recipe.schema import Gptq, QuantArgs, QuantGroup, Recipe, SmoothQuant
from quantui.recipe.schemes import PRESETS, preset_group

OBSERVERS = (
    "static_minmax", "minmax", "memoryless_minmax", "mse", "memoryless_mse", "imatrix_mse",
    "nvfp4_expanded_mse", "fouroversix", "nvfp4_expanded_imatrix",
)  # fmt: skip
QUANTIZATION_FIELDS = (
    "config_groups", "targets", "ignore", "scheme", "kv_cache_scheme", "weight_observer", "input_observer",
    "output_observer", "observer", "bypass_divisibility_checks",
)  # fmt: skip
FIELDS: dict[str, tuple[str, ...]] = {
    "QuantizationModifier": QUANTIZATION_FIELDS,
    "GPTQModifier": (*QUANTIZATION_FIELDS, "block_size", "dampening_frac", "actorder", "batched_quantization"),
    "SmoothQuantModifier": ("smoothing_strength", "mappings", "ignore", "algorithm", "num_calibration_steps"),
}
"""The modifiers this version carries out, and the fields of each."""

NOT_YET = (
    "AWQModifier", "AutoRoundModifier", "SpinQuantModifier", "QuIPModifier", "LogarithmicEqualizationModifier",
    "SparseGPTModifier", "WandaPruningModifier", "MagnitudePruningModifier", "ConstantPruningModifier", "REAPPruningModifier",
)  # fmt: skip
M = TypeVar("M", bound=BaseModel)
SHAPE = "quant_stage: {quant_modifiers: {QuantizationModifier: {...}}}"


def load(path: Path) -> Recipe:
    """Reads a recipe file.

    Raises:
        RecipeError: it cannot be read, or what `loads` raises.
    """
    try:
        if path.stat().st_size > text.LONGEST:
            raise RecipeError("the file is too large for a recipe", where=str(path), todo="check the path of the recipe")
        return loads(path.read_text(encoding="utf-8"), where=str(path))
    except OSError as error:
        raise RecipeError(
            f"the recipe cannot be read ({error.strerror})", where=str(path), todo="check the path of the recipe"
        ) from error
    except UnicodeDecodeError as error:
        raise RecipeError("the recipe is not UTF-8 text", where=str(path), todo="save it as UTF-8") from error


def loads(source: str, *, where: str = "recipe") -> Recipe:
    """Reads recipe YAML; `where` names it in errors.

    Raises:
        RecipeError: it is not YAML, not of the staged shape, names an unknown key, modifier, scheme or observer, holds a
            value out of range, or asks for what this version does not do.
    """
    document = text.Document(source, where, RecipeError)
    fields: dict[str, Any] = {}
    seen: list[str] = []
    for path, name, body in _modifiers(document):
        if name == "SmoothQuantModifier":
            fields["smoothquant"] = _smoothquant(document, path, body)
        else:
            fields |= _quantization(document, path, name, body)
        seen.append(name)
    quantizers = [name for name in seen if name != "SmoothQuantModifier"]
    if len(quantizers) != 1:
        what = f"a recipe needs exactly one of QuantizationModifier and GPTQModifier, this one has {len(quantizers)}"
        raise document.fail(what, (), "use several config_groups in one modifier for mixed precision")
    if len(seen) > 2:
        raise document.fail("SmoothQuantModifier stands twice", (), "keep one of the two")
    recipe = _validated(document, Recipe, fields, ())
    if recipe.kv_cache is None and not any(group.quantizes for group in recipe.groups):
        raise document.fail(
            "the recipe quantizes nothing", (), "give the modifier a scheme, config_groups or a kv_cache_scheme"
        )
    return recipe


def dumps(recipe: Recipe, *, comment: str = "") -> str:
    """The recipe in exactly the form that `oneshot(recipe=...)` reads; `loads` gives an equal recipe back."""
    modifiers: dict[str, Any] = {}
    if recipe.smoothquant is not None:
        smooth = recipe.smoothquant
        modifiers["SmoothQuantModifier"] = {"smoothing_strength": smooth.strength, "ignore": list(smooth.ignore) or None}
        modifiers["SmoothQuantModifier"]["algorithm"] = smooth.algorithm
        if smooth.mappings is not None:
            modifiers["SmoothQuantModifier"]["mappings"] = [[list(layers), norm] for layers, norm in smooth.mappings]
    body: dict[str, Any] = {"ignore": list(recipe.ignore)}
    if recipe.gptq is not None:
        body |= recipe.gptq.model_dump(mode="json", exclude={"actorder"} if recipe.gptq.actorder == "static" else None)
    if recipe.bypass_divisibility_checks:
        body["bypass_divisibility_checks"] = True
    if recipe.groups:
        body["config_groups"] = {group.name: _group_body(group) for group in recipe.groups}
    else:
        body["targets"] = []
    if recipe.kv_cache is not None:
        body["kv_cache_scheme"] = _args_body(recipe.kv_cache)
    modifiers["QuantizationModifier" if recipe.gptq is None else "GPTQModifier"] = body
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    staged = {"quant_stage": {"quant_modifiers": modifiers}}
    return head + yaml.dump(staged, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


class _Dumper(yaml.SafeDumper):
    """yaml's dumper, which reads rare line ends back as others unless they are escaped."""


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = '"' if re.search("[\x85\u2028\u2029\ufeff]", value) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_str)


def _modifiers(document: text.Document) -> list[tuple[text.Path, str, dict[str, Any]]]:
    """Every modifier with its path, from `<name>_stage: {<name>_modifiers: {Modifier: {...}}}`."""
    found: list[tuple[text.Path, str, dict[str, Any]]] = []
    for stage, groups in _mapping(document, document.data, (), "the recipe").items():
        if not str(stage).endswith("_stage"):
            what = f"unknown key {stage!r}: at the top stand stages, whose names end in _stage"
            raise document.fail(what, (stage,), f"write it as {SHAPE}")
        for group, modifiers in _mapping(document, groups, (stage,), "a stage").items():
            if not str(group).endswith("_modifiers"):
                what = f"unknown key {group!r}: a stage holds groups, whose names end in _modifiers"
                raise document.fail(what, (stage, group), f"write it as {SHAPE}")
            for name, body in _mapping(document, modifiers, (stage, group), "a group of modifiers").items():
                found.append(_modifier(document, (stage, group, name), name, body))
    return found


def _modifier(document: text.Document, path: text.Path, name: str, body: Any) -> tuple[text.Path, str, dict[str, Any]]:
    if name in NOT_YET:
        raise document.fail(f"{name} is not carried out by this version", path, f"use one of {', '.join(FIELDS)}")
    if name not in FIELDS:
        raise document.fail(f"unknown modifier {name!r}", path, _nearest(name, tuple(FIELDS)))
    fields = _mapping(document, {} if body is None else body, path, name)
    for key in fields:
        if key not in FIELDS[name]:
            raise document.fail(f"unknown key {key!r} in {name}", (*path, key), _nearest(key, FIELDS[name]))
    return path, name, fields


def _quantization(document: text.Document, path: text.Path, name: str, body: dict[str, Any]) -> dict[str, Any]:
    """What a QuantizationModifier or GPTQModifier says, as fields of Recipe."""
    groups = _groups(document, path, body)
    fields: dict[str, Any] = {
        "groups": tuple(_with_observers(document, path, body, group) for group in groups),
        "ignore": _names(document, _given(body, "ignore", ()), (*path, "ignore")),
        "bypass_divisibility_checks": body.get("bypass_divisibility_checks", False),
    }
    if not isinstance(fields["bypass_divisibility_checks"], bool):
        raise document.fail(
            "bypass_divisibility_checks is true or false", (*path, "bypass_divisibility_checks"), "correct the value"
        )
    if body.get("kv_cache_scheme") is not None:
        fields["kv_cache"] = _args(document, body["kv_cache_scheme"], (*path, "kv_cache_scheme"))
    if name == "GPTQModifier":
        knobs: dict[str, Any] = {key: body[key] for key in Gptq.model_fields if key in body}
        fields["gptq"] = _validated(document, Gptq, knobs, path)
    return fields


def _groups(document: text.Document, path: text.Path, body: dict[str, Any]) -> list[QuantGroup]:
    targets = _names(document, _given(body, "targets", ["Linear"]), (*path, "targets"))
    scheme, groups = body.get("scheme"), body.get("config_groups")
    if scheme is not None and groups is not None:
        raise document.fail("scheme and config_groups stand side by side", (*path, "scheme"), "keep one of them")
    if scheme is not None:
        pairs = {scheme: targets} if isinstance(scheme, str) else _mapping(document, scheme, (*path, "scheme"), "scheme")
        return [
            _preset(document, preset, taken, (*path, "scheme", preset), index)
            for index, (preset, taken) in enumerate(pairs.items())
        ]
    if groups is None:
        return []
    found = []
    for group, entry in _mapping(document, groups, (*path, "config_groups"), "config_groups").items():
        found.append(_group(document, str(group), entry, (*path, "config_groups", group)))
    return found


def _preset(document: text.Document, preset: Any, targets: Any, path: text.Path, index: int) -> QuantGroup:
    if str(preset).upper() not in PRESETS:
        raise document.fail(f"unknown scheme {preset!r}", path, _nearest(preset, tuple(PRESETS)))
    names = _names(document, targets, path)
    if not names:
        raise document.fail(f"scheme {preset} has no targets", path, "for example [Linear]")
    return preset_group(str(preset), names, index)


def _group(document: text.Document, name: str, entry: Any, path: text.Path) -> QuantGroup:
    fields = _mapping(document, entry, path, f"group {name}")
    valid = ("targets", "weights", "input_activations", "output_activations", "format")
    for key in fields:
        if key not in valid:
            raise document.fail(f"unknown key {key!r} in group {name}", (*path, key), _nearest(key, valid))
    kinds = {key: _args(document, fields[key], (*path, key)) for key in valid[1:4] if fields.get(key) is not None}
    targets = _names(document, fields.get("targets", ["Linear"]), (*path, "targets"))
    return _validated(document, QuantGroup, {"name": name, "targets": targets, "format": fields.get("format"), **kinds}, path)


def _args(document: text.Document, entry: Any, path: text.Path) -> QuantArgs:
    fields = dict(_mapping(document, entry, path, str(path[-1])))
    for key in fields:
        if key not in QuantArgs.model_fields:
            raise document.fail(
                f"unknown key {key!r} in {path[-1]}", (*path, key), _nearest(key, tuple(QuantArgs.model_fields))
            )
    fields["observer"] = _observer(document, fields.get("observer"), (*path, "observer"))
    return _validated(document, QuantArgs, fields, path)


def _smoothquant(document: text.Document, path: text.Path, body: dict[str, Any]) -> SmoothQuant:
    fields: dict[str, Any] = {"ignore": _names(document, _given(body, "ignore", ()), (*path, "ignore"))}
    for key, field in (("smoothing_strength", "strength"), ("algorithm", "algorithm")):
        if key in body:
            fields[field] = body[key]
    if body.get("mappings") is not None:
        fields["mappings"] = _mappings(document, body["mappings"], (*path, "mappings"))
    return _validated(document, SmoothQuant, fields, path, {"strength": "smoothing_strength"})


def _mappings(document: text.Document, value: Any, path: text.Path) -> tuple[tuple[tuple[str, ...], str], ...]:
    pairs = value if isinstance(value, list) else [None]
    found = []
    for index, pair in enumerate(pairs):
        if not isinstance(pair, list) or len(pair) != 2 or not isinstance(pair[1], str):
            what = "mappings must be a list of pairs: [[layers to balance], the norm before them]"
            raise document.fail(what, (*path, index), "write each as [[re:.*q_proj, re:.*k_proj], re:.*input_layernorm]")
        found.append((_names(document, pair[0], (*path, index, 0)), _names(document, pair[1], (*path, index, 1))[0]))
    return tuple(found)


def _with_observers(document: text.Document, path: text.Path, body: dict[str, Any], group: QuantGroup) -> QuantGroup:
    """The group with the modifier's own observers put in, as the engine does."""
    observer = body.get("observer")
    by_kind = dict(_mapping(document, observer, (*path, "observer"), "observer")) if observer is not None else {}
    for kind in by_kind:
        if kind not in ("weights", "input", "output"):
            raise document.fail(f"unknown key {kind!r} in observer", (*path, "observer", kind), "use weights, input or output")
    changes: dict[str, Any] = {}
    for field, kind, single in (
        ("weights", "weights", "weight_observer"),
        ("input_activations", "input", "input_observer"),
        ("output_activations", "output", "output_observer"),
    ):
        if observer is not None and body.get(single) is not None:
            raise document.fail(f"observer and {single} stand side by side", (*path, single), "keep one of them")
        place = (*path, "observer", kind) if kind in by_kind else (*path, single)
        name, args = _observer(document, by_kind.get(kind, body.get(single)), place), getattr(group, field)
        if name is not None and args is not None:
            changes[field] = args.model_copy(update={"observer": name})
    return group.model_copy(update=changes)


def _observer(document: text.Document, name: Any, path: text.Path) -> str | None:
    """The observer's name as it is spelled here; the engine takes any case, and dashes or spaces for underscores."""
    if name is None:
        return None
    known = re.sub(r"[- ]", "_", str(name).lower())
    if known not in OBSERVERS:
        raise document.fail(f"unknown observer {name!r}", path, _nearest(known, OBSERVERS))
    return known


def _given(body: dict[str, Any], key: str, default: Any) -> Any:
    """The value of a key, or the default where it is absent or null."""
    return default if body.get(key) is None else body[key]


def _names(document: text.Document, value: Any, path: text.Path) -> tuple[str, ...]:
    """A target or ignore list; each `re:` entry must be a regular expression."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise document.fail(f"{path[-1]} must be a name or a list of names", path, "for example [Linear] or ['re:.*lm_head']")
    for index, name in enumerate(names):
        if name.startswith("re:"):
            try:
                with warnings.catch_warnings(action="ignore"):  # of Python about "[[", which means what it says today
                    re.compile(name[3:])
            except (re.error, OverflowError, RecursionError) as error:
                what = f"{name!r} is not a regular expression ({error})"
                raise document.fail(what, (*path, index), "escape special characters, for example \\. for a dot") from error
    return tuple(names)


def _mapping(document: text.Document, value: Any, path: text.Path, label: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not (value or path):
        raise document.fail(
            f"{label} must be a mapping of names", path, f"write it as {SHAPE}" if len(path) < 3 else "give it keys"
        )
    return value


def _validated(
    document: text.Document,
    model: type[M],
    fields: dict[str, Any],
    path: text.Path,
    keys: Mapping[str, str] = MappingProxyType({}),
) -> M:
    """The model of these fields; `keys` are the fields that the file spells otherwise."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problems = [
            (tuple(keys.get(str(part), part) for part in problem["loc"]), problem["msg"].removeprefix("Value error, "))
            for problem in error.errors()
        ]
        last = path[-1] if path else "recipe"
        what = "; ".join(f"{'.'.join(map(str, place)) or last}: {message}" for place, message in problems)
        raise document.fail(what, (*path, *problems[0][0]), "correct the value") from error


def _nearest(name: Any, valid: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name)[:100], valid, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}valid are {', '.join(valid)}"


def _group_body(group: QuantGroup) -> dict[str, Any]:
    body: dict[str, Any] = {"targets": list(group.targets)}
    for field in ("weights", "input_activations", "output_activations"):
        args = getattr(group, field)
        if args is not None:
            body[field] = _args_body(args)
    return body | ({"format": group.format} if group.format else {})


def _args_body(args: QuantArgs) -> dict[str, Any]:
    body = args.model_dump(mode="json", exclude_none=True)
    return {key: value for key, value in body.items() if key != "observer_kwargs" or value}
