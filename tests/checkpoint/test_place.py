"""Models on an accelerator for a while; `make test-npu` runs what needs one."""

from __future__ import annotations

import pytest
import torch

from quantui.checkpoint.place import placed
from quantui.devices import torch_device
from tests.device import DEVICE
from tests.stats.models import make

pytestmark = pytest.mark.engine


def test_on_a_cpu_nothing_is_moved() -> None:
    model = make("llama")
    before = [id(parameter) for parameter in model.parameters()]
    with placed(model, torch.device("cpu")):
        assert [id(parameter) for parameter in model.parameters()] == before


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
@pytest.mark.parametrize("fits", [True, False])
def test_a_model_is_computed_on_the_device_and_comes_back(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from compressed_tensors.offload import dispatch

    model, device, ids = make("llama"), torch_device(DEVICE), torch.arange(3, 15).unsqueeze(0)
    with torch.no_grad():
        expected = model(ids).logits
    if not fits:
        monkeypatch.setattr(torch.get_device_module(device), "mem_get_info", lambda _device: (0, 0))
        room = 1e9 + 2048 * model.config.intermediate_size * 4  # what the engine leaves to a pass
        half = sum(parameter.nbytes for parameter in model.parameters()) // 2
        monkeypatch.setattr(dispatch, "get_device_memory", lambda: {device: int(room) + half})
    with placed(model, device), torch.no_grad():
        kinds = {type(module._parameters).__name__ for module in model.modules()}
        made = model(ids.to(model.device)).logits
    assert made.device.type == device.type and ("CPUCache" in kinds) != fits
    torch.testing.assert_close(made.cpu(), expected)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)
