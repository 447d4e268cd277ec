"""Which layers a recipe takes, and what it is refused for."""

from __future__ import annotations

import time

import pytest

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.match import group_of, is_module_class, is_optional, match, takes
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.schemes import preset_group

INT8 = QuantArgs(strategy="channel")
KINDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj")


def llama(blocks: int = 2, inputs: int = 64) -> list[Linear]:
    """Layers as a small Llama has them."""
    layers = [Linear(f"model.layers.{i}.{kind}", 64, inputs, "BF16") for i in range(blocks) for kind in KINDS]
    layers += [Linear(f"model.layers.{i}.mlp.down_proj", 64, 2 * inputs, "BF16") for i in range(blocks)]
    return [*layers, Linear("lm_head", 256, inputs, "BF16")]


def recipe(*targets: str, ignore: tuple[str, ...] = (), args: QuantArgs = INT8) -> Recipe:
    """One group for each target, named after it."""
    return Recipe(groups=tuple(QuantGroup(name=t, targets=(t,), weights=args) for t in targets), ignore=ignore)


def refused(made: Recipe, layers: list[Linear]) -> RecipeError:
    """The error that matching raises."""
    with pytest.raises(RecipeError) as caught:
        match(made, layers)
    assert caught.value.where == "recipe" and caught.value.todo
    return caught.value


def test_layers_are_taken_or_left_in_their_order() -> None:
    layers = llama()
    found = match(recipe("Linear", ignore=("lm_head", "re:.*down_proj")), layers)
    assert list(found.taken) == [layer.name for layer in layers[:12]]
    assert found.left == ("model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj", "lm_head")
    assert found.bytes_before == 12 * 64 * 64 * 2
    assert found.bytes_after == 12 * (64 * 64 + 64 * 2 + 16)


@pytest.mark.parametrize(
    ("entry", "name", "taken"),
    [
        ("re:.*q_proj", "model.layers.0.self_attn.q_proj", True),
        ("re:.*q_proj", "model.layers.0.self_attn.q_proj.extra", True),  # not anchored at the end
        ("re:q_proj", "model.layers.0.self_attn.q_proj", False),  # anchored at the start
        ("re:.*mlp.gate", "model.layers.0.mlp.gate_proj", True),  # the trap of the missing $
        ("re:.*mlp.gate$", "model.layers.0.mlp.gate_proj", False),
        ("re:model.layers.1.", "model.layers.10.mlp.up_proj", True),
        ("q_proj", "model.layers.0.self_attn.q_proj", False),
        ("lm_head", "lm_head", True),
        ("Linear", "anything", True),
        ("Module", "anything", True),
        ("linear", "anything", False),
        ("", "anything", False),
    ],
)
def test_what_an_entry_takes(entry: str, name: str, taken: bool) -> None:
    assert takes(entry, name) is taken


def test_an_exact_name_beats_a_pattern_and_a_pattern_beats_a_class() -> None:
    name = "model.layers.0.mlp.up_proj"
    for order in ((name, "re:.*up_proj", "Linear"), ("Linear", "re:.*up_proj", name), ("re:.*up_proj", name, "Linear")):
        made = recipe(*order)
        taken = {layer: group_of(made, layer) for layer in (name, "model.layers.1.mlp.up_proj", "lm_head")}
        assert [group.name for group in taken.values() if group] == [name, "re:.*up_proj", "Linear"]


def test_among_patterns_the_first_in_the_alphabet_wins_whatever_the_order_of_groups() -> None:
    for order in (("re:.*q_proj", "re:.*layers.0.*"), ("re:.*layers.0.*", "re:.*q_proj")):
        group = group_of(recipe(*order), "model.layers.0.self_attn.q_proj")
        assert group is not None and group.name == "re:.*layers.0.*"


def test_patterns_need_not_take_the_whole_name() -> None:
    found = match(recipe("re:model.layers.1", ignore=("re:.*mlp",)), llama())
    assert list(found.taken) == [f"model.layers.1.{kind}" for kind in KINDS[:4]]


def test_a_layer_that_no_target_takes_is_left() -> None:
    assert group_of(recipe("re:.*up_proj"), "lm_head") is None
    assert group_of(Recipe(kv_cache=QuantArgs()), "lm_head") is None
    assert match(Recipe(kv_cache=QuantArgs()), llama()).taken == {}


def test_a_class_that_is_misspelled_is_refused_with_the_one_that_is_meant() -> None:
    for target in ("linear", "Linera"):
        assert refused(recipe("re:.*q_proj", target), llama()).todo == "did you mean Linear?"


@pytest.mark.parametrize("target", ["re:.*query_proj", "model.layers.7.mlp.up_proj", "lm_haed", "re:layers.*", ""])
def test_a_target_that_takes_nothing_is_refused_with_names_that_exist(target: str) -> None:
    error = refused(recipe("Linear", target), llama())
    assert f"target {target!r} matches no layer" in error.what
    assert "model.layers.0.self_attn.q_proj" in error.todo


@pytest.mark.parametrize("entry", ["lm_haed", "re:.*lm_haed", "re:lm_head2", "re:.*layers.9.*", "vision", "re:vision_towers.*"])
def test_an_ignore_entry_that_takes_nothing_is_refused(entry: str) -> None:
    assert f"ignore entry {entry!r} matches no layer" in refused(recipe("Linear", ignore=(entry,)), llama()).what


@pytest.mark.parametrize(
    "entry",
    [
        "re:.*vision_tower.*", "re:.*multi_modal_projector.*", "re:.*visual.*", "re:visual.*", r"re:.*visual\..*",
        "re:.*lm_head", "re:.*lm_head$", "lm_head", "re:.*mlp.gate$",
        "re:.*router", r"re:.*block_sparse_moe\.gate$", "re:.*audio_tower.*",
    ],
)  # fmt: skip
def test_parts_that_many_models_lack_may_be_ignored_all_the_same(entry: str) -> None:
    assert is_optional(entry)
    layers = [layer for layer in llama() if layer.name != "lm_head"]
    assert len(match(recipe("Linear", ignore=(entry,)), layers).taken) == 14


@pytest.mark.parametrize("entry", ["re:.*vision.*", "re:.*head", "re:.*q_proj", "vision_towe", "re:.*", "re:model.visual.*"])
def test_other_entries_must_take_something(entry: str) -> None:
    assert not is_optional(entry)


def test_attention_modules_may_be_targets() -> None:
    made = Recipe(groups=(QuantGroup(name="g", targets=("re:.*self_attn$",), input_activations=QuantArgs()),))
    assert match(made, llama()).taken == {}
    assert is_module_class("LlamaAttention") and not is_module_class("Linear") and not is_module_class("model.X")
    classes = Recipe(groups=(QuantGroup(name="g", targets=("LlamaAttention",), input_activations=QuantArgs()),))
    assert match(classes, llama()).taken == {}
    assert "matches no layer" in refused(recipe("re:.*mlp$"), llama()).what  # holds no keys and values


# --- group sizes


def test_groups_that_divide_every_layer_pass() -> None:
    for size in (16, 32, 64):
        assert len(match(recipe("Linear", args=QuantArgs(num_bits=4, group_size=size)), llama()).taken) == 15


@pytest.mark.parametrize(
    ("inputs", "size", "advice"),
    [(64, 128, "group_size of 64"), (96, 64, "group_size of 32"), (192, 128, "group_size of 64"), (8, 32, "group_size of 8"),
     (100, 64, "strategy channel"), (256, 48, "group_size of 32"), (384, 256, "group_size of 128")],
)  # fmt: skip
def test_groups_that_do_not_divide_a_layer_are_refused_with_the_nearest_that_do(inputs: int, size: int, advice: str) -> None:
    error = refused(recipe("Linear", args=QuantArgs(num_bits=4, group_size=size)), llama(inputs=inputs))
    assert error.what == f"groups of {size} do not divide model.layers.0.self_attn.q_proj (64x{inputs})"
    assert advice in error.todo and "ignore" in error.todo


def test_the_first_layer_that_is_not_divided_is_named() -> None:
    layers = [*llama(), Linear("odd", 64, 100, "BF16")]
    made = recipe("Linear", args=QuantArgs(num_bits=4, group_size=32))
    assert "odd (64x100)" in refused(made, layers).what
    assert match(made.model_copy(update={"ignore": ("odd",)}), layers).left == ("odd",)
    assert "odd" in match(made.model_copy(update={"bypass_divisibility_checks": True}), layers).taken


def test_schemes_of_one_group_size_only_send_the_layer_to_ignore() -> None:
    for name in ("NVFP4", "MXFP4", "MXFP8"):
        error = refused(Recipe(groups=(preset_group(name, ("Linear",)),)), llama(inputs=40))
        assert error.todo.startswith("add the layer to ignore")


def test_blocks_must_divide_columns_but_not_rows() -> None:
    wide = [Linear("a.b", 192, 256, "BF16")]
    assert match(Recipe(groups=(preset_group("FP8_BLOCK", ("Linear",)),)), wide).taken
    error = refused(Recipe(groups=(preset_group("FP8_BLOCK", ("Linear",)),)), [Linear("a.b", 256, 192, "BF16")])
    assert "groups of 128 do not divide a.b (256x192)" in error.what
    assert "block_structure with columns of 64" in error.todo


def test_groups_of_inputs_must_divide_too() -> None:
    inputs = QuantArgs(strategy="group", group_size=48, dynamic=True)
    made = Recipe(groups=(QuantGroup(name="g", weights=INT8, input_activations=inputs),))
    assert "groups of 48" in refused(made, llama()).what


def test_thousands_of_names_are_matched_fast() -> None:
    layers = [Linear(f"model.layers.{i}.mlp.experts.{j}.up_proj", 8, 8, "BF16") for i in range(60) for j in range(128)]
    made = recipe("Linear", "re:.*experts.3.*", ignore=tuple(layer.name for layer in layers[::2]))
    began = time.process_time()
    assert len(match(made, layers).taken) == len(layers) // 2
    assert time.process_time() - began < 2
