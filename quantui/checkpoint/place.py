"""Models on an accelerator for a while, also those that are larger than it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from quantui.errors import DeviceError
from quantui.vanished import size

ROOM = 1 << 30
"""Bytes of an accelerator that are left to what a pass makes."""


@contextlib.contextmanager
def placed(model: Any, device: Any) -> Iterator[None]:
    """The model on a torch.device for the time of the block, and on the CPU afterwards.

    Where it does not fit, layers stay in memory and come to the device when it is their turn. Source of that:
    compressed_tensors/offload/dispatch.py of 0.19.0, which llm-compressor leaves a model to after a run too.

    Raises:
        DeviceError: not even one layer fits.
    """
    if device.type == "cpu":
        yield
        return
    _decompress(model)
    free = free_bytes(device)
    whole = _bytes_of(model) + ROOM <= free
    try:
        if whole:
            model.to(device)
        else:
            _dispatch(model, device, free)
        yield
    finally:
        if not whole:
            from compressed_tensors.offload import remove_dispatch

            remove_dispatch(model)
        model.to("cpu")


def moved(model: Any, device: Any, *, todo: str) -> Any:
    """The model on a torch.device for good.

    Args:
        todo: what else somebody could do where it does not fit.

    Raises:
        DeviceError: it is larger than what the accelerator has free.
    """
    if device.type != "cpu" and _bytes_of(model) > (free := free_bytes(device)):
        what = f"the model takes {size(_bytes_of(model))}, and only {size(free)} of the device are free"
        raise DeviceError(what, where=str(device), todo=todo)
    return model.to(device)


def free_bytes(device: Any) -> int:
    """What an accelerator has free, that which models before have left to torch's own allocator included."""
    import torch

    module = torch.get_device_module(device)
    module.empty_cache()
    return int(module.mem_get_info(device)[0])


def peak_bytes(device: Any) -> int | None:
    """The most that this process has had on an accelerator so far; None on a CPU."""
    import torch

    return None if device.type == "cpu" else int(torch.get_device_module(device).max_memory_allocated(device))


def _dispatch(model: Any, device: Any, free: int) -> None:
    from compressed_tensors.offload import dispatch_model

    try:
        dispatch_model(model, {device: free})  # of itself it takes all memory for free
    except ValueError as error:
        what = f"only {size(free)} of the device are free, too little for one layer of the model and what a pass makes"
        raise DeviceError(what, where=str(device), todo="end what else uses the device, or choose cpu") from error


def _decompress(model: Any) -> None:
    """Gives a quantized model the float weights that its first pass would give it, so that it is seen how large it becomes.

    Source: compressed-tensors 0.19.0, compressors/model_compressors/model_compressor.py, `add_decompress_hook`.
    """
    if hasattr(model, "ct_decompress_hook"):
        from compressed_tensors.offload import remove_dispatch

        model.hf_quantizer.compressor.decompress_model(model)
        remove_dispatch(model)


def _bytes_of(model: Any) -> int:
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
