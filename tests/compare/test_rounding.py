"""What is rounded in the forward pass, against the engine's own functions bit for bit."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import fake_quantize

from quantui.compare.rounding import SMALL, rounding

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("kind", "zero"), [("int", 0), ("int", -37), ("float", 0)])
def test_every_value_of_the_dtype_is_rounded_as_the_engine_does(kind: str, zero: int, dtype: torch.dtype) -> None:
    args = QuantizationArgs(num_bits=8, type=kind, strategy="tensor", dynamic=False, symmetric=zero == 0)
    scale, shift = torch.tensor([0.0173], dtype=dtype), torch.tensor([zero], dtype=torch.int8)
    x = torch.arange(SMALL).to(torch.int16).view(dtype).reshape(1, 512, 128)
    made = rounding(args, scale, shift if kind == "int" else None)
    few, many = made(x), made(torch.cat([x, x]))
    expected = fake_quantize(x, scale, shift if kind == "int" else None, args)
    for found in (few, many[:1], many[1:]):
        assert torch.equal(torch.isnan(found), torch.isnan(expected)) and found.dtype == expected.dtype
        assert torch.equal(found.nan_to_num(), expected.nan_to_num())
    sliced = x.transpose(1, 2)[:, :, ::3]
    assert torch.equal(made(sliced).nan_to_num(), expected.transpose(1, 2)[:, :, ::3].nan_to_num())
