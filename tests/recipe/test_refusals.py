"""Combinations that cannot work, what this version does not carry out, and what a recipe's author may not have meant."""

from __future__ import annotations

import pytest

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.llmcompressor import load, loads
from quantui.recipe.refusals import check, refusals
from quantui.recipe.schemes import PRESETS
from quantui.recipe.surprises import surprises
from quantui.workspace import RECIPES

INT4 = "num_bits: 4, group_size: 32"


def one(weights: str = "", inputs: str = "", more: str = "", modifier: str = "QuantizationModifier") -> str:
    """A recipe of one group."""
    kinds = (f"weights: {{{weights}}}, " if weights else "") + (f"input_activations: {{{inputs}}}, " if inputs else "")
    return f"{modifier}: {{config_groups: {{g: {{{kinds}targets: [Linear]}}}}{more}}}\n"


CACHE = ", kv_cache_scheme: {type: float}"
KEYS = "KVCacheModifier: {{keys: {{{}}}}}\n"
TOKEN = "strategy: token, dynamic: true"
REFUSED = {
    "asymmetric weights": (one("symmetric: false", TOKEN), "asymmetric weights with int8", "make the weights symmetric"),
    "fp8 by int8": (one("type: float", TOKEN), "multiplies fp8 weights with int8", "make the activations fp8"),
    "more weight bits": (one("", "num_bits: 4, " + TOKEN).replace("targets", "weights: {}, targets"), "fewer bits", "8 bits"),
    "static 4 bits": (one(INT4, "num_bits: 8"), "int4 weights with static int", "dynamic, by token"),
    "auto with 4 bits": (one(INT4, "observer: auto"), "compares 8-bit layers alone", "histogram"),
    "histogram of weights": (one("observer: histogram"), "looks at activations", "mse"),
    "histogram of dynamic": (one("", f"{TOKEN}, observer: histogram"), "nothing observes", "static"),
    "NF4 at 8 bits": (one("observer: nf4, group_size: 64"), "NF4 levels for other than", "group_size 64"),
    "NF4 of activations": (one("", "observer: nf4"), "NF4 levels for activations", "static_minmax"),
    "NF4 by GPTQ": (
        one(f"{INT4}, observer: nf4", modifier="GPTQModifier"), "rounds to evenly spaced values", "leave GPTQ out",
    ),
    "fp4 by tensor": (one("", "type: float, num_bits: 4"), "groups of 16", "NVFP4 or MXFP4"),
    "fp4 mixed": (
        one("type: float, num_bits: 4, group_size: 32", "type: float, num_bits: 4, group_size: 16"), "otherwise", "NVFP4",
    ),
    "GPTQ of nothing": (one(more=CACHE, modifier="GPTQModifier"), "GPTQ rounds weights", "leave GPTQ out"),
    "order without GPTQ": (one("group_size: 32, actorder: weight"), "column order of GPTQ", "leave actorder out"),
    "HQQ of W8A8": (one("symmetric: false, group_size: 32", TOKEN, modifier="HQQModifier"), "HQQ works on", "or round with"),
    "HQQ symmetric": (one(INT4, modifier="HQQModifier"), "HQQ works on zero points", "symmetric: false"),
    "HQQ of floats": (one("type: float", modifier="HQQModifier"), "HQQ rounds integers", "strategy group"),
    "AutoRound by block": (
        one("strategy: block, block_structure: 8x8", modifier="AutoRoundModifier"), "AutoRound does not", "group or channel",
    ),
    "AutoRound of outputs": (
        one(modifier="AutoRoundModifier").replace("targets", "weights: {}, output_activations: {}, targets"), "output", "input",
    ),
    "AWQ of nothing": ("AWQModifier: {}\n" + one(more=CACHE), "AWQ prepares weights", "W4A16"),
    "AWQ by tensor": ("AWQModifier: {}\n" + one("strategy: tensor"), "AWQ with duo_scaling", "duo_scaling: false"),
    "smoothing nothing": (
        "SmoothQuantModifier: {}\nQuantizationModifier: {targets: [], kv_cache_scheme: {type: float}}", "and none is", "",
    ),
    "three ranks": (one("observer_kwargs: {shards: 3}"), "simulates ranks", "2, 4, 8 or 16"),
    "ranks of floats": (one("type: float, observer_kwargs: {shards: 2}"), "simulates ranks", "leave it out"),
    "sparse int8": ("SparseModifier: {}\n" + one("", TOKEN).replace("targets", "weights: {}, targets"), "int4 with", "W4A8"),
    "sparse GPTQ": (
        "SparseModifier: {}\n" + one(INT4, TOKEN, modifier="GPTQModifier"), "not by gptq", "leave gptq",
    ),
    "cache in fp4": ("QuantizationModifier: {targets: [], kv_cache_scheme: {type: float, num_bits: 4}}", "in fp4", "fp8"),
    "C8 beside fp8": (
        KEYS.format("strategy: channel") + one("type: float"), "by msModelSlim's format alone, which does not hold W8A16",
        "cache by strategy tensor or attn_head, or use a scheme that it holds",
    ),
    "C8 beside rotations": (
        "QuIPModifier: {}\n" + KEYS.format("strategy: channel") + one("strategy: channel"), "no rotations at run", "tensor",
    ),
    "fp8 by channel": (KEYS.format("type: float, strategy: channel") + one(), "no format stores a K/V cache", "make it int8"),
    "dynamic cache": (
        "QuantizationModifier: {targets: [], kv_cache_scheme: {dynamic: true, observer: auto}}", "no range", "leave",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("source", "what", "todo"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_work_comes_with_the_nearest_that_can(source: str, what: str, todo: str) -> None:
    recipe = loads(source)
    found = refusals(recipe)
    assert any(what in refusal.what and todo in refusal.todo and refusal.place for refusal in found), found
    with pytest.raises(RecipeError) as caught:
        check(recipe, "r.yaml")
    assert caught.value.where == "r.yaml" and found[0].what in caught.value.what


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "UNQUANTIZED"])
def test_no_preset_is_refused(name: str) -> None:
    assert not refusals(loads(f"QuantizationModifier: {{scheme: {name}}}"))


def test_no_shipped_recipe_is_refused() -> None:
    for file in RECIPES.glob("*.yaml"):
        recipe = load(file)
        assert not refusals(recipe)
        check(recipe)


def test_what_does_not_fit_the_layers_names_one() -> None:
    layers = [Linear("model.layers.0.mlp.down_proj", 64, 100, "BF16")]
    (refusal,) = refusals(loads("QuantizationModifier: {scheme: W4A16}"), layers)
    assert "do not divide model.layers.0.mlp.down_proj" in refusal.what and refusal.todo and refusal.place == "layers"


def layers_of(count: int) -> list[Linear]:
    """So many decoder layers of a mixture of experts."""
    parts = ("self_attn.q_proj", "mlp.gate", "mlp.gate_proj", "mlp.down_proj")
    return [Linear(f"model.layers.{i}.{part}", 64, 64, "BF16") for i in range(count) for part in parts]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ("scheme: W8A8, ignore: ['re:.*mlp.gate']", ["also takes model.layers.0.mlp.gate_proj and 11 more", "end it with $"]),
        ("scheme: W8A8, ignore: ['re:.*layers.1']", ["also takes model.layers.10.self_attn.q_proj and 7 more", r"(\.|$)"]),
        ("scheme: W8A8, targets: ['re:.*q_pro']", ["'re:.*q_pro' also takes"]),
        ("scheme: {W8A8: ['re:.*mlp.*'], W4A16: ['re:.*gate$']}", ["'re:.*gate$' and 're:.*mlp.*' both take", "alphabet"]),
        ("scheme: W8A8, ignore: ['re:.*mlp.gate$', 're:.*self_attn.*', lm_head, 're:model.layers']", []),
        ("scheme: {W8A8: ['re:.*q_proj$'], W4A16: ['re:.*gate$']}", []),
    ],
)  # fmt: skip
def test_what_may_not_be_meant_is_pointed_out(fields: str, told: list[str]) -> None:
    found = surprises(loads(f"QuantizationModifier: {{{fields}}}"), layers_of(12))
    assert len(found) == bool(told)
    assert all(part in found[0] for part in told)


def test_rotations_at_run_time_are_pointed_out() -> None:
    for modifier, online in (
        ("SpinQuantModifier: {}", 0),
        ("SpinQuantModifier: {rotations: [R1, R4]}", 1),
        ("QuIPModifier: {}", 1),
    ):
        recipe = loads(f"{modifier}\nQuantizationModifier: {{scheme: W8A8}}")
        assert recipe.has_online_rotations == bool(online) and len(surprises(recipe, [])) == online
