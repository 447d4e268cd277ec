"""The arithmetic of every method on a device that is not the CPU: no tensor made on the CPU by mistake, no float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from quantui.numerics import hqq, lmdeploy, minmax, nf4, pack, smooth, sparse, two_stage, weights
from quantui.numerics.fake import fake_activation, fake_cache, fake_weight
from quantui.numerics.histogram import Histogram
from quantui.numerics.quantized import Inputs, QuantizedLayer, Weights
from quantui.recipe.schema import QuantArgs
from quantui.recipe.schemes import PRESETS
from tests.elsewhere import There, same
from tests.formats.layers import random_layer

pytestmark = pytest.mark.engine


def normal(*shape: int) -> torch.Tensor:
    """Numbers that are the same wherever they go."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def histogram(there: There) -> list[float]:
    """The best range of values of two looks, the second wider."""
    made = Histogram()
    for scale in (1.0, 30.0):
        made.add(there(normal(4, 64) * scale))
    return list(made.best_range())


def loss(scale: torch.Tensor) -> float:
    """A loss that is least in the middle of what is tried."""
    return float((scale.log() - 0.3).square().sum())


def layer_of(there: There, weights: Weights, inputs: Inputs | None = None) -> QuantizedLayer:
    """A layer with every tensor there."""
    made = random_layer(weights, inputs, 8, 64)
    held = {name: there(value) for name, value in vars(made).items() if isinstance(value, torch.Tensor)}
    return replace(made, **held)


SPREAD = normal(64).abs() * torch.where(torch.arange(64) % 9 == 0, 40.0, 1.0)
CODES = minmax.round_weight(normal(8, 64), 4).codes
NUMERICS: dict[str, Callable[[There], Any]] = {
    "min-max": lambda there: minmax.round_weight(there(normal(8, 64)), 8),
    "min-max by group": lambda there: minmax.round_weight(there(normal(8, 64)), 4, symmetric=False, sharing=32),
    "min-max by tensor": lambda there: minmax.round_weight(there(normal(8, 64)), 8, sharing="tensor").dequantized(),
    "one scale of all ranks": lambda there: minmax.joint_scale(there(SPREAD + 0.1), there((SPREAD * 3).to(torch.int8)), 8),
    "two stages": lambda there: two_stage.round_weight(there(normal(8, 64)), 32).dequantized(),
    "sparse": lambda there: sparse.round_weight(there(normal(8, 64)), 0.05),
    "sparse by sigma": lambda there: sparse.round_weight(there(normal(8, 64)), sigma=3.0),
    "NF4": lambda there: nf4.round_weight(there(normal(8, 64)), 64),
    "HQQ": lambda there: hqq.solve(there(normal(8, 2, 32)), 4, importance=there(normal(1, 2, 32).abs() + 0.1)),
    "histogram": histogram,
    "m1, m4": lambda there: smooth.by_exponents(there(SPREAD), there(normal(64).abs()), 0.9, 0.1),
    "m2": lambda there: smooth.outlier_subset(there(-SPREAD), there(SPREAD * 2), there(normal(64).abs()), loss),
    "m5": lambda there: smooth.masked(there(-SPREAD), there(SPREAD * 2)),
    "m6": lambda there: smooth.searched(there(SPREAD), there(normal(64).abs()), loss),
    "heads": lambda there: smooth.shared_by_heads(there(SPREAD), 32, 8),
    "lmdeploy's AWQ": lambda there: lmdeploy.channel_scale(there(SPREAD), there(normal(8, 64)), 32),
    "lmdeploy's groups": lambda there: lmdeploy.group_scale(there(-SPREAD), there(SPREAD)),
    "losses": lambda there: weights.losses(there(normal(8, 64))),
    "K/V cache": lambda there: fake_cache(
        there(normal(2, 3, 4, 8)), QuantArgs(strategy="attn_head", symmetric=False), there(-SPREAD[:24].view(3, 8)),
        there(SPREAD[:24].view(3, 8)),
    ),
    "dense words": lambda there: pack.dense_codes(pack.dense_words(there(CODES), 4), 4, 64),
    "pairs": lambda there: (pack.pairs_along_rows(there(CODES)), pack.pairs_along_columns(there(CODES))),
    "int8": lambda there: layer_of(there, Weights(strategy="group", group_size=32, symmetric=False)).dequantize(),
    "levels": lambda there: layer_of(there, Weights("nf4", 4, "group", 32)).dequantize(),
    **{
        f"weight {name}": lambda there, args=args: fake_weight(there(normal(128, 256)), args)
        for name, (args, _) in PRESETS.items() if args
    },
    **{
        f"input {name}": lambda there, args=args: fake_activation(there(normal(2, 3, 256)), args, -3.0, 4.0)
        for name, (_, args) in PRESETS.items() if args
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NUMERICS)
def test_numbers_are_the_same_elsewhere(name: str) -> None:
    same(NUMERICS[name])


def test_a_tensor_left_behind_is_found() -> None:
    with pytest.raises(AssertionError, match=r"elsewhere and one \(64,\) on the CPU"):
        same(lambda there: there(normal(8, 64)) * torch.arange(64))
    with pytest.raises(AssertionError, match="makes float64"):
        same(lambda there: there(normal(8)).double())
    same(lambda there: there(normal(8)) * torch.tensor(2.0) + torch.zeros(8, device=there(normal(1)).device))
