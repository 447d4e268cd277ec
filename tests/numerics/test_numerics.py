"""Formulas of ranges, and the rounding errors of weights against compressed-tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantui.numerics.affine import middle_range, step, symmetric_range


def test_ranges_become_scales() -> None:
    low, high = np.array([-2.0, 1.0]), np.array([4.0, 3.0])
    scale, zero = middle_range(low, high)
    np.testing.assert_allclose(scale, [6 / 255, 2 / 255])
    np.testing.assert_allclose(zero, [1, 2])
    assert symmetric_range(12.7) == pytest.approx(0.1)
    np.testing.assert_allclose(step(low, high, 4, symmetric=True), [4 / 7, 3 / 7])
    np.testing.assert_allclose(step(low, high, 4, symmetric=False), [6 / 15, 2 / 15])


ARGUMENTS: dict[str, dict[str, Any]] = {
    "int8-channel": {"num_bits": 8, "strategy": "channel"},
    "fp8-tensor": {"num_bits": 8, "type": "float", "strategy": "tensor"},
    "fp8-channel": {"num_bits": 8, "type": "float", "strategy": "channel"},
    "int4-channel": {"num_bits": 4, "strategy": "channel"},
    "int4-g128": {"num_bits": 4, "strategy": "group", "group_size": 128},
    "int4-g128-asym": {"num_bits": 4, "strategy": "group", "group_size": 128, "symmetric": False},
    "int4-g32": {"num_bits": 4, "strategy": "group", "group_size": 32},
}


@pytest.mark.engine
@pytest.mark.parametrize("scheme", ARGUMENTS)
def test_rounding_is_that_of_compressed_tensors(scheme: str) -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    from quantui.numerics.weights import errors

    torch.manual_seed(0)
    weight = torch.randn(24, 256) * torch.rand(24, 1) + 0.1
    args = QuantizationArgs(**ARGUMENTS[scheme])
    view = weight.unflatten(1, (-1, args.group_size)) if args.strategy == "group" else weight
    low, high = (weight.min(), weight.max()) if args.strategy == "tensor" else (view.amin(-1), view.amax(-1))
    if args.strategy == "channel":
        low, high = low.unsqueeze(1), high.unsqueeze(1)
    scale, zero = calculate_qparams(low, high, args)
    made = fake_quantize(weight, scale, zero, args)
    expected = float((made - weight).square().sum() / weight.square().sum())
    assert errors(weight)[scheme] == pytest.approx(expected, rel=1e-3)


@pytest.mark.engine
def test_errors_order_and_odd_shapes() -> None:
    import torch

    from quantui.numerics.weights import SCHEMES, errors, grouped

    torch.manual_seed(0)
    found = errors(torch.randn(5, 100).bfloat16())
    assert found.keys() == SCHEMES.keys()
    assert found["int8-channel"] < found["fp8-channel"] < found["int4-g32"] < found["int4-channel"]
    assert found["nvfp4"] < found["mxfp4"] < 0.05
    assert set(errors(torch.zeros(3, 40)).values()) == {0.0}
    assert grouped(torch.arange(10.0).reshape(1, 10), 4)[0, 2].tolist() == [8, 9, 8, 8]


@pytest.mark.engine
def test_float4_levels() -> None:
    import torch

    from quantui.numerics.weights import mxfp4, nvfp4

    exact = torch.tensor([[0.0, 0.5, -1, 1.5, 2, -3, 4, 6] * 4])
    torch.testing.assert_close(mxfp4(exact, 6.0), exact)
    torch.testing.assert_close(nvfp4(exact, 6.0), exact)
