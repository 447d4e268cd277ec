"""Fields: one description each, read and written alike, and the page of documentation made from them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import RecipeError
from quantui.recipe.edit import set_value
from quantui.recipe.fields import FIELDS, SECTIONS, Field, parsed, table, values_of
from quantui.recipe.llmcompressor import loads
from quantui.recipe.llmcompressor.names import FIELDS as KEYS
from quantui.recipe.schema import (
    AutoRound,
    Awq,
    EngineModifier,
    Fallback,
    Frozen,
    Gptq,
    Hqq,
    OutlierSuppression,
    QuantArgs,
    Recipe,
    SmoothQuant,
    Sparse,
)
from quantui.recipe.schemes import PRESETS, preset_group
from quantui.recipe.terms import CALLED, ROWS, WORDS
from quantui.workspace import RECIPES
from tests.recipe.values import recipes

BASE = Recipe(groups=(preset_group("W8A8", ("Linear",)),))


def made(**values: Any) -> Recipe:
    """BASE with these fields set, one after the other."""
    recipe = BASE
    for name, value in values.items():
        recipe = set_value(recipe, name, value)
    return recipe


def test_every_field_has_words_and_a_section() -> None:
    assert set(FIELDS) == set(WORDS) == {row[0] for row in ROWS} and set(CALLED) <= set(FIELDS)
    for field in FIELDS.values():
        assert field.section in SECTIONS and field.term and field.help.endswith(".") and values_of(field)
        assert field.needs is None or field.needs[0] in FIELDS
        assert field.llmcompressor or field.section == "layers"


def test_every_part_of_a_recipe_has_its_fields() -> None:
    known = {(part, key) for _, _, part, key, *_ in ROWS}
    known |= {("smoothquant", "strength"), ("outliers", "alpha"), ("outliers", "method")}  # smoothing_strength, outliers
    known |= {("smoothquant", "ignore"), ("outliers", "ignore"), ("awq", "offload_device"), ("gptq", "batched_quantization")}
    inputs, caches = ("input_activations", "output_activations"), ("kv_cache", "value_cache")
    methods: dict[str, type[Frozen]] = {"smoothquant": SmoothQuant, "awq": Awq, "outliers": OutlierSuppression, "gptq": Gptq}
    methods |= {"hqq": Hqq, "autoround": AutoRound, "sparse": Sparse, "fallback": Fallback}
    parts = {**methods, **dict.fromkeys(("weights", *inputs, *caches), QuantArgs)}
    wanted = {(part, key) for part, kind in parts.items() for key in kind.model_fields}
    never = {(part, key) for part in (*inputs, *caches) for key in ("block_structure", "actorder")}
    never |= {("weights", "dynamic")} | {(part, "group_size") for part in caches}  # which QuantGroup and Recipe refuse
    assert wanted - known == never
    assert set(Recipe.model_fields) == {*methods, *caches, "groups", "ignore", "engine_modifiers", "bypass_divisibility_checks"}


def test_every_field_of_a_method_is_that_of_its_modifier() -> None:
    for field in FIELDS.values():
        name, _, key = field.llmcompressor.partition(".")
        if name in KEYS and key:
            assert key.split(".")[0] in KEYS[name], field.name


def test_the_page_of_fields_is_current() -> None:
    page = (RECIPES.parent / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert page == table(), "write it anew: python -m quantui.recipe.fields > docs/recipes.md"


@given(recipe=recipes())
def test_setting_what_is_there_changes_nothing(recipe: Recipe) -> None:
    for field in FIELDS.values():
        value = field.get(recipe)
        if field.is_used(recipe) and not (value is None and not field.optional):
            assert set_value(recipe, field.name, value) == recipe, field.name


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_that_is_set_is_there(name: str) -> None:
    field = FIELDS[name]
    ready = {
        "weight_group_size": {"scheme": "W4A16"}, "activation_group_size": {"scheme": "FP8_BLOCK"},
        "smoothing_beta": {"outliers": "m4"}, "smoothing_algorithm": {"outliers": "smoothquant"},
        "smoothing_strength": {"outliers": "smoothquant"}, "sparse": {"scheme": "W4A8"}, "activation_symmetric": {},
        "weight_symmetric": {"scheme": "W4A16"}, "scheme": {"scheme": "W8A8"}, "weight_type": {"scheme": "FP8"},
        "weight_bits": {"scheme": "W4A16"}, "weight_observer": {"scheme": "W4A16"},
        "weight_block_structure": {"scheme": "FP8_BLOCK"}, "weight_actorder": {"rounding": "gptq"},
        "output_group_size": {"output_type": "int", "output_strategy": "group"}, "output_type": {},
        "smoothing_mappings": {"outliers": "smoothquant"}, "smoothing_ignore": {"outliers": "m2"},
    }.get(name, {})  # fmt: skip
    parts = {
        "awq": {"outliers": "awq"}, "gptq": {"rounding": "gptq"}, "auto": {"rounding": "autoround"}, "kv": {"kv_type": "int"},
        "value": {"kv_type": "int", **({} if name == "value_type" else {"value_type": "int"})},
        "sparse": {"scheme": "W4A8", **({"sparse": True} if name != "sparse" else {})},
        "hqq": {"scheme": "W4A16_ASYM", "rounding": "hqq"}, "output": {"output_type": "int"},
    }  # fmt: skip
    ready = ready or next((before for part, before in parts.items() if name.startswith(part)), {})
    if name == "kv_type":
        ready = {}
    recipe = made(**ready)
    assert field.is_used(recipe)
    tried = 0
    for value in _some_values(field):
        try:
            after = set_value(recipe, name, value)
        except RecipeError as error:
            assert error.todo
            continue
        tried += 1
        assert field.get(after) == parsed(field, value), (name, value)
    assert tried


def _some_values(field: Field) -> list[Any]:
    if field.kind == "choice":
        return [choice for choice in field.choices if choice not in ("custom", "INT8", "none")]
    if field.kind == "bool":
        return [True, "false"]
    if field.kind in ("text", "data"):
        data = ['{"grid": 10.0}', "{QuIPModifier: {rotations: [v]}}", "[[[re:.*q_proj], re:.*norm]]"]
        data += ["[{smooth_layer: a, balance_layers: [b, re:c]}]"]
        return ["auto", "8", "none", "64x32", *data, *([None] if field.optional else [])]
    if field.kind == "names":
        return [("a.b", "re:.*c"), "a.b, c"]
    low, high = field.low or 0, field.high if field.high is not None else (field.low or 0) + 5
    return [low, str(high), (int if field.kind == "int" else float)((low + high) / 2), *([None] if field.optional else [])]


@given(
    field=st.sampled_from(list(FIELDS.values())),
    value=st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=2)),
)
def test_any_value_is_taken_or_refused_with_what_it_may_be(field: Field, value: Any) -> None:
    try:
        got = parsed(field, value)
    except RecipeError as error:
        assert error.where == field.name and error.todo == f"it is {values_of(field)}"
        return
    assert parsed(field, got) == got


def test_names_may_be_written_in_a_line_or_in_lines() -> None:
    for value in ("a.b, re:.{1,2}c ,", "a.b\nre:.{1,2}c\n\n", ["a.b", "re:.{1,2}c"]):
        assert parsed(FIELDS["ignore"], value) == ("a.b", "re:.{1,2}c")


def test_what_goes_with_a_value_changes_with_it() -> None:
    grouped = made(weight_strategy="group")
    assert grouped.groups[0].weights == QuantArgs(strategy="group", group_size=128)
    assert made(weight_strategy="group", weight_group_size=None).groups[0].weights == QuantArgs(strategy="channel")
    assert made(weight_group_size=64).groups[0].weights == QuantArgs(strategy="group", group_size=64)
    static = made(activation_dynamic="false").groups[0].input_activations
    assert static == QuantArgs(strategy="tensor")
    floats = made(scheme="W8A16", weight_type="float")
    assert floats.groups[0].weights == QuantArgs(type="float", strategy="group", group_size=128)
    nvfp4 = made(scheme="W8A16", weight_type="float", weight_bits=4)
    assert FIELDS["scheme"].get(nvfp4) == "NVFP4A16"
    assert set_value(nvfp4, "weight_bits", 8).groups[0].weights == QuantArgs(type="float", strategy="group", group_size=16)
    block = made(scheme="FP8_DYNAMIC", weight_strategy="block").groups[0].weights
    assert block is not None and block.block_structure == (128, 128)
    both = made(kv_type="float", value_type="int", value_symmetric=False)
    assert both.kv_cache == QuantArgs(type="float", observer="static_minmax")
    assert both.value_cache == QuantArgs(symmetric=False, observer="static_minmax")
    assert set_value(both, "kv_type", "none").value_cache is None
    ordered = made(rounding="gptq", gptq_actorder="weight")
    assert set_value(ordered, "rounding", "rtn") == BASE


def test_methods_take_each_others_place() -> None:
    recipe = made(outliers="smoothquant", rotation="quip", rounding="gptq")
    assert (recipe.smoothquant, recipe.gptq) == (SmoothQuant(), Gptq())
    recipe = set_value(set_value(set_value(recipe, "outliers", "m4"), "rotation", "spinquant"), "rounding", "autoround")
    assert (recipe.smoothquant, recipe.outliers, recipe.gptq) == (None, OutlierSuppression(method="m4"), None)
    assert (recipe.autoround, recipe.engine_modifiers) == (AutoRound(), (EngineModifier(name="SpinQuantModifier"),))
    assert made(outliers="awq").awq == Awq() and made(scheme="W4A16_ASYM", rounding="hqq").hqq == Hqq()
    assert made(scheme="W4A8", sparse=True).sparse == Sparse() and made(fallback_level=5).fallback == Fallback(level=5)
    assert made(fallback_level=5, fallback_bits=4.5).fallback == Fallback(bits_per_weight=4.5)


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("weight_bits", 9, "weight_bits cannot be '9'; it is 2 to 8"),
        ("weight_bits", "many", "it is 2 to 8"),
        ("weight_bits", 4.5, "it is 2 to 8"),
        ("weight_bits", True, "it is 2 to 8"),
        ("scheme", "W9A9", "one of none, UNQUANTIZED"),
        ("weight_symmetric", "maybe", "true or false"),
        ("gptq_block_size", 64, "does not use gptq; choose gptq first"),
        ("kv_bits", 8, "the K/V cache is left in float; set kv_type"),
        ("weight_bit", 8, "did you mean weight_bits"),
        ("targets", [], "targets"),
        ("weight_type", "none", "leave"),
        ("weight_observer_kwargs", "{grid", "cannot be '{grid'; it is a list or mapping, or none"),
        ("weight_observer_kwargs", "grid", "it is a list or mapping"),
        ("engine_modifiers", "[QuIP]", "unknown modifier 'QuIP'; valid are SpinQuantModifier"),
        ("engine_modifiers", "{QuIPModifier: {rotations: [w]}}", "rotations"),
        ("output_bits", 8, "the outputs are left in float; set output_type"),
    ],
)
def test_a_value_that_cannot_be_is_refused(name: str, value: Any, what: str) -> None:
    recipe = BASE if name != "weight_type" else made(scheme="W4A16")
    with pytest.raises(RecipeError, match=re.escape(what)):
        set_value(recipe, name, value)


def test_rare_values_come_out_as_the_engine_reads_them() -> None:
    block = made(scheme="FP8_BLOCK", weight_block_structure="64x32").groups[0].weights
    assert block is not None and block.block_structure == (64, 32)
    assert made(rounding="gptq", gptq_batched_quantization="none").gptq == Gptq(batched_quantization=None)
    assert made(rounding="gptq", gptq_batched_quantization="4").gptq == Gptq(batched_quantization=4)
    kwargs = made(weight_observer="mse", weight_observer_kwargs="{grid: 10, norm: 2.4}")
    assert FIELDS["weight_observer_kwargs"].get(kwargs) == '{"grid": 10, "norm": 2.4}'
    assert set_value(kwargs, "weight_observer_kwargs", None) == made(weight_observer="mse")
    assert made(outliers="awq", awq_offload_device="none").awq == Awq(offload_device=None)
    assert made(outliers="m4", smoothing_ignore="a.b").outliers == OutlierSuppression(method="m4", ignore=("a.b",))
    pruned = made(engine_modifiers="{SparseGPTModifier: {sparsity: 0.5}, QuIPModifier: }")
    assert [modifier.name for modifier in pruned.engine_modifiers] == ["SparseGPTModifier", "QuIPModifier"]
    assert FIELDS["rotation"].get(pruned) == "quip"


def test_a_recipe_can_be_made_of_nothing() -> None:
    recipe = set_value(Recipe(), "scheme", "W4A16")
    assert recipe == loads("QuantizationModifier: {scheme: W4A16}")
    assert set_value(Recipe(), "weight_type", "int").groups[0].targets == ("Linear",)
    assert all(FIELDS["scheme"].get(set_value(Recipe(), "scheme", name)) in (name, "W8A8") for name in PRESETS)
