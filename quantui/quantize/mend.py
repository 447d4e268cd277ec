"""What the engine does wrong on some machines, put right before it runs."""

from __future__ import annotations


def mend_pinning() -> None:
    """Lets AWQ run where there is no accelerator: its cache pins memory, which only an accelerator's driver can do.

    Source: llm-compressor 0.14.0.1, pipelines/cache.py, `IntermediatesCache.pin_memory`.
    """
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
