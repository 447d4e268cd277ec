"""Models on an accelerator for a while; `make test-npu` runs what needs one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from quantui.checkpoint.load import load_model
from quantui.checkpoint.place import ROOM, moved, placed
from quantui.devices import torch_device
from quantui.errors import DeviceError
from tests.compare.made import save_quantized
from tests.device import DEVICE
from tests.models.tiny import save_llama
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
    model, device, ids = make("llama"), torch_device(DEVICE), torch.arange(3, 15).unsqueeze(0)
    with torch.no_grad():
        expected = model(ids).logits
    if not fits:
        room = 1e9 + 2048 * model.config.intermediate_size * 4  # what the engine leaves to a pass
        half = sum(parameter.nbytes for parameter in model.parameters()) // 2
        monkeypatch.setattr(torch.get_device_module(device), "mem_get_info", lambda _device: (int(room) + half, 1 << 40))
    with placed(model, device), torch.no_grad():
        kinds = {type(module._parameters).__name__ for module in model.modules()}
        made = model(ids.to(model.device)).logits
    assert made.device.type == device.type and ("CPUCache" in kinds) != fits
    torch.testing.assert_close(made.cpu(), expected)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    with torch.no_grad():
        assert torch.equal(model(ids).logits, expected)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
def test_what_the_allocator_keeps_of_earlier_models_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    device, kept = torch_device(DEVICE), [1 << 34]
    module = torch.get_device_module(device)
    monkeypatch.setattr(module, "empty_cache", kept.clear)
    monkeypatch.setattr(module, "mem_get_info", lambda _device: ((1 << 34) - sum(kept), 1 << 34))
    model = make("llama")
    with placed(model, device):
        assert {type(part._parameters) for part in model.modules()} == {dict}  # moved whole, and no part brought there anew


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
def test_a_model_that_has_to_be_there_whole_and_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch_device(DEVICE)
    monkeypatch.setattr(torch.get_device_module(device), "mem_get_info", lambda _device: (1000, 1 << 40))
    with pytest.raises(DeviceError, match=r"takes .* kB, and only 1.0 kB of the device are free") as caught:
        moved(make("llama"), device, todo="choose cpu")
    assert caught.value.todo == "choose cpu"
    model = make("llama")
    with (
        pytest.raises(DeviceError, match=r"only 1.0 kB of the device are free, too little for one layer"),
        placed(model, device),
    ):
        pass
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
def test_a_compressed_model_counts_as_large_as_its_first_pass_makes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch_device(DEVICE)
    model = load_model(save_quantized(save_llama(tmp_path / "model"), tmp_path / "out", "w4a16"), image_text=False)
    stored = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    monkeypatch.setattr(torch.get_device_module(device), "mem_get_info", lambda _device: (stored + ROOM, 1 << 40))
    with placed(model, device), torch.no_grad():
        assert {type(part._parameters) for part in model.modules()} != {dict}  # not moved whole
        assert model(torch.arange(3, 15).unsqueeze(0).to(model.device)).logits.device.type == device.type
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
