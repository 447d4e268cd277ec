"""The layer table: what becomes of every layer, and every problem at once."""

from __future__ import annotations

import pytest
from hypothesis import given

from quantui.errors import RecipeError
from quantui.recipe.layers import differences, layer_table
from quantui.recipe.match import match
from quantui.recipe.schema import Fallback, QuantArgs, QuantGroup, Recipe
from quantui.recipe.words import cache_words, scheme_words
from tests.recipe.test_match import llama, recipe
from tests.recipe.values import recipes

INT8 = QuantArgs(strategy="channel")
STATIC = QuantGroup(name="s", weights=INT8, input_activations=QuantArgs(symmetric=False))


def test_every_layer_has_a_row() -> None:
    table = layer_table(Recipe(groups=(STATIC,), ignore=("re:.*lm_head", "model.layers.0.mlp.up_proj")), llama())
    rows = {row.name: row for row in table.rows}
    head, up, query = rows["lm_head"], rows["model.layers.0.mlp.up_proj"], rows["model.layers.0.self_attn.q_proj"]
    assert (head.scheme, head.rule, head.ignored, head.group) == ("float", "re:.*lm_head", True, None)
    assert (up.rule, up.bytes_before) == ("model.layers.0.mlp.up_proj", up.bytes_after)
    assert (query.scheme, query.rule, query.group, query.ignored) == ("W8A8 int8 static", "Linear", "s", False)
    assert query.shape == (64, 64) and query.bytes_before == 64 * 64 * 2 > query.bytes_after
    assert table.quantized == 13 and table.untaken == () and table.problems == ()
    assert table.taken_by == {"Linear": 13, "re:.*lm_head": 1, "model.layers.0.mlp.up_proj": 1}
    assert 8 < table.bits_per_weight < 16 and table.bytes_after == sum(row.bytes_after for row in table.rows)


def test_all_problems_come_at_once() -> None:
    grouped = QuantArgs(num_bits=4, strategy="group", group_size=48)
    made = Recipe(
        groups=(QuantGroup(name="g", targets=("re:.*q_proj$", "re:.*up_projection"), weights=grouped),),
        ignore=("re:.*lm_haed", "re:.*vision_tower.*"),
        fallback=Fallback(level=99),
    )
    table = layer_table(made, llama())
    said = [problem.what for problem in table.problems]
    assert len(said) == 4 and all(problem.severity == "error" for problem in table.problems)
    assert any("re:.*up_projection" in what for what in said) and any("re:.*lm_haed" in what for what in said)
    assert any("groups of 48 do not divide model.layers.0.self_attn.q_proj (64x64)" in what for what in said)
    assert any("L99 leaves none of the 2" in what for what in said)
    assert "lm_head" in table.untaken and len(table.untaken) == 13


def test_a_class_that_is_nearly_linear_is_a_typo() -> None:
    [problem] = layer_table(recipe("Linera", "re:.*q_proj$"), llama()).problems
    assert problem.rule == "Linera" and problem.severity == "error" and problem.what.endswith("; did you mean Linear?")
    assert not layer_table(recipe("LlamaAttention", "Linear"), llama()).problems


def test_an_entry_that_always_comes_second_is_no_typo() -> None:
    table = layer_table(recipe("Linear", ignore=("re:.*lm_head", "lm_head")), llama())
    assert table.problems == () and table.taken_by["lm_head"] == 1 and table.taken_by["re:.*lm_head"] == 1
    assert table.rows[-1].rule == "lm_head" and table.rows[-1].beaten == ("re:.*lm_head", "Linear")


def test_of_several_targets_the_engine_takes_the_first() -> None:
    table = layer_table(recipe("Linear", "re:.*q_proj$", "re:.*self_attn.*", "model.layers.0.self_attn.q_proj"), llama())
    row = next(row for row in table.rows if row.name.endswith("0.self_attn.q_proj"))
    assert row.rule == "model.layers.0.self_attn.q_proj" and row.beaten == ("re:.*q_proj$", "re:.*self_attn.*", "Linear")
    assert table.taken_by["re:.*q_proj$"] == 1 and table.taken_by["re:.*self_attn.*"] == 6


def test_a_target_that_is_all_ignored_is_worth_a_look() -> None:
    table = layer_table(recipe("Linear", "re:.*q_proj$", ignore=("re:.*self_attn.*",)), llama())
    [problem] = table.problems
    assert problem.severity == "warning" and problem.rule == "re:.*q_proj$" and table.taken_by["re:.*q_proj$"] == 0


def test_nothing_to_quantize_is_no_crash() -> None:
    table = layer_table(Recipe(), llama())
    assert table.quantized == 0 and table.bits_per_weight == 16 and len(table.untaken) == len(llama())
    assert layer_table(Recipe(), []).bits_per_weight == 0


def test_what_two_recipes_do_differently() -> None:
    one = layer_table(recipe("Linear"), llama())
    other = layer_table(recipe("Linear", ignore=("re:.*lm_head",)), llama())
    assert [(before.name, before.scheme, after.scheme) for before, after in differences(one, other)] == [
        ("lm_head", "W8A16 int8", "float")
    ]


@given(recipes())
def test_the_table_agrees_with_the_match(made: Recipe) -> None:
    layers = llama(inputs=128)
    table = layer_table(made, layers)
    try:
        found = match(made, layers)
    except RecipeError:
        assert table.problems
    else:
        taken = {row.name: row.group for row in table.rows if row.group is not None}
        assert taken == {name: group.name for name, group in found.taken.items()}
        assert not [problem for problem in table.problems if problem.severity == "error" and "fallback" not in problem.what]


@pytest.mark.parametrize(
    ("group", "words"),
    [
        (None, "float"),
        (QuantGroup(name="g"), "float"),
        (STATIC, "W8A8 int8 static"),
        (QuantGroup(name="g", weights=QuantArgs(), input_activations=QuantArgs()), "W8A8 int8 per tensor static"),
        (QuantGroup(name="g", weights=QuantArgs(num_bits=4, strategy="group", group_size=64, symmetric=False)),
         "W4A16 int4 group 64 asymmetric"),
        (QuantGroup(name="g", weights=QuantArgs(type="float", strategy="block", block_structure=(128, 128)),
                    input_activations=QuantArgs(type="float", strategy="token", dynamic=True)),
         "W8A8 fp8 block 128x128 dynamic"),
        (QuantGroup(name="g", weights=QuantArgs(num_bits=4, type="float", strategy="tensor_group", group_size=16)),
         "W4A16 nvfp4"),
        (QuantGroup(name="g", weights=QuantArgs(type="float", strategy="group", group_size=32, scale_dtype="torch.uint8")),
         "W8A16 mxfp8"),
        (QuantGroup(name="g", weights=QuantArgs(strategy="channel", observer_kwargs={"shards": 4})), "W8A16 int8 4 ranks"),
        (QuantGroup(name="g", input_activations=QuantArgs()), "A8 activations only"),
    ],
)  # fmt: skip
def test_words(group: QuantGroup | None, words: str) -> None:
    assert scheme_words(group) == words


def test_words_of_a_cache() -> None:
    assert cache_words(None) == "float"
    assert cache_words(QuantArgs(strategy="attn_head", symmetric=False)) == "int8 per head static asymmetric"
    assert cache_words(QuantArgs(type="float")) == "fp8 per tensor static"
