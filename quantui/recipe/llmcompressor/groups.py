"""The groups of a quantizing modifier: presets by name, groups written out, and observers named for all of them."""

from __future__ import annotations

from typing import Any

from quantui.recipe import text
from quantui.recipe.llmcompressor.shape import Found, Notes, mapping, nearest
from quantui.recipe.llmcompressor.values import args, given, names, observer, validated
from quantui.recipe.schema import QuantGroup
from quantui.recipe.schemes import PRESETS, preset_group

GROUP_FIELDS = ("targets", "weights", "input_activations", "output_activations", "format")


def read_groups(document: text.Document, notes: Notes, found: Found) -> tuple[QuantGroup, ...]:
    """The groups with the modifier's own observers put in, as the engine does.

    Raises:
        RecipeError: a name, key or value in them is wrong.
    """
    return tuple(_with_observers(document, found, group) for group in _groups(document, notes, found))


def _groups(document: text.Document, notes: Notes, found: Found) -> list[QuantGroup]:
    body, path = found.fields, found.path
    targets = names(document, given(body, "targets", ["Linear"]), (*path, "targets"))
    scheme, groups = body.get("scheme"), body.get("config_groups")
    if scheme is not None and groups is not None:
        raise document.fail("scheme and config_groups stand side by side", (*path, "scheme"), "keep one of them")
    place = (*path, "scheme")
    if isinstance(scheme, dict) and scheme and set(scheme) <= set(GROUP_FIELDS):
        notes.add("scheme is a group written out: understood as config_groups", place)
        return [_group(document, "group_0", {"targets": list(targets), **scheme}, place)]
    if scheme is not None:
        pairs = {scheme: targets} if isinstance(scheme, str) else mapping(document, scheme, place, "scheme")
        return [
            _preset(document, preset, taken, (*place, preset), index) for index, (preset, taken) in enumerate(pairs.items())
        ]
    if groups is None:
        return []
    place = (*path, "config_groups")
    entries = mapping(document, groups, place, "config_groups")
    return [_group(document, str(key), entry, (*place, key)) for key, entry in entries.items()]


def _preset(document: text.Document, preset: Any, targets: Any, path: text.Path, index: int) -> QuantGroup:
    if str(preset).upper() not in PRESETS:
        raise document.fail(f"unknown scheme {preset!r}", path, nearest(preset, tuple(PRESETS)))
    taken = names(document, targets, path)
    if not taken:
        raise document.fail(f"scheme {preset} has no targets", path, "for example [Linear]")
    return preset_group(str(preset), taken, index)


def _group(document: text.Document, name: str, entry: Any, path: text.Path) -> QuantGroup:
    fields = mapping(document, entry, path, f"group {name}")
    for key in fields:
        if key not in GROUP_FIELDS:
            raise document.fail(f"unknown key {key!r} in group {name}", (*path, key), nearest(key, GROUP_FIELDS))
    kinds = {key: args(document, fields[key], (*path, key)) for key in GROUP_FIELDS[1:4] if fields.get(key) is not None}
    targets = names(document, fields.get("targets", ["Linear"]), (*path, "targets"))
    return validated(document, QuantGroup, {"name": name, "targets": targets, "format": fields.get("format"), **kinds}, path)


def _with_observers(document: text.Document, found: Found, group: QuantGroup) -> QuantGroup:
    body, path = found.fields, found.path
    whole = body.get("observer")
    by_kind = dict(mapping(document, whole, (*path, "observer"), "observer")) if whole is not None else {}
    for kind in by_kind:
        if kind not in ("weights", "input", "output"):
            raise document.fail(f"unknown key {kind!r} in observer", (*path, "observer", kind), "use weights, input or output")
    changes: dict[str, Any] = {}
    for field, kind, single in (
        ("weights", "weights", "weight_observer"),
        ("input_activations", "input", "input_observer"),
        ("output_activations", "output", "output_observer"),
    ):
        if whole is not None and body.get(single) is not None:
            raise document.fail(f"observer and {single} stand side by side", (*path, single), "keep one of them")
        place = (*path, "observer", kind) if kind in by_kind else (*path, single)
        name, made = observer(document, by_kind.get(kind, body.get(single)), place), getattr(group, field)
        if name is not None and made is not None:
            changes[field] = made.model_copy(update={"observer": name})
    return group.model_copy(update=changes)
