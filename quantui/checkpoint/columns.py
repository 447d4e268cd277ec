"""The largest magnitude of every column of a weight, read from its file a few rows at a time. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from quantui.checkpoint.files import Tensor
from quantui.errors import CheckpointError

ROWS_BYTES = 8 << 20
"""Bytes that are looked at at once."""
READABLE = ("BF16", "F16", "F32", "F64")


def column_absmax(tensor: Tensor) -> npt.NDArray[np.float32]:
    """The largest magnitude of each column.

    Args:
        tensor: (rows, columns), contiguous, of a floating-point dtype.

    Returns:
        (columns,) float32.

    Raises:
        CheckpointError: it is stored in some other way.
    """
    if tensor.dtype not in READABLE or len(tensor.shape) != 2 or tensor.stride is not None:
        what = f"{tensor.name} is stored as {tensor.dtype} {list(tensor.shape)}, which is not read here"
        raise CheckpointError(what, where=str(tensor.shard), todo="choose a model with plain floating-point safetensors")
    rows, columns = tensor.shape
    stored = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8"}[tensor.dtype]
    values: Any = np.memmap(tensor.shard, np.dtype(stored), "r", offset=tensor.offset, shape=(rows, columns))
    found = np.zeros(columns, np.uint16 if tensor.dtype == "BF16" else np.float32)
    few = max(ROWS_BYTES // max(columns * values.dtype.itemsize, 1), 1)
    for start in range(0, rows, few):
        part = values[start : start + few]
        # Without its sign bit a bfloat16 orders as its bits do.
        part = part & 0x7FFF if tensor.dtype == "BF16" else np.abs(part)
        found = np.maximum(found, part.max(0)).astype(found.dtype)
    return (found.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == "BF16" else found.astype(np.float32)
