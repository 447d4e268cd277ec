"""A stand-in for torch_npu on a machine without an NPU: an "npu" that computes on the CPU and refuses what a real one would.

It is compiled from device.cpp with g++ where it is imported first, and kept in the folder that QUANTUI_NPU_BUILD names.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import types
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device.cpp")


def _library() -> Path:
    """Where the compiled device lies; compiled now if it is not."""
    kind = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:16]
    target = Path(os.environ["QUANTUI_NPU_BUILD"]) / f"npu-{kind}.so"
    if target.exists():
        return target
    home = Path(torch.__file__).parent
    folders = [f"-I{home / 'include'}", f"-I{home / 'include/torch/csrc/api/include'}", f"-L{home / 'lib'}"]
    begun = target.with_suffix(f".{os.getpid()}")
    command = ["g++", "-std=c++20", "-O1", "-w", "-shared", "-fPIC", *folders, str(SOURCE), "-o", str(begun)]
    subprocess.run([*command, "-ltorch", "-ltorch_cpu", "-lc10"], check=True)
    begun.rename(target)
    return target


def _module() -> types.ModuleType:
    """What `torch.npu` is."""
    made = types.ModuleType("torch.npu")
    made.is_available = made.is_initialized = lambda: True
    made.device_count = lambda: 1
    made.current_device = lambda: 0
    made._is_in_bad_fork = lambda: False
    made.is_bf16_supported = lambda *_: True
    for name in ("set_device", "synchronize", "empty_cache", "manual_seed", "manual_seed_all", "reset_peak_memory_stats"):
        setattr(made, name, lambda *_: None)
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        setattr(made, name, lambda *_: 0)
    made.mem_get_info = lambda *_: (1 << 34, 1 << 34)
    made.get_device_name = lambda *_: "stand-in"
    made.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    made.get_rng_state = lambda *_: torch.get_rng_state()
    made.set_rng_state = lambda state, *_: torch.set_rng_state(state)
    return made


torch.ops.load_library(_library())
torch.utils.rename_privateuse1_backend("npu")
torch._register_device_module("npu", _module())
torch.utils.generate_methods_for_privateuse1_backend()
sys.modules["torch.npu"] = torch.npu


def npu_fusion_attention(*_: object, **__: object) -> None:
    """What transformers imports where it finds an NPU; called only by models that ask for flash attention."""
    raise NotImplementedError
