"""What recipe data refuses, and what it tells of itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from quantui.recipe.schema import Gptq, QuantArgs, QuantGroup, Recipe, SmoothQuant

BAD_ARGS = {
    "3-bit float": ({"type": "float", "num_bits": 3}, "4 or 8 bits"),
    "9 bits": ({"num_bits": 9}, "less than or equal to 8"),
    "1 bit": ({"num_bits": 1}, "greater than or equal to 2"),
    "group without size": ({"strategy": "group"}, "needs a group_size"),
    "tensor_group without size": ({"strategy": "tensor_group"}, "needs a group_size"),
    "size without group": ({"strategy": "channel", "group_size": 64}, "needs strategy group"),
    "size 0": ({"strategy": "group", "group_size": 0}, "greater than or equal to 1"),
    "size -1 as a group": ({"strategy": "group", "group_size": -1}, "greater than or equal to 1"),
    "block without structure": ({"strategy": "block"}, "block_structure"),
    "structure without block": ({"block_structure": [1, 2]}, "needs strategy block"),
    "structure of one": ({"strategy": "block", "block_structure": [128]}, "block_structure"),
    "structure of 0": ({"strategy": "block", "block_structure": [0, 128]}, "block_structure"),
    "static token": ({"strategy": "token"}, "dynamic: true"),
    "dynamic channel": ({"strategy": "channel", "dynamic": True}, "dynamic needs strategy"),
    "local tensor": ({"strategy": "tensor", "dynamic": "local"}, "tensor_group"),
    "order by group": ({"actorder": "group"}, "removed from the engine"),
    "order True": ({"actorder": True}, "removed from the engine"),
    "unknown order": ({"actorder": "random"}, "actorder"),
    "unknown dtype": ({"scale_dtype": "torch.banana"}, "scale_dtype"),
    "unknown key": ({"bits": 4}, "bits"),
}
WEIGHTS = QuantArgs(strategy="channel")
BAD_GROUPS = {
    "no targets": ({"targets": ()}, "targets"),
    "weights a token": ({"weights": QuantArgs(strategy="token", dynamic=True)}, "never dynamic"),
    "dynamic weights": ({"weights": QuantArgs(dynamic=True)}, "never dynamic"),
    "inputs by channel": ({"input_activations": QuantArgs(strategy="channel")}, "activations have strategy"),
    "outputs by block": ({"output_activations": QuantArgs(strategy="block", block_structure=(1, 2))}, "activations have"),
    "inputs in order": ({"input_activations": QuantArgs(actorder="static")}, "for weights"),
    "heads with weights": ({"weights": WEIGHTS, "input_activations": QuantArgs(strategy="attn_head")}, "attention modules"),
    "4-bit floats by channel": ({"weights": QuantArgs(type="float", num_bits=4, strategy="channel")}, "cannot be stored"),
    "unknown format": ({"format": "zip"}, "format"),
    "mixed format": ({"format": "mixed-precision"}, "format"),
}


@pytest.mark.parametrize(("fields", "what"), BAD_ARGS.values(), ids=BAD_ARGS.keys())
def test_arguments_that_the_engine_would_refuse_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QuantArgs(**fields)
    assert what in str(caught.value)


@pytest.mark.parametrize(("fields", "what"), BAD_GROUPS.values(), ids=BAD_GROUPS.keys())
def test_groups_that_the_engine_would_refuse_are_refused(fields: dict[str, Any], what: str) -> None:
    with pytest.raises(ValidationError) as caught:
        QuantGroup(name="g", **fields)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"type": "FLOAT", "strategy": "TENSOR"}, {"type": "float", "strategy": "tensor"}),
        ({"group_size": 64}, {"strategy": "group", "group_size": 64}),
        ({"group_size": -1}, {"strategy": "channel"}),
        ({"group_size": -1, "strategy": "channel"}, {"strategy": "channel"}),
        ({"dynamic": True}, {"dynamic": True, "strategy": "tensor"}),
        ({"strategy": None}, {"strategy": "tensor"}),
        ({"strategy": "block", "block_structure": "128x64"}, {"strategy": "block", "block_structure": (128, 64)}),
        ({"scale_dtype": "uint8"}, {"scale_dtype": "torch.uint8"}),
        ({"actorder": False}, {"actorder": None}),
    ],
)
def test_spellings_that_the_engine_takes_are_one(fields: dict[str, Any], same: dict[str, Any]) -> None:
    assert QuantArgs(**fields) == QuantArgs(**same)


def test_recipe_data_cannot_be_changed() -> None:
    for value, name in (
        (QuantArgs(), "num_bits"),
        (QuantGroup(name="g"), "name"),
        (Recipe(), "ignore"),
        (Gptq(), "block_size"),
    ):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(value, name, None)


def test_a_recipe_whose_parts_do_not_fit_is_refused() -> None:
    one, two = QuantGroup(name="g", targets=("a",), weights=WEIGHTS), QuantGroup(name="g", targets=("b",), weights=WEIGHTS)
    with pytest.raises(ValidationError, match="same name"):
        Recipe(groups=(one, two))
    with pytest.raises(ValidationError, match="'a' stands twice"):
        Recipe(groups=(one, QuantGroup(name="h", targets=("c", "a"))))
    with pytest.raises(ValidationError, match="K/V cache"):
        Recipe(kv_cache=QuantArgs(strategy="block", block_structure=(2, 2)))
    ordered = QuantGroup(name="g", weights=QuantArgs(strategy="channel", actorder="weight"))
    for own, other in ((None, "weight"), ("weight", "static")):
        group = ordered.model_copy(update={"weights": QuantArgs(strategy="channel", actorder=other)})
        with pytest.raises(ValidationError, match="group g name different actorders"):
            Recipe(groups=(group,), gptq=Gptq(actorder=own))
    assert Recipe(groups=(ordered,), gptq=Gptq()) and Recipe(groups=(ordered,), gptq=Gptq(actorder="weight"))
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        SmoothQuant(strength=1.5)


STATIC, DYNAMIC = QuantArgs(), QuantArgs(strategy="token", dynamic=True)


@pytest.mark.parametrize(
    ("recipe", "needs"),
    [
        (Recipe(groups=(QuantGroup(name="g", weights=WEIGHTS),)), False),
        (Recipe(groups=(QuantGroup(name="g", weights=WEIGHTS, input_activations=DYNAMIC),)), False),
        (Recipe(groups=(QuantGroup(name="g", weights=WEIGHTS, input_activations=STATIC),)), True),
        (Recipe(groups=(QuantGroup(name="g", weights=WEIGHTS, output_activations=STATIC),)), True),
        (
            Recipe(
                groups=(
                    QuantGroup(
                        name="g",
                        weights=WEIGHTS,
                        input_activations=QuantArgs(strategy="tensor_group", group_size=16, dynamic="local"),
                    ),
                )
            ),
            True,
        ),
        (Recipe(groups=(QuantGroup(name="g", weights=QuantArgs(observer="imatrix_mse")),)), True),
        (Recipe(groups=(QuantGroup(name="g", weights=QuantArgs(observer="nvfp4_expanded_imatrix")),)), True),
        (Recipe(groups=(QuantGroup(name="g", weights=QuantArgs(observer="mse")),)), False),
        (Recipe(kv_cache=STATIC), True),
        (Recipe(kv_cache=QuantArgs(dynamic=True)), True),
        (Recipe(groups=(QuantGroup(name="g", weights=WEIGHTS),), gptq=Gptq()), True),
        (Recipe(groups=(QuantGroup(name="g", weights=WEIGHTS),), smoothquant=SmoothQuant()), True),
    ],
)
def test_a_recipe_knows_whether_it_needs_samples(recipe: Recipe, needs: bool) -> None:
    assert recipe.needs_calibration is needs
