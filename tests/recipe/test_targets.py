"""Deployment targets: what each engine reads, and the layer it cannot."""

from __future__ import annotations

import pytest
from hypothesis import given

from quantui.checkpoint.inspect import Linear
from quantui.recipe.schema import EngineModifier, QuantArgs, QuantGroup, Recipe, Sparse
from quantui.recipe.schemes import preset_group
from quantui.recipe.targets import Target, targets
from tests.recipe.test_match import llama
from tests.recipe.values import recipes

VLLM, HF, LMDEPLOY, ASCEND = "vLLM", "transformers", "lmdeploy", "MindIE / vLLM-Ascend"
HEAD = ("re:.*lm_head",)
LAYERS = llama(inputs=128)
INT8 = QuantArgs(strategy="channel")
TOKEN = QuantArgs(strategy="token", dynamic=True)


def held(recipe: Recipe, layers: list[Linear] = LAYERS) -> dict[str, Target]:
    """The targets by name."""
    return {target.name: target for target in targets(recipe, layers)}


def one(weights: QuantArgs | None, inputs: QuantArgs | None = None, **rest: object) -> Recipe:
    """A recipe of one group that leaves lm_head in float."""
    group = QuantGroup(name="g", weights=weights, input_activations=inputs)
    return Recipe(groups=(group,), ignore=HEAD, **rest)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("recipe", "names"),
    [
        (one(INT8, QuantArgs(symmetric=False)), {VLLM, HF, ASCEND}),
        (one(INT8, TOKEN), {VLLM, HF, LMDEPLOY, ASCEND}),
        (one(INT8), {VLLM, HF, ASCEND}),
        (one(QuantArgs(num_bits=4, strategy="group", group_size=128, symmetric=False)), {VLLM, HF, LMDEPLOY, ASCEND}),
        (one(QuantArgs(num_bits=4, strategy="group", group_size=64)), {VLLM, HF, ASCEND}),
        (one(QuantArgs(num_bits=4, strategy="group", group_size=32)), {VLLM, HF, LMDEPLOY, ASCEND}),
        (one(QuantArgs(num_bits=4, strategy="channel")), {VLLM, HF, ASCEND}),
        (one(QuantArgs(num_bits=4, strategy="group", group_size=64, observer="nf4")), {HF, ASCEND}),
        (one(QuantArgs(num_bits=3, strategy="channel")), {HF}),
        (one(QuantArgs(num_bits=4, strategy="group", group_size=64), TOKEN), {VLLM, HF, ASCEND}),
        (one(QuantArgs(type="float"), QuantArgs(type="float")), {VLLM, HF}),
        (one(QuantArgs(type="float", strategy="channel"), QuantArgs(type="float", strategy="token", dynamic=True)),
         {VLLM, HF, LMDEPLOY, ASCEND}),
        (one(INT8, kv_cache=QuantArgs(type="float")), {VLLM, HF}),
        (one(INT8, kv_cache=QuantArgs(strategy="attn_head")), {HF}),
        (one(INT8, kv_cache=INT8), {ASCEND}),
        (one(INT8, kv_cache=INT8, value_cache=QuantArgs(strategy="channel", symmetric=False)), {ASCEND}),
        (one(INT8, kv_cache=QuantArgs(type="float"), value_cache=QuantArgs()), set()),
        (one(INT8, QuantArgs(symmetric=False), kv_cache=QuantArgs(strategy="attn_head", num_bits=4)), {HF}),
        (Recipe(kv_cache=QuantArgs(symmetric=False)), {HF}),
        (Recipe(groups=(preset_group("NVFP4", ("Linear",)),), ignore=HEAD), {VLLM, HF}),
        (Recipe(groups=(preset_group("MXFP4A16", ("Linear",)),), ignore=HEAD), {VLLM, HF}),
        (Recipe(groups=(preset_group("MXFP8", ("Linear",)),), ignore=HEAD), {VLLM, HF, ASCEND}),
        (Recipe(groups=(preset_group("FP8_BLOCK", ("Linear",)),), ignore=HEAD), {VLLM, HF}),
        (Recipe(groups=(preset_group("W4AFP8", ("Linear",)),), ignore=HEAD), {VLLM, HF}),
        (one(QuantArgs(num_bits=4, strategy="channel"), QuantArgs(symmetric=False), sparse=Sparse()), {ASCEND}),
        (one(INT8, engine_modifiers=(EngineModifier(name="QuIPModifier"),)), {VLLM}),
    ],
)  # fmt: skip
def test_who_holds_it(recipe: Recipe, names: set[str]) -> None:
    found = held(recipe)
    assert {name for name, target in found.items() if target.holds} == names
    assert all(target.reason for target in found.values())


def test_the_layer_and_the_reason_are_named() -> None:
    found = held(one(QuantArgs(num_bits=3, strategy="channel")))[VLLM]
    assert found.layer == "model.layers.0.self_attn.q_proj"
    assert "W3A16 int3 is none of the schemes it reads" in found.reason and "int4 or int8 weights" in found.reason


def test_layers_that_an_engine_computes_as_one_need_one_scheme() -> None:
    recipe = Recipe(groups=(QuantGroup(name="g", weights=INT8),), ignore=(*HEAD, "model.layers.1.self_attn.k_proj"))
    found = held(recipe)
    assert found[HF].holds and not found[VLLM].holds and not found[ASCEND].holds
    assert found[VLLM].layer == "model.layers.1.self_attn.k_proj" and "as one" in found[VLLM].reason


def test_a_shape_that_a_format_cannot_hold() -> None:
    odd = [Linear("a.b", 63, 128, "BF16")]
    found = held(Recipe(groups=(QuantGroup(name="g", weights=QuantArgs(num_bits=4, strategy="group", group_size=128)),)), odd)
    assert not found[ASCEND].holds and "63x128" in found[ASCEND].reason and found[VLLM].holds


def test_lmdeploy_reads_one_scheme_and_a_float_head() -> None:
    assert "lm_head" in held(Recipe(groups=(QuantGroup(name="g", weights=INT8, input_activations=TOKEN),)))[LMDEPLOY].layer
    four = QuantArgs(num_bits=4, strategy="group", group_size=128)
    mixed = Recipe(
        groups=(
            QuantGroup(name="a", targets=("re:.*self_attn.*",), weights=four),
            QuantGroup(name="b", targets=("re:.*mlp.*",), weights=INT8, input_activations=TOKEN),
        )
    )
    assert "one scheme a model" in held(mixed)[LMDEPLOY].reason


@given(recipes())
def test_any_recipe_has_four_answers(recipe: Recipe) -> None:
    assert [target.name for target in targets(recipe, LAYERS)] == [VLLM, HF, LMDEPLOY, ASCEND]
