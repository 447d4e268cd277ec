"""Devices by name: "auto", "cpu", "cuda[:n]", "npu[:n]". Nothing here imports torch; the worker asks `torch_device`.

A worker sees one accelerator only: `environment` hides the others before the worker starts, so that inside it the chosen
one is always number 0 and "cpu" means that there is none.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from quantui import memory
from quantui.errors import DeviceError

NPU_ADVICE = (
    "install it with `pip install -r requirements-npu.txt`, source CANN's set_env.sh, and set "
    "ASCEND_RT_VISIBLE_DEVICES (for example 0) and PYTORCH_NPU_ALLOC_CONF=expandable_segments:True"
)
DEV = Path("/dev")


@dataclass(frozen=True)
class DeviceInfo:
    """A device a job can run on; sizes in bytes, 0 where they cannot be told."""

    name: str
    label: str
    total_bytes: int
    free_bytes: int


def describe() -> list[DeviceInfo]:
    """The devices of this machine, accelerators first; "auto" is the first of them."""
    return [*_cuda_devices(), *npus(), _cpu()]


def resolve_name(device: str) -> str:
    """One device's own name: "auto" becomes the first there is, "cuda" becomes "cuda:0".

    Raises:
        DeviceError: the name is not of the known form, or the device is not there.
    """
    if not re.fullmatch(r"auto|cpu|(cuda|npu)(:\d+)?", device):
        raise DeviceError(f"unknown device {device!r}", todo="use auto, cpu, cuda, cuda:N, npu or npu:N")
    if device == "cpu":
        return device
    present = [info.name for info in describe()]
    name = present[0] if device == "auto" else device if ":" in device else f"{device}:0"
    if name.startswith("npu") and importlib.util.find_spec("torch_npu") is None:
        advice = f"{NPU_ADVICE}, or choose cpu"
        raise DeviceError("torch_npu is not installed, so an NPU cannot be used", where=name, todo=advice)
    if name not in present:
        raise DeviceError("there is no such device", where=name, todo=f"choose one of auto, {', '.join(present)}")
    return name


def environment(device: str) -> dict[str, str]:
    """Environment variables that leave a worker only the resolved device ("cpu", "cuda:1", "npu:0")."""
    kind, _, index = device.partition(":")
    hidden = {"CUDA_VISIBLE_DEVICES": "", "ASCEND_RT_VISIBLE_DEVICES": ""}
    if kind == "cuda":
        # unless somebody has numbered them already: in the order of nvidia-smi, which is not CUDA's own
        order = {} if "CUDA_VISIBLE_DEVICES" in os.environ else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
        return hidden | order | {"CUDA_VISIBLE_DEVICES": _outer("CUDA_VISIBLE_DEVICES", int(index or 0))}
    if kind == "npu":
        npu = {"ASCEND_RT_VISIBLE_DEVICES": _outer("ASCEND_RT_VISIBLE_DEVICES", int(index or 0))}
        return hidden | npu | {"PYTORCH_NPU_ALLOC_CONF": os.environ.get("PYTORCH_NPU_ALLOC_CONF", "expandable_segments:True")}
    return hidden


def torch_device(device: str) -> Any:
    """The torch.device of a name; in a worker whose environment was made by `environment` it is the only one.

    Raises:
        DeviceError: torch cannot use it, or torch_npu is missing.
    """
    import torch

    kind, _, index = resolve_name(device).partition(":") if device == "auto" else device.partition(":")
    if kind == "npu":
        try:
            importlib.import_module("torch_npu")
        except ImportError as error:
            raise DeviceError(f"torch_npu cannot be imported ({error})", where=device, todo=NPU_ADVICE) from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise DeviceError("this torch cannot use CUDA", where=device, todo="install a CUDA build of torch or choose cpu")
    if kind == "cpu":
        return torch.device("cpu")
    alone = torch.accelerator.device_count() == 1  # `environment` has hidden the others, so this one is number 0
    return torch.device(kind, 0 if alone else int(index or 0))


def widest_float(device: Any) -> Any:
    """The widest float dtype that a torch.device computes in: an NPU rounds float64 to float32, or fails on it."""
    import torch

    return torch.float64 if device.type in ("cpu", "cuda") else torch.float32


@functools.cache
def has_float8(device: Any) -> bool:
    """Whether a torch.device holds float8, tried once: few NPUs do."""
    import torch

    if device.type in ("cpu", "cuda"):
        return True
    try:
        torch.zeros(1, device=device).to(torch.float8_e4m3fn).float().item()
    except (RuntimeError, TypeError):
        return False
    return True


def _outer(variable: str, index: int) -> str:
    """Number `index` among the devices that `variable` already leaves to this process."""
    visible = [part.strip() for part in os.environ.get(variable, "").split(",") if part.strip()]
    return visible[index] if index < len(visible) else str(index)


def _cpu() -> DeviceInfo:
    limit = memory.limit()
    return DeviceInfo("cpu", f"CPU, {os.cpu_count() or 1} cores", limit, min(psutil.virtual_memory().available, limit))


def _cuda_devices() -> list[DeviceInfo]:
    """What nvidia-smi lists, as CUDA_VISIBLE_DEVICES orders and hides it; [] without nvidia-smi.

    Source: CUDA C++ Programming Guide, environment variables: entries are numbers or beginnings of UUIDs, and nothing behind
    the first entry that is no device counts.
    """
    query = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits")
    lines = [[cell.strip() for cell in line.split(",")] for line in _output(query).splitlines()]
    rows = [line for line in lines if len(line) == 5]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and rows:
        rows = _shown(rows, [part.strip() for part in visible.split(",")])
    mib = 2**20
    return [
        DeviceInfo(f"cuda:{i}", name, _int(total) * mib, _int(free) * mib) for i, (_, _, name, total, free) in enumerate(rows)
    ]


def _shown(rows: list[list[str]], visible: list[str]) -> list[list[str]]:
    found = []
    for entry in visible:
        if entry.startswith("MIG-"):
            row: list[str] | None = ["", entry, "CUDA (a part of a GPU)", "", ""]  # whose size nvidia-smi does not list
        else:
            row = next((row for row in rows if row[0] == entry or (entry[:4] == "GPU-" and row[1].startswith(entry))), None)
        if row is None:
            break
        found.append(row)
    return found


def npus() -> list[DeviceInfo]:
    """One entry a card that the Ascend driver made a device node for, less what ASCEND_RT_VISIBLE_DEVICES hides.

    Sizes are not known without torch_npu.
    """
    numbers = {node.name.removeprefix("davinci") for node in DEV.glob("davinci[0-9]*")}
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    shown = numbers if visible is None else numbers.intersection(part.strip() for part in visible.split(","))
    return [DeviceInfo(f"npu:{i}", "Ascend NPU", 0, 0) for i in range(len(shown))]


def _output(command: tuple[str, ...]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""  # a driver that is broken is a device that is not there


def _int(text: str) -> int:
    return int(text) if text.isdigit() else 0
