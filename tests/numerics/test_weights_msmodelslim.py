"""Weights rounded as msModelSlim rounded the same tiny models, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "msmodelslim"
ROUNDED = {
    "w8a8": (8, True, "channel"),
    "w8a8_bf16": (8, True, "channel"),
    "w8a8_dynamic": (8, True, "channel"),
    "kv_w8a8": (8, True, "channel"),
    "w8a16": (8, True, "channel"),
    "w8a16_asym": (8, False, "channel"),
    "w8a16_group": (8, False, 32),
    "w4a16_chan": (4, True, "channel"),
    "w4a16_group": (4, False, 32),
}
"""Scenario -> bits, whether symmetric, and what shares a scale."""


def tensors(name: str) -> dict[str, Any]:
    """All tensors of a fixture."""
    from safetensors.torch import load_file

    (file,) = (FIXTURES / name).glob("*.safetensors")
    return dict(load_file(file))


def quantized(found: dict[str, Any]) -> list[str]:
    """Names of the Linears whose weights are integers there."""
    import torch

    kinds = (torch.int8, torch.uint8)
    return [
        name.removesuffix(".weight") for name, tensor in found.items() if name.endswith(".weight") and tensor.dtype in kinds
    ]


def same(found: Any, expected: Any) -> None:
    """Dtype, shape and every byte."""
    import torch

    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found.contiguous().view(torch.uint8), expected.contiguous().view(torch.uint8))


@pytest.mark.parametrize("scenario", ROUNDED)
def test_rounded_weights(scenario: str) -> None:
    """Codes, scales and offsets of every layer."""
    from quantui.numerics.minmax import round_weight

    expected, original = tensors(scenario), tensors("model-bf16" if scenario.endswith("bf16") else "model")
    bits, symmetric, sharing = ROUNDED[scenario]
    names = quantized(expected)
    assert len(names) == 14
    for name in names:
        found = round_weight(original[f"{name}.weight"], bits, symmetric=symmetric, sharing=sharing)  # type: ignore[arg-type]
        same(found.codes, expected[f"{name}.weight"])
        same(found.scale, expected[f"{name}.weight_scale"])
        same(found.offset + 0.0, expected[f"{name}.weight_offset"] + 0.0)
        assert (found.dequantized() - original[f"{name}.weight"]).abs().max() <= found.scale.float().max() * 0.51 + 1e-3


def test_two_stage_weights() -> None:
    """W4A8_DYNAMIC: codes and both scales."""
    from quantui.numerics.two_stage import round_weight

    expected, original = tensors("w4a8_dynamic"), tensors("model")
    for name in quantized(expected):
        found = round_weight(original[f"{name}.weight"], 32)
        same(found.codes, expected[f"{name}.weight"])
        same(found.scale, expected[f"{name}.weight_scale"])
        same(found.second, expected[f"{name}.weight_scale_second"])


def test_sparse_weights() -> None:
    """W8A8S: codes, and the scale that deq_scale holds times that of the input."""
    import torch

    from quantui.numerics.sparse import round_weight

    expected, original = tensors("w8a8s_lowbit"), tensors("model")
    for name in quantized(expected):
        found = round_weight(original[f"{name}.weight"], 0.1)
        same(found.codes, expected[f"{name}.weight"])
        deq = expected[f"{name}.deq_scale"].to(torch.int32).view(torch.float32)
        same((expected[f"{name}.input_scale"] * found.scale).flatten(), deq)


def test_nf4_weights() -> None:
    """NF4: two codes a byte there, the first in the high bits."""
    from quantui.numerics.nf4 import round_weight

    expected, original = tensors("nf4"), tensors("model")
    for name in quantized(expected):
        codes, absmax = round_weight(original[f"{name}.weight"], 64)
        flat = codes.flatten()
        same((flat[0::2] << 4) | flat[1::2], expected[f"{name}.weight"])
        assert absmax.shape == (codes.numel() // 64,)
