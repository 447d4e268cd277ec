"""What calibrating with so many tokens will take, roughly: time and memory. No torch."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import numpy as np

from quantui.checkpoint.files import Checkpoint
from quantui.checkpoint.inspect import section, summary_of, whole

ENGINE_BYTES = 520_000_000
"""Resident memory of a worker that has imported the engine and loaded nothing; measured with torch 2.13 on Linux."""

PASSES = 2
"""How often each token goes through each layer: once to calibrate, once to hand on what the quantized layer gives."""

DEVICE_FLOPS = {"cuda": 5e13, "npu": 5e13}
"""Operations a second that an accelerator reaches on such work, as an order of magnitude."""
CPU_SHARE = 0.25
"""What a model reaches of the speed of one large float32 product; an order of magnitude."""
SECONDS_A_CALL = 0.005
"""What the engine takes for one sample in one layer beside the arithmetic, most of the time of a small model."""


@dataclass(frozen=True)
class Cost:
    """Rough needs of a calibration.

    Attributes:
        seconds: of the calibration alone.
        memory_bytes: of the worker at its peak.
    """

    seconds: float
    memory_bytes: int


def forecast(checkpoint: Checkpoint, samples: int, tokens: int, longest: int, device: str = "cpu") -> Cost:
    """Time and memory for so many samples and tokens; the time is an order of magnitude.

    Args:
        longest: tokens of the longest sample.
        device: cpu, cuda[:n] or npu[:n].
    """
    summary = summary_of(checkpoint)
    operations = 2 * summary.parameters * tokens * PASSES
    calls = samples * summary.blocks * PASSES * SECONDS_A_CALL
    flops = DEVICE_FLOPS.get(device.partition(":")[0]) or cpu_flops() * CPU_SHARE
    return Cost(operations / flops + calls, memory(checkpoint, tokens, longest))


def memory(checkpoint: Checkpoint, tokens: int, longest: int) -> int:
    """Roughly the peak: the engine, the float weights, one hidden state a calibration token twice, one sample's logits."""
    config = checkpoint.config
    text = section(config, "text_config") or section(config, "llm_config") or config
    hidden, vocabulary = whole(text, "hidden_size"), whole(text, "vocab_size")
    return ENGINE_BYTES + int(checkpoint.nbytes * 1.1) + 2 * 2 * tokens * hidden + 2 * 4 * longest * vocabulary


@functools.cache
def cpu_flops() -> float:
    """Operations a second of a float32 product on this machine, measured once in some 20 ms."""
    side = 512
    left = np.ones((side, side), dtype=np.float32)
    best = float("inf")
    for _ in range(5):  # the quickest: others may be working on this machine at the moment
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / max(best, 1e-6)
