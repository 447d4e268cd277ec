"""llm-compressor's recipe YAML <-> Recipe.

The engine runs a recipe of a shape it does not know "successfully" and quantizes nothing, so everything here is strict: a
recipe is understood whole or refused with the line and the valid names. Field names and defaults are those of
llm-compressor 0.14.0.1 (modifiers/quantization/quantization/mixin.py, modifiers/gptq/base.py,
modifiers/transform/smoothquant/base.py) and compressed-tensors 0.19.0 (quantization/quant_args.py).
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
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
    recipe = Recipe()
    seen: list[str] = []
    for path, name, body in _modifiers(document):
        if name == "SmoothQuantModifier":
            recipe = recipe.model_copy(update={"smoothquant": _smoothquant(document, path, body)})
        else:
            recipe = recipe.model_copy(update=_quantization(document, path, name, body))
        seen.append(name)
    quantizers = [name for name in seen if name != "SmoothQuantModifier"]
    if len(quantizers) != 1 or len(set(seen)) != len(seen):
        what = f"a recipe needs exactly one of QuantizationModifier and GPTQModifier, this one has {len(quantizers)}"
        raise document.fail(what, (), "use several config_groups in one modifier for mixed precision")
    if not recipe.groups and recipe.kv_cache is None:
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
        if smooth.mappings is not None:
            modifiers["SmoothQuantModifier"]["mappings"] = [[list(layers), norm] for layers, norm in smooth.mappings]
    body: dict[str, Any] = {"ignore": list(recipe.ignore)}
    if recipe.gptq is not None:
        body |= recipe.gptq.model_dump(mode="json")
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
    return head + yaml.safe_dump(staged, sort_keys=False, allow_unicode=True, width=120)


def _modifiers(document: text.Document) -> list[tuple[text.Path, str, dict[str, Any]]]:
    """Every modifier with its path, from `<name>_stage: {<name>_modifiers: {Modifier: {...}}}`."""
    found: list[tuple[text.Path, str, dict[str, Any]]] = []
    for stage, groups in _mapping(document, document.data, (), "the recipe").items():
        if not re.fullmatch(r"\w*_stage", str(stage)):
            what = f"unknown key {stage!r}: at the top stand stages, whose names end in _stage"
            raise document.fail(what, (stage,), f"write it as {SHAPE}")
        for group, modifiers in _mapping(document, groups, (stage,), "a stage").items():
            if not re.fullmatch(r"\w*_modifiers", str(group)):
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
        "ignore": _names(document, body.get("ignore") or (), (*path, "ignore")),
        "bypass_divisibility_checks": bool(body.get("bypass_divisibility_checks", False)),
    }
    if body.get("kv_cache_scheme") is not None:
        fields["kv_cache"] = _args(document, body["kv_cache_scheme"], (*path, "kv_cache_scheme"))
    if name == "GPTQModifier":
        knobs: dict[str, Any] = {key: body[key] for key in ("block_size", "dampening_frac", "actorder") if key in body}
        fields["gptq"] = _validated(document, Gptq, knobs, path)
    return fields


def _groups(document: text.Document, path: text.Path, body: dict[str, Any]) -> list[QuantGroup]:
    targets = _names(document, body.get("targets", ["Linear"]), (*path, "targets"))
    scheme, groups = body.get("scheme"), body.get("config_groups")
    if scheme is not None and groups is not None:
        raise document.fail("scheme and config_groups stand side by side", (*path, "scheme"), "keep one of them")
    if scheme is not None:
        pairs = {scheme: targets} if isinstance(scheme, str) else _mapping(document, scheme, (*path, "scheme"), "scheme")
        made = []
        for index, (preset, taken) in enumerate(pairs.items()):
            if str(preset).upper() not in PRESETS:
                raise document.fail(
                    f"unknown scheme {preset!r}", (*path, "scheme", preset), _nearest(str(preset), tuple(PRESETS))
                )
            made.append(preset_group(str(preset), _names(document, taken, (*path, "scheme", preset)), index))
        return made
    if groups is None:
        return []
    found = []
    for group, entry in _mapping(document, groups, (*path, "config_groups"), "config_groups").items():
        found.append(_group(document, str(group), entry, (*path, "config_groups", group)))
    return found


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
    _check_observer(document, fields.get("observer"), (*path, "observer"))
    if fields.get("group_size") == -1:
        fields |= {"group_size": None, "strategy": fields.get("strategy") or "channel"}  # the engine's old way to say channel
    if fields.get("group_size") and fields.get("strategy") is None:
        fields["strategy"] = "group"
    if fields.get("strategy") is None:
        fields["strategy"] = "token" if fields.get("dynamic") is True else "tensor"
    return _validated(document, QuantArgs, fields, path)


def _smoothquant(document: text.Document, path: text.Path, body: dict[str, Any]) -> SmoothQuant:
    fields: dict[str, Any] = {"ignore": _names(document, body.get("ignore") or (), (*path, "ignore"))}
    if "smoothing_strength" in body:
        fields["strength"] = body["smoothing_strength"]
    if body.get("mappings") is not None:
        try:
            fields["mappings"] = tuple(
                ((layers,) if isinstance(layers, str) else tuple(layers), norm) for layers, norm in body["mappings"]
            )
        except (TypeError, ValueError) as error:
            what = "mappings must be a list of pairs: [[layers to balance], the norm before them]"
            raise document.fail(
                what, (*path, "mappings"), "write each as [[re:.*q_proj, re:.*k_proj], re:.*input_layernorm]"
            ) from error
    return _validated(document, SmoothQuant, fields, path)


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
        name, args = by_kind.get(kind, body.get(single)), getattr(group, field)
        _check_observer(document, name, (*path, single if single in body else "observer"))
        if name is not None and args is not None:
            changes[field] = args.model_copy(update={"observer": name})
    return group.model_copy(update=changes)


def _check_observer(document: text.Document, name: Any, path: text.Path) -> None:
    if name is not None and str(name).replace("-", "_") not in OBSERVERS:
        raise document.fail(f"unknown observer {name!r}", path, _nearest(str(name), OBSERVERS))


def _names(document: text.Document, value: Any, path: text.Path) -> tuple[str, ...]:
    """A target or ignore list; each `re:` entry must be a regular expression."""
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise document.fail(f"{path[-1]} must be a name or a list of names", path, "for example [Linear] or ['re:.*lm_head']")
    for index, name in enumerate(names):
        if name.startswith("re:"):
            try:
                re.compile(name[3:])
            except re.error as error:
                what = f"{name!r} is not a regular expression ({error})"
                raise document.fail(what, (*path, index), "escape special characters, for example \\. for a dot") from error
    return tuple(names)


def _mapping(document: text.Document, value: Any, path: text.Path, label: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not (value or path):
        raise document.fail(
            f"{label} must be a mapping of names", path, f"write it as {SHAPE}" if len(path) < 3 else "give it keys"
        )
    return value


def _validated(document: text.Document, model: type[M], fields: dict[str, Any], path: text.Path) -> M:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        problems = error.errors()
        first: text.Path = (*path, *problems[0]["loc"])
        what = "; ".join(
            f"{'.'.join(map(str, problem['loc'])) or path[-1]}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in problems
        )
        raise document.fail(what, first, "correct the value") from error


def _nearest(name: str, valid: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(name, valid, n=1)
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
