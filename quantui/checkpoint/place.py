"""Models on an accelerator for a while, also those that are larger than it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

ROOM = 1 << 30
"""Bytes of an accelerator that are left to what a pass makes."""


@contextlib.contextmanager
def placed(model: Any, device: Any) -> Iterator[None]:
    """The model on a torch.device for the time of the block, and on the CPU afterwards.

    Where it does not fit, layers stay in memory and come to the device when it is their turn. Source of that:
    compressed_tensors/offload/dispatch.py of 0.19.0, which llm-compressor leaves a model to after a run too.
    """
    if device.type == "cpu":
        yield
        return
    import torch

    size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    whole = size + ROOM <= torch.get_device_module(device).mem_get_info(device)[0]
    try:
        if whole:
            model.to(device)
        else:
            from compressed_tensors.offload import dispatch_model

            dispatch_model(model)
        yield
    finally:
        if not whole:
            from compressed_tensors.offload import remove_dispatch

            remove_dispatch(model)
        model.to("cpu")
