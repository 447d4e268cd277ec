"""Tensor-parallel simulation: a weight scale for each rank, of however many columns a layer gives it."""

from __future__ import annotations

import pytest

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.edit import set_value
from quantui.recipe.fields import FIELDS
from quantui.recipe.importing import import_text
from quantui.recipe.layers import layer_table
from quantui.recipe.match import match
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.schemes import preset_group
from quantui.recipe.shards import by_shard, sent_of, shards_of
from quantui.recipe.size import quantized_bytes
from quantui.recipe.targets import targets


def group(**fields: object) -> QuantGroup:
    return QuantGroup(name="g", weights=QuantArgs.model_validate({"strategy": "channel"} | fields))


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_a_rank_has_its_share_of_columns(ranks: int) -> None:
    weights = by_shard(group(observer_kwargs={"shards": ranks}), 256).weights
    assert weights is not None and (weights.strategy, weights.group_size) == ("group", 256 // ranks)
    assert weights.observer_kwargs == {"shards": ranks}  # by which formats tell them from groups


def test_finer_groups_stay_within_a_rank() -> None:
    fine = group(strategy="group", group_size=32, observer_kwargs={"shards": 2})
    weights = by_shard(fine, 128).weights
    assert weights is not None and weights.group_size == 32
    with pytest.raises(RecipeError, match=r"a\.o_proj has 96 columns, which 2 ranks cannot share evenly"):
        match(Recipe(groups=(fine,)), [Linear("a.o_proj", 64, 96, "BF16")])


def test_what_cannot_be_dealt_is_a_problem_of_the_table_too() -> None:
    recipe, layers = Recipe(groups=(group(observer_kwargs={"shards": 4}),)), [Linear("a.o_proj", 64, 30, "BF16")]
    assert [problem.what for problem in layer_table(recipe, layers).problems] == [
        "a.o_proj has 30 columns, which 4 ranks cannot share evenly"
    ]


def test_every_rank_has_its_scale_on_disk() -> None:
    layer = Linear("a.o_proj", 64, 128, "BF16")
    assert quantized_bytes(layer, group(observer_kwargs={"shards": 4})) - quantized_bytes(layer, group()) == 3 * 64 * 2


def test_tp_size_deals_the_layers_that_ranks_share() -> None:
    made = import_text("QuantConfig(w_bit=8, a_bit=16, mm_tensor=False).simulate_tp(4)", "msmodelslim")
    names = [f"model.layers.0.{leaf}" for leaf in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")]
    taken = match(made.recipe, [Linear(name, 64, 64, "BF16") for name in (*names, "lm_head")]).taken
    shards = [taken[name].weights.observer_kwargs.get("shards") for name in names]  # type: ignore[union-attr]
    assert shards == [None, 4, 4] and "lm_head" not in taken
    assert sent_of(taken[names[1]].weights) == "rank" and made.recipe.needs_calibration


@pytest.mark.parametrize(
    ("text", "sent", "why"),
    [
        ("QuantConfig(mm_tensor=False).simulate_tp(4, enable_per_device_quant=False)", "all", "scales of what ranks send"),
        ("QuantConfig(mm_tensor=False).simulate_tp(4, enable_communication_quant=False)", None, "stays in float"),
        ("QuantConfig(mm_tensor=False, is_dynamic=True).simulate_tp(4, enable_communication_quant=True)", None, "are dynamic"),
        ("--w_bit 8 --a_bit 8 --tp_size 4 --use_reduce_quant True", "all", "scales of what ranks send"),
    ],
)
def test_what_ranks_send_is_quantized_where_that_is_asked_for(text: str, sent: str | None, why: str) -> None:
    made = import_text(text, "msmodelslim")
    weights = next(group.weights for group in made.recipe.groups if shards_of(group.weights))
    assert sent_of(weights) == sent and any(why in line.says for line in (*made.carried, *made.not_carried))
    again = set_value(made.recipe, "weight_observer", "mse")  # what ranks share goes with the other layers
    assert [sent_of(g.weights) for g in again.groups if g.weights and g.weights.observer == "mse"] == [None, sent]
    assert sent_of(next(g.weights for g in set_value(again, "weight_ranks", "8").groups if shards_of(g.weights) == 8)) == sent


def test_static_inputs_are_dealt_where_that_is_asked_for() -> None:
    static = QuantArgs(symmetric=False)
    whole = group(observer_kwargs={"shards": 4}).model_copy(update={"input_activations": static})
    dealt = by_shard(whole, 256, inputs=True).input_activations
    assert dealt is not None and (dealt.strategy, dealt.group_size) == ("group", 64)
    assert by_shard(whole, 256).input_activations == static
    dynamic = QuantArgs(strategy="token", dynamic=True)
    assert by_shard(whole.model_copy(update={"input_activations": dynamic}), 256, inputs=True).input_activations == dynamic


def test_the_form_deals_layers_and_keeps_them_with_the_others() -> None:
    made = set_value(Recipe(groups=(group(),)), "weight_ranks", "4")
    names = ("model.layers.0.mlp.down_proj", "model.layers.0.mlp.up_proj")

    def shards(recipe: Recipe) -> list[object]:
        taken = match(recipe, [Linear(name, 64, 64, "BF16") for name in names]).taken
        return [taken[name].weights.observer_kwargs.get("shards") for name in names]  # type: ignore[union-attr]

    assert FIELDS["weight_ranks"].get(made) == "4" and shards(made) == [4, None]
    finer = set_value(made, "weight_observer", "mse")
    assert {group.weights.observer for group in finer.groups if group.weights} == {"mse"} and shards(finer) == [4, None]
    assert len(set_value(finer, "weight_type", "float").groups) == 1
    assert set_value(made, "weight_ranks", "none") == Recipe(groups=made.groups[:1])
    patterns = Recipe(groups=(preset_group("W8A8", (r"re:.*down_proj$",)),))
    assert shards_of(set_value(patterns, "weight_ranks", "2").groups[0].weights) == 2
    with pytest.raises(RecipeError, match="the weights are left in float"):
        set_value(Recipe(), "weight_ranks", "2")


def test_ranks_go_into_a_format_that_has_them() -> None:
    """msModelSlim's reader takes a layer a rank, where compressed-tensors has them as groups of a size of their own."""
    dealt = group(observer_kwargs={"shards": 2}).model_copy(update={"input_activations": QuantArgs(symmetric=False)})
    found = {target.name: target for target in targets(Recipe(groups=(dealt,)), [Linear("a.o_proj", 64, 128, "BF16")])}
    assert found["MindIE / vLLM-Ascend"].holds and not found["vLLM"].holds
