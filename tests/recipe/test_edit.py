"""Edits: what each does, that layers go where the edit says under the engine's own rule, and that nothing invalid comes out."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import RecipeError
from quantui.recipe.edit import (
    change_group,
    fall_back,
    give_scheme,
    override,
    remove_group,
    rename_group,
    restore,
    set_value,
)
from quantui.recipe.fields import FIELDS
from quantui.recipe.llmcompressor import dumps, loads
from quantui.recipe.match import group_of, takes
from quantui.recipe.patterns import admitting, may_meet, without
from quantui.recipe.refusals import refusals
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.schemes import PRESETS, preset_group
from tests.recipe.values import recipes

PARTS = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.gate", "mlp.down_proj")
NAMES = (*(f"model.layers.{i}.{part}" for i in (0, 1, 11) for part in PARTS), "lm_head")
BASE = Recipe(groups=(preset_group("W8A8", ("Linear",)),), ignore=("re:.*lm_head",))


def scheme_of(recipe: Recipe, name: str) -> str:
    """What happens to a layer: float, or the name of its preset."""
    group = group_of(recipe, name)
    if group is None or any(takes(entry, name) for entry in recipe.ignore):
        return "float"
    return next((p for p, pair in PRESETS.items() if pair == (group.weights, group.input_activations)), "other")


# --- layers


def test_layers_fall_back_and_come_back() -> None:
    down = fall_back(BASE, ["model.layers.0.mlp.down_proj", "lm_head", "model.layers.0.mlp.down_proj"])
    assert down.ignore == ("re:.*lm_head", "model.layers.0.mlp.down_proj")
    assert scheme_of(down, "model.layers.0.mlp.down_proj") == "float"
    assert restore(down, ["model.layers.0.mlp.down_proj"]) == BASE
    assert fall_back(down, ["lm_head"]) is down


def test_a_layer_comes_back_from_a_pattern_and_leaves_the_others_behind() -> None:
    recipe = BASE.model_copy(update={"ignore": ("re:.*mlp.*",)})
    back = restore(recipe, ["model.layers.1.mlp.gate"])
    assert [name for name in NAMES if "mlp" in name and scheme_of(back, name) != "float"] == ["model.layers.1.mlp.gate"]


def test_a_layer_that_nothing_takes_cannot_come_back() -> None:
    recipe = Recipe(groups=(preset_group("W8A8", ("re:.*q_proj",)),), ignore=("lm_head",))
    with pytest.raises(RecipeError, match=r"no group takes lm_head.*scheme of its own"):
        restore(recipe, ["lm_head"])
    with pytest.raises(RecipeError, match="every Linear layer in float"):
        restore(Recipe(groups=BASE.groups, ignore=("Linear",)), ["lm_head"])


def test_layers_get_a_scheme_of_their_own() -> None:
    names = ["model.layers.0.mlp.gate", "lm_head"]
    mixed = give_scheme(BASE, names, "W4A16")
    assert {name: scheme_of(mixed, name) for name in NAMES} == {n: "W4A16" if n in names else "W8A8" for n in NAMES}
    again = give_scheme(mixed, "model.layers.0.mlp.gate", "FP8_DYNAMIC")
    assert [group.targets for group in again.groups] == [("Linear",), ("lm_head",), ("model.layers.0.mlp.gate",)]
    joined = give_scheme(again, ["model.layers.11.mlp.gate"], "fp8_dynamic")
    assert joined.groups[-1].targets == ("model.layers.0.mlp.gate", "model.layers.11.mlp.gate")
    assert give_scheme(joined, "lm_head", again.groups[2].name).groups[-1].targets[-1] == "lm_head"
    with pytest.raises(RecipeError, match="did you mean W8A8"):
        give_scheme(BASE, names, "W8A9")


@pytest.mark.parametrize("names", [(), NAMES])
@given(steps=st.lists(st.tuples(st.sampled_from([
    "re:.*q_proj", "re:.*q_proj$", "re:.*k_proj$", "re:.*mlp.*", "re:.*mlp.gate", r"re:.*\.1\..*", "re:model.layers.0", "re:.*",
    "re:a|.*gate", "re:(?i).*MLP.gate$", "re:.*(gate|down)_proj", "lm_head", "model.layers.0.mlp.gate",
]), st.sampled_from([None, "W4A16", "FP8_DYNAMIC", "W8A16"])), max_size=6, unique_by=lambda step: step[0]))  # fmt: skip
def test_an_earlier_override_wins(names: tuple[str, ...], steps: list[tuple[str, str | None]]) -> None:
    recipe = Recipe(groups=(preset_group("W8A8", ("Linear",)),))
    for target, scheme in steps:
        recipe = override(recipe, target, scheme, names)
    for name in NAMES:
        exact = [scheme for target, scheme in steps if target == name and scheme]
        floats = [target for target, scheme in steps if target == name and not scheme]
        patterns = [scheme for target, scheme in steps if target[:3] == "re:" and takes(target, name)]
        expected = "W8A8" if not patterns else patterns[0] or "float"
        if floats:
            expected = "float"
        elif exact:
            before = [s for t, s in steps[: [t for t, _ in steps].index(name)] if t[:3] == "re:" and takes(t, name)]
            expected = "float" if before and None in before and before[0] is None else exact[0]
        assert scheme_of(recipe, name) == expected, (name, recipe)
    assert loads(dumps(recipe)) == recipe


def test_the_scheme_of_an_override_can_be_changed_in_its_place() -> None:
    recipe = override(override(BASE, "re:.*q_proj$", "W4A16"), "re:.*mlp.*", "FP8_DYNAMIC")
    again = override(recipe, "re:.*q_proj$", "W8A16")
    assert [group.targets for group in again.groups] == [group.targets for group in recipe.groups]
    assert scheme_of(again, NAMES[0]) == "W8A16"
    split = Recipe(groups=(preset_group("W8A8", ("Linear", "re:.*q_proj$")),))
    assert [group.targets for group in override(split, "re:.*q_proj$", "W4A16").groups] == [("Linear",), ("re:.*q_proj$",)]


@pytest.mark.parametrize("bad", ["re:(", "re:*a", "re:a{99999999999}"])
def test_a_pattern_that_is_none_is_refused(bad: str) -> None:
    with pytest.raises(RecipeError, match="not a regular expression"):
        override(BASE, bad, "W4A16")
    with pytest.raises(RecipeError, match="not a regular expression"):
        change_group(BASE, "group_0", targets=(bad,))


def test_patterns_with_numbered_groups_cannot_be_joined() -> None:
    with pytest.raises(RecipeError, match="numbered groups"):
        override(override(BASE, r"re:z?(.)\1.*", "W4A16"), "re:.*", "W8A16")


@given(one=st.sampled_from(NAMES), other=st.sampled_from(NAMES))
def test_a_pattern_without_names_takes_the_others(one: str, other: str) -> None:
    made = without("re:.*", [one, "re:.*gate$|x"])
    assert takes(made, other) == (other not in (one,) and not re.match(".*gate$|x", other))
    assert takes(without("re:.*", [one]), f"{one}.more")


def test_patterns_that_end_otherwise_never_meet() -> None:
    assert not may_meet("re:.*q_proj$", "re:.*k_proj$") and not may_meet(r"re:.*\.mlp\.gate$", "re:.*gate_proj$")
    assert may_meet("re:.*proj$", "re:.*q_proj$") and may_meet("re:.*q_proj", "re:.*k_proj")
    assert may_meet("re:.*a$|b", "re:.*c$")
    assert may_meet(r"re:.*\d$", "re:.*b$") and may_meet("re:.*b?$", "re:.*c$")
    assert not may_meet("re:.*q_proj", "re:.*k_proj", NAMES)


@given(entry=st.sampled_from(
           ["re:.*q_proj", "re:.*", "re:a|.*gate", "re:(?i).*MLP.gate$", "re:(?:a|b).*", "re:(?!x).*", "Linear"]),
       others=st.lists(st.sampled_from([*NAMES, "re:.*gate$|x", "re:.*q_proj$", "re:(?i)LM.*"]), unique=True, max_size=4),
       more=st.lists(st.sampled_from(NAMES), unique=True, max_size=2))  # fmt: skip
def test_what_was_taken_out_of_a_pattern_can_be_let_in_again(entry: str, others: list[str], more: list[str]) -> None:
    if entry != "Linear":
        made = without(without(entry, others), more)
        back = admitting(admitting(made, more), others)
        assert [name for name in NAMES if takes(back, name)] == [name for name in NAMES if takes(entry, name)], back
        if "(?i)" not in entry:  # which holds for the part alone once something stands before it
            assert back == entry
    assert admitting(entry, []) == entry and admitting(entry, ["no.such"]) == entry


def test_no_idle_pattern_is_left_behind() -> None:
    mlp = [name for name in NAMES if ".mlp." in name]
    recipe = BASE.model_copy(update={"ignore": ("re:.*lm_head", "re:.*mlp.*")})
    assert restore(recipe, mlp, NAMES).ignore == ("re:.*lm_head",)
    part = restore(recipe, mlp[:2], NAMES)
    assert part.ignore != recipe.ignore and fall_back(part, mlp[:2]) == recipe
    two = override(override(BASE, "re:.*q_proj$", "W4A16"), "re:.*", "FP8_DYNAMIC")
    assert two.groups[2].targets != ("re:.*",)
    assert remove_group(two, two.groups[1].name).groups[1].targets == ("re:.*",)


# --- groups and values


def test_groups_are_renamed_changed_and_removed() -> None:
    mixed = give_scheme(BASE, ["lm_head"], "W4A16")
    assert rename_group(mixed, "group_1", "head").groups[1].name == "head"
    assert mixed.ignore == (r"re:(?!(?:lm_head)\Z).*lm_head",) and remove_group(mixed, "group_1") == BASE
    assert change_group(mixed, "group_1", targets=("re:.*head",)).groups[1].targets == ("re:.*head",)
    for bad, what in (
        (lambda: rename_group(mixed, "group_1", "group_0"), "same name"),
        (lambda: rename_group(mixed, "group_9", "x"), "no group 'group_9'"),
        (lambda: remove_group(BASE, "group_0"), "nothing of the recipe would be quantized"),
        (lambda: change_group(mixed, "group_1", targets=()), "targets"),
        (lambda: change_group(mixed, "group_1", targets=("Linear",)), "stands twice"),
    ):
        with pytest.raises(RecipeError, match=what) as caught:
            bad()
        assert caught.value.todo


def test_an_edit_that_could_not_work_is_refused_with_the_nearest_that_can() -> None:
    with pytest.raises(RecipeError, match=r"asymmetric weights with int8 activations.*make the weights symmetric"):
        set_value(BASE, "weight_symmetric", False)
    with pytest.raises(RecipeError, match="HQQ"):
        set_value(BASE, "rounding", "hqq")


@given(recipe=recipes(), names=st.lists(st.sampled_from(NAMES), max_size=3), field=st.sampled_from(sorted(FIELDS)),
       value=st.none() | st.booleans() | st.integers(-2, 300) | st.floats() | st.text(max_size=4)
       | st.sampled_from([choice for known in FIELDS.values() for choice in known.choices]),
       scheme=st.sampled_from(list(PRESETS)), pattern=st.sampled_from(["re:.*q_proj", "re:.*", "re:(?i)x", "Linear", "a"]),
       which=st.integers(0, 5))  # fmt: skip
def test_any_edit_of_any_recipe_is_valid_or_refused(
    recipe: Recipe, names: list[str], field: str, value: object, scheme: str, pattern: str, which: int
) -> None:
    try:
        made = (
            lambda: fall_back(recipe, names), lambda: restore(recipe, names),
            lambda: give_scheme(recipe, names or ["a.b"], scheme),
            lambda: override(recipe, pattern, scheme), lambda: override(recipe, pattern, None),
            lambda: set_value(recipe, field, value),
        )[which]()  # fmt: skip
    except RecipeError as error:
        assert error.what and error.todo
        return
    assert loads(dumps(made)) == made
    assert not [refusal for refusal in refusals(made) if refusal not in refusals(recipe)]


def test_every_group_of_a_mixed_recipe_keeps_its_own_place() -> None:
    one = QuantGroup(name="a", targets=("re:.*x",), weights=QuantArgs(strategy="channel"))
    recipe = Recipe(groups=(one, preset_group("W8A8", ("Linear",), 1)))
    assert override(recipe, "re:.*y$", "W4A16").groups[:2] == recipe.groups
