"""The memory a K/V cache takes, by batch, context and precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

PRECISIONS = {"fp16": 16, "fp8": 8, "int8": 8, "int4": 4}
"""Name -> bits of a cached number."""

POOL = 32 * 2**20
"""Bytes a CUDA memory pool grows by, so that what nvidia-smi shows moves in such steps."""

SPARE_TOKENS = 8
"""Tokens lmdeploy's first engine kept room for beyond the context (session_len 2056 for 2048)."""


@dataclass(frozen=True)
class CacheShape:
    """What a model caches for a token: `layers` x `kv_heads` x (`head_dim` of keys + as many of values)."""

    layers: int
    kv_heads: int
    head_dim: int


def cache_bytes(shape: CacheShape, batch: int, tokens: int, bits: int, *, scale_bytes: int = 0) -> int:
    """Bytes of a full cache: 2 x layers x kv_heads x head_dim x tokens x batch x bits / 8.

    Args:
        tokens: of one sequence.
        scale_bytes: that go with every head of every token where scales are made online (lmdeploy today: 4); 0 for scales
            that are fixed beforehand.

    Source: lmdeploy v0.1.0, docs/en/turbomind_config.md, lines 82 to 86.
    """
    heads = 2 * shape.layers * shape.kv_heads * tokens * batch
    return heads * (shape.head_dim * bits // 8 + scale_bytes)


def cache_table(
    shape: CacheShape, batches: Sequence[int] = (1, 8, 16, 32, 48), contexts: Sequence[int] = (2048, 8192, 32768)
) -> list[tuple[int, int, dict[str, int]]]:
    """(batch, tokens, precision -> bytes) of every combination."""
    return [
        (batch, tokens, {name: cache_bytes(shape, batch, tokens, bits) for name, bits in PRECISIONS.items()})
        for tokens in contexts
        for batch in batches
    ]


def shown_saving(shape: CacheShape, batch: int, tokens: int, bits: int) -> int:
    """Bytes that nvidia-smi showed less with a cache of `bits` instead of 16, in lmdeploy's first engine.

    Source: lmdeploy v0.1.0, docs/en/kv_int8.md: all eight sizes printed there are 1 MiB more than a multiple of POOL.
    """
    full, small = (cache_bytes(shape, batch, tokens + SPARE_TOKENS, width) for width in (16, bits))
    return (full - small) // POOL * POOL
