"""Written, read and written again: the same bytes in every format, for every scheme it holds, whatever the shape."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

from quantui.formats.ascend_labels import DYNAMIC_INT8, STATIC_INT8
from quantui.formats.catalog import FORMATS
from quantui.numerics.quantized import Inputs, QuantizedLayer, Weights
from tests.formats.folders import files_of
from tests.formats.layers import folder_of, random_layer

pytestmark = pytest.mark.engine
FLOAT8, FLOAT8_TOKEN = Inputs("float8"), Inputs("float8", 8, "token", True)
STATIC_SYMMETRIC = Inputs("int", 8, "tensor", False)
ENGINE = frozenset({"compressed-tensors", "compressed-tensors-dense"})
ASCEND = frozenset({"msmodelslim", "ascend-v1", "numpy"})
PACKED = frozenset({"msmodelslim", "ascend-v1"})
LOSSY = ("awq", "lmdeploy-w8a8")
"""Formats that round scales to a dtype of theirs."""
LMDEPLOY, AWQ = frozenset({"lmdeploy-w8a8"}), frozenset({"awq"})


def by_group(bits: int, size: int, *, symmetric: bool = True) -> Weights:
    """Integers by groups."""
    return Weights(bits=bits, strategy="group", group_size=size, symmetric=symmetric)


SCHEMES: dict[str, tuple[Weights, Inputs | None, frozenset[str]]] = {
    "W8A8": (Weights(), STATIC_INT8, ENGINE | ASCEND),
    "W8A8 symmetric": (Weights(), STATIC_SYMMETRIC, ENGINE | ASCEND),
    "W8A8 tensor": (Weights(strategy="tensor"), STATIC_INT8, ENGINE | ASCEND),
    "W8A8_DYNAMIC": (Weights(), DYNAMIC_INT8, ENGINE | ASCEND | LMDEPLOY),
    "W8A8_DYNAMIC tensor": (Weights(strategy="tensor"), DYNAMIC_INT8, ENGINE | ASCEND | LMDEPLOY),
    "W8A16": (Weights(), None, ENGINE | ASCEND),
    "W8A16 asymmetric": (Weights(symmetric=False), None, ENGINE | ASCEND),
    **{f"W8A16 g{size}": (by_group(8, size), None, ENGINE | ASCEND) for size in (32, 64, 128, 256)},
    "W4A16": (Weights(bits=4), None, ENGINE | ASCEND | AWQ),
    "W4A16 asymmetric": (Weights(bits=4, symmetric=False), None, ENGINE | ASCEND | AWQ),
    **{f"W4A16 g{size}": (by_group(4, size, symmetric=size > 64), None, ENGINE | ASCEND | AWQ) for size in (32, 64, 128, 256)},
    **{f"W{bits}A16 g32": (by_group(bits, 32, symmetric=bits > 5), None, ENGINE) for bits in (2, 3, 5, 6, 7)},
    "W4A8": (by_group(4, 32), DYNAMIC_INT8, ENGINE),
    "W4A8_DYNAMIC": (dataclasses.replace(by_group(4, 32), two_stage=True), DYNAMIC_INT8, ENGINE | PACKED),
    "W8A8S": (Weights(sparse=True), STATIC_INT8, ENGINE | ASCEND),
    "NF4": (Weights("nf4", 4, "group", 64), None, ASCEND),
    "fp8 tensor": (Weights("float8", 8, "tensor"), FLOAT8, ENGINE),
    "fp8 channel": (Weights("float8"), FLOAT8_TOKEN, ENGINE | LMDEPLOY),
    "fp8 block": (Weights("float8", 8, "block", block=(16, 32)), FLOAT8_TOKEN, ENGINE),
    "fp8 weights": (Weights("float8"), None, ENGINE),
    "nvfp4": (Weights("float4", 4, "group", 16, two_stage=True), None, ENGINE),
    "mxfp4": (Weights("float4", 4, "group", 32, power_of_two=True), None, ENGINE),
    "mxfp8": (Weights("float8", 8, "group", 32, power_of_two=True), None, ENGINE),
    "W8A8 ranks": (Weights(ranks=2), STATIC_INT8, ENGINE | PACKED),
    "W8A8_DYNAMIC ranks": (Weights(ranks=2), DYNAMIC_INT8, ENGINE | PACKED),
    "W8A16 ranks": (Weights(symmetric=False, ranks=2), None, ENGINE | PACKED),
    "W4A16 ranks": (Weights(bits=4, ranks=2), None, ENGINE | PACKED | AWQ),
    "W4A16 g32 ranks": (dataclasses.replace(by_group(4, 32, symmetric=False), ranks=2), None, ENGINE | PACKED | AWQ),
}
"""Weights, inputs, and the formats that hold them in some shape."""


def scheme_of(name: str, columns: int) -> tuple[Weights, Inputs | None]:
    """A scheme for layers of so many columns, of which each rank has its share."""
    weights, inputs, _ = SCHEMES[name]
    if not weights.ranks:
        return weights, inputs
    share = columns // weights.ranks
    if inputs == STATIC_INT8:
        inputs = dataclasses.replace(inputs, strategy="group", group_size=share)
    return dataclasses.replace(weights, strategy="group", group_size=weights.group_size or share), inputs


@pytest.mark.parametrize("scheme", SCHEMES)
@settings(max_examples=1 + settings().max_examples // 50, phases=(Phase.explicit, Phase.generate))
@given(
    rows=st.integers(1, 20),
    groups=st.integers(1, 3),
    bias=st.booleans(),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
)
@example(rows=16, groups=4, bias=True, dtype="bfloat16")
def test_writing_reading_writing(scheme: str, rows: int, groups: int, bias: bool, dtype: str) -> None:
    weights, _, names = SCHEMES[scheme]
    columns = groups * (weights.group_size or (128 if groups == 4 else 5)) * (weights.ranks or 1)
    layers = [
        random_layer(*scheme_of(scheme, columns), rows, columns, bias=bias, dtype=dtype, leaf=leaf, layer=number)
        for number, leaf in enumerate(("self_attn.k_proj", "mlp.down_proj"))
    ]
    holding = {name for name, held in FORMATS.items() if all(held.refusal(layer.outline) is None for layer in layers)}
    holding.discard("lmdeploy-kv")
    assert holding <= names and (holding == names or rows != 16 or groups != 4)
    if dtype == "bfloat16" and weights == Weights(symmetric=False, ranks=weights.ranks):
        holding.discard("compressed-tensors-dense")  # see dense_tensors
    for name in sorted(holding):
        with tempfile.TemporaryDirectory() as scratch:
            _check(name, layers, Path(scratch), dtype)


def _check(name: str, layers: list[QuantizedLayer], scratch: Path, dtype: str) -> None:
    held, source = FORMATS[name], folder_of(layers, scratch / "plain")
    for target in ("one", "two"):
        (scratch / target).mkdir()
        held.write(source, scratch / target)
        source = held.open(scratch / target)
        assert source.dtype == ("float16" if name == "awq" else dtype)
    assert files_of(scratch / "one") == files_of(scratch / "two")
    near = 2**-7 if name.endswith("dense") else 2**-8 if name in LOSSY or layers[0].weights.sparse else 0
    for made, layer in zip(source.read(), layers, strict=True):
        torch.testing.assert_close(made.dequantize(), layer.dequantize(), rtol=near, atol=1e-5 if near else 0)
        assert layer.bias is None or (made.bias is not None and torch.equal(made.bias.float(), layer.bias.float()))
