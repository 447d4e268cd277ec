"""Models on an accelerator for a while, also those that are larger than it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def placed(model: Any, device: Any) -> Iterator[None]:
    """The model on a torch.device for the time of the block, and on the CPU afterwards.

    What does not fit on an accelerator stays in memory, and comes there when it is its turn. Source of the dispatch:
    compressed_tensors/offload/dispatch.py of 0.19.0, which llm-compressor leaves a model in after a run too.
    """
    if device.type == "cpu":
        yield
        return
    from compressed_tensors.offload import dispatch_model, remove_dispatch

    dispatch_model(model)
    try:
        yield
    finally:
        remove_dispatch(model)
        model.to("cpu")
