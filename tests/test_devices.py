"""Devices by name, on machines with and without them."""

from __future__ import annotations

import os
import stat
import sys
import types
from pathlib import Path

import pytest

from quantui import devices, memory
from quantui.devices import DeviceInfo, describe, environment, resolve_name, torch_device
from quantui.errors import DeviceError

SMI = """\
0, GPU-1a2b3c4d-0000-0000-0000-000000000000, NVIDIA H200, 143771, 143000
1, GPU-5e6f7a8b-0000-0000-0000-000000000000, NVIDIA L4, 23034, 20
"""


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without accelerators; returns a folder that is first on its PATH and is its /dev."""
    for variable in ("CUDA_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES", "PYTORCH_NPU_ALLOC_CONF"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(devices, "DEV", tmp_path)
    return tmp_path


def add_cuda(machine: Path, output: str = SMI, code: int = 0) -> None:
    """Puts an nvidia-smi into the machine that says this."""
    (machine / "said").write_bytes(output.encode("latin-1"))
    program = machine / "nvidia-smi"
    program.write_text(f"#!/bin/sh\nwhile IFS= read -r line; do printf '%s\\n' \"$line\"; done < {machine}/said\nexit {code}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)


def add_npu(machine: Path, *numbers: int) -> None:
    """Puts Ascend cards into the machine."""
    (machine / "davinci_manager").touch()
    for number in numbers:
        (machine / f"davinci{number}").touch()


def give_torch_npu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Installs a torch_npu."""
    module = types.ModuleType("torch_npu")
    module.__spec__ = types.SimpleNamespace(name="torch_npu")  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "torch_npu", module)


# --- what is there


def test_a_machine_without_accelerators_has_a_cpu() -> None:
    (cpu,) = describe()
    assert cpu.name == "cpu" and str(os.cpu_count()) in cpu.label
    assert 0 < cpu.free_bytes <= cpu.total_bytes == memory.limit()
    assert resolve_name("auto") == "cpu"


def test_gpus_come_first_with_their_memory(machine: Path) -> None:
    add_cuda(machine)
    mib = 2**20
    assert describe()[:2] == [
        DeviceInfo("cuda:0", "NVIDIA H200", 143771 * mib, 143000 * mib),
        DeviceInfo("cuda:1", "NVIDIA L4", 23034 * mib, 20 * mib),
    ]
    assert [resolve_name(name) for name in ("auto", "cuda", "cuda:1", "cpu")] == ["cuda:0", "cuda:0", "cuda:1", "cpu"]


@pytest.mark.parametrize(
    ("visible", "labels"),
    [
        ("1", ["NVIDIA L4"]),
        ("1,0", ["NVIDIA L4", "NVIDIA H200"]),
        (" 0 , 1 ", ["NVIDIA H200", "NVIDIA L4"]),
        ("", []),
        ("-1", []),
        ("1,7,0", ["NVIDIA L4"]),
        ("GPU-5e6f7a8b-0000-0000-0000-000000000000", ["NVIDIA L4"]),
        ("GPU-5e6f,GPU-1a2b", ["NVIDIA L4", "NVIDIA H200"]),
        ("GPU-9", []),
        ("MIG-9,0", ["CUDA (a part of a GPU)", "NVIDIA H200"]),
    ],
)
def test_gpus_are_hidden_and_ordered_as_cuda_does_it(
    machine: Path, monkeypatch: pytest.MonkeyPatch, visible: str, labels: list[str]
) -> None:
    add_cuda(machine)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = describe()[:-1]
    assert [info.label for info in found] == labels
    assert [info.name for info in found] == [f"cuda:{i}" for i in range(len(labels))]
    for number, info in enumerate(found):  # the worker that gets it sees the one that was listed
        chosen = environment(info.name)["CUDA_VISIBLE_DEVICES"]
        assert chosen == visible.split(",")[number].strip()


@pytest.mark.parametrize(
    ("output", "code"), [("", 0), (SMI, 9), ("Failed to initialize NVML: Driver/library version mismatch\n", 0), ("\xff\n", 0)]
)
def test_a_driver_that_is_broken_is_a_device_that_is_not_there(machine: Path, output: str, code: int) -> None:
    add_cuda(machine, output, code)
    assert [info.name for info in describe()] == ["cpu"]


def test_memory_that_a_driver_does_not_tell_counts_as_unknown(machine: Path) -> None:
    add_cuda(machine, "0, GPU-1, NVIDIA GH200, [N/A], [N/A]\n")
    assert describe()[0] == DeviceInfo("cuda:0", "NVIDIA GH200", 0, 0)


def test_ascend_cards_are_listed(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_npu(machine, 0, 1, 10)
    assert [info.name for info in describe()] == ["npu:0", "npu:1", "npu:2", "cpu"]
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "10, 1")
    assert [info.name for info in describe()] == ["npu:0", "npu:1", "cpu"]
    assert environment("npu:0")["ASCEND_RT_VISIBLE_DEVICES"] == "10"
    monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", "")
    assert [info.name for info in describe()] == ["cpu"]


# --- names


@pytest.mark.parametrize(
    "name", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cpu:0", "mps", "cuda:0 ", "auto\n", "npu:0;ls"]
)
def test_a_name_that_nobody_knows_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(DeviceError, match="unknown device") as caught:
        resolve_name(name)
    assert caught.value.todo == "use auto, cpu, cuda, cuda:N, npu or npu:N"


def test_a_device_that_is_not_there_is_refused_with_those_that_are(machine: Path) -> None:
    with pytest.raises(DeviceError, match="no such device") as caught:
        resolve_name("cuda")
    assert caught.value.where == "cuda:0" and caught.value.todo == "choose one of auto, cpu"
    add_cuda(machine)
    with pytest.raises(DeviceError) as caught:
        resolve_name("cuda:2")
    assert caught.value.todo == "choose one of auto, cuda:0, cuda:1, cpu"


@pytest.mark.parametrize("name", ["npu", "npu:0", "npu:5"])
def test_an_npu_without_torch_npu_names_the_way_to_it(name: str) -> None:
    with pytest.raises(DeviceError, match="torch_npu is not installed") as caught:
        resolve_name(name)
    for word in ("pip install -r requirements-npu.txt", "set_env.sh", "ASCEND_RT_VISIBLE_DEVICES", "PYTORCH_NPU_ALLOC_CONF"):
        assert word in caught.value.todo


def test_a_machine_of_npus_says_so_rather_than_fall_back_to_its_cpu(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_npu(machine, 0)
    with pytest.raises(DeviceError, match=r"torch_npu is not installed.*or choose cpu"):
        resolve_name("auto")
    assert resolve_name("cpu") == "cpu"
    give_torch_npu(monkeypatch)
    assert (resolve_name("auto"), resolve_name("npu")) == ("npu:0", "npu:0")
    with pytest.raises(DeviceError, match="no such device"):
        resolve_name("npu:1")


def test_the_install_command_that_is_named_works_on_a_file_that_exists() -> None:
    root = Path(devices.__file__).parent.parent
    assert "torch_npu" in (root / "requirements-npu.txt").read_text(encoding="utf-8")


# --- what a worker sees


def test_a_worker_sees_its_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    assert environment("cpu") == {"CUDA_VISIBLE_DEVICES": "", "ASCEND_RT_VISIBLE_DEVICES": ""}
    assert environment("cuda:3") == {
        "CUDA_VISIBLE_DEVICES": "3",
        "ASCEND_RT_VISIBLE_DEVICES": "",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert environment("npu:2") == {
        "CUDA_VISIBLE_DEVICES": "",
        "ASCEND_RT_VISIBLE_DEVICES": "2",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
    }
    monkeypatch.setenv("PYTORCH_NPU_ALLOC_CONF", "max_split_size_mb:64")
    assert environment("npu:2")["PYTORCH_NPU_ALLOC_CONF"] == "max_split_size_mb:64"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,4")
    assert environment("cuda:1") == {"CUDA_VISIBLE_DEVICES": "4", "ASCEND_RT_VISIBLE_DEVICES": ""}


@pytest.mark.engine
def test_torch_s_device_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    assert torch_device("cpu") == torch.device("cpu") == torch_device("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="cannot use CUDA"):
        torch_device("cuda:0")
    with pytest.raises(DeviceError, match=r"torch_npu cannot be imported .*requirements-npu\.txt"):
        torch_device("npu:0")


@pytest.mark.engine
def test_the_only_device_a_worker_sees_is_number_0(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    assert torch_device("cuda:3") == torch.device("cuda", 0)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    assert torch_device("cuda:3") == torch.device("cuda", 3)
