"""Rounding to float8 with and without a tensor of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from quantui import devices
from quantui.devices import torch_device
from quantui.numerics.fake import fake_activation, fake_cache, fake_weight
from quantui.numerics.float8 import by_arithmetic
from quantui.numerics.weights import losses
from quantui.recipe.schema import QuantArgs
from tests.device import DEVICE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_arithmetic_gives_what_the_dtype_does(dtype: torch.dtype) -> None:
    every = torch.arange(-(1 << 15), 1 << 15).to(torch.int16).view(torch.bfloat16).float()
    fine = torch.linspace(-448, 448, 100_001), torch.linspace(-0.04, 0.04, 100_001)
    values = torch.cat((every[every.abs() <= 448], *fine)).to(dtype)
    assert torch.equal(by_arithmetic(values), values.to(torch.float8_e4m3fn).to(dtype))


class _NoFloat8(TorchDispatchMode):
    """An accelerator that has no float8, as most NPUs have none."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and made.dtype == torch.float8_e4m3fn and made.device.type not in ("cpu", "meta"):
            raise RuntimeError("Float8_e4m3fn has not been supported")
        return made


@pytest.mark.engine
@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
def test_a_device_without_it_rounds_as_the_cpu_does() -> None:
    from compressed_tensors.quantization import QuantizationArgs

    from quantui.compare.rounding import affine, rounding

    devices.has_float8.cache_clear()
    token = QuantArgs(type="float", strategy="token", dynamic=True)
    tensor = QuantArgs(type="float", strategy="tensor")
    fp4 = QuantArgs(type="float", num_bits=4, strategy="tensor_group", group_size=16)
    theirs = {"num_bits": 8, "type": "float", "symmetric": True}

    def found(place: torch.device) -> list[torch.Tensor]:
        x = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0)).to(place)
        low, high, scale = x.amin(), x.amax(), torch.full((1,), 0.01, device=place)
        heads = x.unsqueeze(2)  # (rows, tokens, heads, dims)
        return [
            losses(x[0])[0],
            fake_weight(x[0], QuantArgs(type="float", strategy="channel")),
            fake_weight(x[0], fp4),
            fake_activation(x, token),
            fake_activation(x, tensor, low, high),
            fake_cache(heads.transpose(1, 2), tensor, heads.amin((0, 1)), heads.amax((0, 1))),
            affine("float8", 8, scale, None)(x),
            rounding(QuantizationArgs(**theirs, strategy="tensor"), scale)(x),
            rounding(QuantizationArgs(**theirs, strategy="token", dynamic=True))(x),
            rounding(QuantizationArgs(**theirs, strategy="token", dynamic=True))(x[0]),
        ]

    expected = found(torch.device("cpu"))
    with _NoFloat8():
        assert not devices.has_float8(torch_device(DEVICE))
        made = found(torch_device(DEVICE))
    devices.has_float8.cache_clear()
    assert {one.device.type for one in made} == {torch_device(DEVICE).type}
    for here, there in zip(expected, made, strict=True):
        torch.testing.assert_close(there.cpu(), here)
