"""Scales and zero points from ranges. Only operators, so numpy arrays, torch tensors and floats all work."""

from __future__ import annotations

from typing import Any


def middle_range(low: Any, high: Any, bits: int = 8) -> tuple[Any, Any]:
    """Scale and zero point of lmdeploy's K/V cache: codes around the middle of the range.

    q = (x - zero) / scale in -2^(bits-1) .. 2^(bits-1)-1, x = q * scale + zero; zero has the unit of x.

    Args:
        low: smallest values, any shape; computed in its dtype.
        high: largest values, the same shape.

    Returns:
        scale and zero, each of that shape.

    Source: lmdeploy v0.1.0, lmdeploy/lite/apis/kv_qparams.py; array_ops.h for the codes.
    """
    return (high - low) / (2**bits - 1), (high + low) / 2


def symmetric_range(absmax: Any, bits: int = 8) -> Any:
    """Scale of symmetric codes -(2^(bits-1)-1) .. 2^(bits-1)-1; absmax of any shape, in its dtype."""
    return absmax / (2 ** (bits - 1) - 1)


def step(low: Any, high: Any, bits: int, *, symmetric: bool) -> Any:
    """Distance of two neighbouring codes, in the unit of the values."""
    if symmetric:
        import numpy as np

        return symmetric_range(np.maximum(np.abs(low), np.abs(high)), bits)
    return middle_range(low, high, bits)[0]
