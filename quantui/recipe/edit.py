"""Edits of a recipe: each takes one and returns another, which is valid, or says why it cannot be and what can."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ValidationError

from quantui.errors import RecipeError
from quantui.recipe.llmcompressor.shape import nearest
from quantui.recipe.match import LINEAR_CLASSES, group_of, takes
from quantui.recipe.patterns import admitting, checked, is_pattern, may_meet, without
from quantui.recipe.refusals import refusals
from quantui.recipe.schema import QuantGroup, Recipe
from quantui.recipe.schemes import PRESETS, preset_group

Scheme = str | QuantGroup
"""A preset by name, the name of a group of the recipe, or a group whose weights and activations are meant."""


def changed(recipe: Recipe, **fields: Any) -> Recipe:
    """The recipe with other fields.

    Raises:
        RecipeError: they do not fit together, or bring in what cannot work; what could not work before may stay.
    """
    try:
        made = Recipe(**{**dict(recipe), **fields})
    except ValidationError as error:
        what = reasons(error)
        raise RecipeError(what, where="recipe", todo="leave it as it is, or change what it does not go with first") from error
    before = refusals(recipe)
    if new := [refusal for refusal in refusals(made) if refusal not in before]:
        raise RecipeError("; ".join(refusal.what for refusal in new), where="recipe", todo=new[0].todo)
    if recipe.quantizes and not made.quantizes:
        what = "nothing of the recipe would be quantized any more"
        raise RecipeError(what, where="recipe", todo="leave one group, or quantize the K/V cache")
    return made


def reasons(error: ValidationError) -> str:
    """What is wrong, field by field, in one line."""
    told = []
    for problem in error.errors():
        place, what = ".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")
        told.append(f"{place}: {what}" if place else what)
    return "; ".join(told)


def fall_back(recipe: Recipe, names: Iterable[str]) -> Recipe:
    """The recipe with these layers left in float; a pattern they were taken out of before takes them again."""
    ignore, new = list(recipe.ignore), dict.fromkeys(names)
    for at, entry in enumerate(ignore):
        back = [name for name in new if not takes(entry, name) and takes(admitting(entry, (name,)), name)]
        ignore[at] = admitting(entry, back)
    ignore += [name for name in new if not any(takes(entry, name) for entry in ignore)]
    return changed(recipe, ignore=tuple(ignore)) if tuple(ignore) != recipe.ignore else recipe


def restore(recipe: Recipe, names: Iterable[str], every: Sequence[str] = ()) -> Recipe:
    """The recipe with these layers quantized again, by the group that takes them.

    Args:
        recipe: the recipe before.
        names: the layers.
        every: all layers of the model; an ignore pattern that would take none of them any more is left out.

    Raises:
        RecipeError: no group takes one of them.
    """
    back = tuple(dict.fromkeys(names))
    kept = _ignore_without(recipe, back)
    idle = {entry for entry in kept if entry not in recipe.ignore and every and not any(takes(entry, name) for name in every)}
    made = changed(recipe, ignore=tuple(entry for entry in kept if entry not in idle))
    for name in back:
        group = group_of(made, name)
        if group is None or not group.quantizes:
            what = f"no group takes {name}, so that it stays in float all the same"
            raise RecipeError(what, where="recipe", todo="give it a scheme of its own")
    return made


def give_scheme(recipe: Recipe, layers: str | Iterable[str], scheme: Scheme) -> Recipe:
    """The recipe with these layers, by exact name, in a scheme; a single `re:` pattern is an override.

    Raises:
        RecipeError: there is no such scheme, or it does not go with the rest of the recipe.
    """
    if isinstance(layers, str):
        if is_pattern(layers):
            return override(recipe, layers, scheme)
        layers = (layers,)
    names, like = tuple(dict.fromkeys(layers)), _scheme(recipe, scheme)
    groups: list[QuantGroup] = []
    for group in recipe.groups:
        left = tuple(target for target in group.targets if target not in names)
        if left:
            groups.append(group if left == group.targets else group.model_copy(update={"targets": left}))
    at = next((i for i, group in enumerate(groups) if _alike(group, like) and _is_exact(group)), None)
    if at is None:
        groups.append(like.model_copy(update={"name": _free_name(recipe), "targets": names}))
    else:
        groups[at] = groups[at].model_copy(update={"targets": (*groups[at].targets, *names)})
    return changed(recipe, groups=tuple(groups), ignore=_ignore_without(recipe, names))


def override(recipe: Recipe, target: str, scheme: Scheme | None, names: Sequence[str] = ()) -> Recipe:
    """The recipe with another scheme, or None for float, for what a pattern takes; an earlier override keeps what it has.

    The engine asks the alphabet which of two patterns counts, so the new one is made to exclude the earlier ones where both
    could take a layer: one of `names`, or any where none are given. An exact name goes before every pattern, and a pattern
    before a class, in the engine as here.

    Raises:
        RecipeError: it is no pattern, the scheme does not exist, or it does not go with the rest of the recipe.
    """
    checked(target)
    earlier = [t for group in recipe.groups for t in group.targets if t not in LINEAR_CLASSES and t != target]
    if scheme is None:
        meeting = [entry for entry in earlier if is_pattern(target) and may_meet(target, entry, names)]
        entry = without(target, meeting)
        groups = _groups_without(recipe, target)
        return changed(recipe, groups=groups, ignore=tuple(dict.fromkeys((*recipe.ignore, entry))))
    like = _scheme(recipe, scheme)
    if any(target in group.targets for group in recipe.groups):
        replaced = tuple(_with_scheme(group, like) if group.targets == (target,) else group for group in _split(recipe, target))
        return changed(recipe, groups=replaced)
    entry = _behind(target, [t for t in earlier if is_pattern(t)], names) if is_pattern(target) else target
    group = like.model_copy(update={"name": _free_name(recipe), "targets": (entry,)})
    return changed(recipe, groups=(*recipe.groups, group))


def set_value(recipe: Recipe, field: str, value: Any) -> Recipe:
    """The recipe with another value of a field of `fields.FIELDS`.

    Raises:
        RecipeError: there is no such field, the value is out of its range, or it does not go with the rest of the recipe.
    """
    from quantui.recipe.fields import field_named, parsed  # which are made of the edits here

    known = field_named(field)
    old, new = known.get(recipe), parsed(known, value)
    return recipe if old in (new, value) and type(old) in (type(new), type(value)) else known.set(recipe, new)


def rename_group(recipe: Recipe, old: str, new: str) -> Recipe:
    """The recipe with a group under another name."""
    _group(recipe, old)
    groups = tuple(g.model_copy(update={"name": new}) if g.name == old else g for g in recipe.groups)
    return changed(recipe, groups=groups)


def remove_group(recipe: Recipe, name: str) -> Recipe:
    """The recipe without a group; patterns that were made to leave its layers out take them again."""
    targets = _group(recipe, name).targets
    left = [group for group in recipe.groups if group.name != name]
    groups = [
        group.model_copy(update={"targets": tuple(admitting(entry, targets) for entry in group.targets)}) for group in left
    ]
    ignore = tuple(dict.fromkeys(admitting(entry, targets) for entry in recipe.ignore))
    return changed(recipe, groups=tuple(groups), ignore=ignore)


def change_group(recipe: Recipe, name: str, **fields: Any) -> Recipe:
    """The recipe with other fields of one group: targets, weights, input_activations, output_activations, format.

    Raises:
        RecipeError: they do not fit together.
    """
    old = _group(recipe, name)
    for target in fields.get("targets", ()):
        checked(target)
    try:
        new = QuantGroup(**{**dict(old), **fields})
    except ValidationError as error:
        what = reasons(error)
        raise RecipeError(f"group {name}: {what}", where="recipe", todo="leave it as it is, or change both") from error
    return changed(recipe, groups=tuple(new if group.name == name else group for group in recipe.groups))


def _group(recipe: Recipe, name: str) -> QuantGroup:
    for group in recipe.groups:
        if group.name == name:
            return group
    names = tuple(group.name for group in recipe.groups)
    raise RecipeError(f"there is no group {name!r}", where="recipe", todo=nearest(name, names))


def _scheme(recipe: Recipe, scheme: Scheme) -> QuantGroup:
    if isinstance(scheme, QuantGroup):
        return scheme
    own = next((group for group in recipe.groups if group.name == scheme), None)
    if own is not None:
        return own
    if scheme.upper() not in PRESETS:
        raise RecipeError(f"unknown scheme {scheme!r}", where="recipe", todo=nearest(scheme, tuple(PRESETS)))
    return preset_group(scheme, ("Linear",))


def _with_scheme(group: QuantGroup, like: QuantGroup) -> QuantGroup:
    return like.model_copy(update={"name": group.name, "targets": group.targets})


def _alike(one: QuantGroup, other: QuantGroup) -> bool:
    return _with_scheme(one, other) == one


def _is_exact(group: QuantGroup) -> bool:
    """Whether every target of a group is a layer's own name."""
    return not any(is_pattern(target) or "." not in target for target in group.targets)


def _free_name(recipe: Recipe) -> str:
    taken = {group.name for group in recipe.groups}
    return next(name for name in (f"group_{n}" for n in range(len(taken) + 1)) if name not in taken)


def _split(recipe: Recipe, target: str) -> list[QuantGroup]:
    """The groups, with the one that has this target among others cut in two."""
    groups: list[QuantGroup] = []
    for group in recipe.groups:
        left = tuple(each for each in group.targets if each != target)
        if target not in group.targets or not left:
            groups.append(group)
            continue
        groups.append(group.model_copy(update={"targets": left}))
        groups.append(group.model_copy(update={"name": _free_name(recipe), "targets": (target,)}))
    return groups


def _groups_without(recipe: Recipe, target: str) -> tuple[QuantGroup, ...]:
    return tuple(group for group in _split(recipe, target) if group.targets != (target,))


def _behind(target: str, earlier: Sequence[str], names: Sequence[str]) -> str:
    """The pattern with what earlier ones take excluded, wherever the alphabet would put it before them."""
    meeting = [entry for entry in earlier if may_meet(target, entry, names)]
    behind: list[str] = []
    made = target
    while more := [entry for entry in meeting if entry not in behind and made < entry]:
        behind += more
        made = without(target, behind)
    return made


def _ignore_without(recipe: Recipe, names: Sequence[str]) -> tuple[str, ...]:
    """The ignore list with these names taken out of it."""
    kept: list[str] = []
    for entry in recipe.ignore:
        hit = [name for name in names if takes(entry, name)]
        if hit and entry in LINEAR_CLASSES:
            what = f"ignore leaves every {entry} layer in float"
            raise RecipeError(what, where="recipe", todo=f"take {entry} out of ignore and name the layers that stay in float")
        if not hit or is_pattern(entry):
            kept.append(without(entry, hit))
    return tuple(dict.fromkeys(kept))
