"""What the engine does wrong on some machines, put right before it runs."""

from __future__ import annotations

from typing import Any


def mend_pinning() -> None:
    """Lets AWQ run where there is no accelerator: its cache pins memory, which only an accelerator's driver can do.

    Source: llm-compressor 0.14.0.1, pipelines/cache.py, `IntermediatesCache.pin_memory`.
    """
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None


def dtypes_of(model: Any) -> dict[str, Any]:
    """The dtype of every parameter by name."""
    return {name: parameter.dtype for name, parameter in model.named_parameters()}


def restore_dtypes(model: Any, dtypes: dict[str, Any]) -> None:
    """Gives parameters the dtype they had: AutoRound turns the blocks it learns to float32 on a CPU and leaves them so."""
    for name, parameter in model.named_parameters():
        if parameter.dtype != dtypes.get(name, parameter.dtype):
            parameter.data = parameter.data.to(dtypes[name])
