"""The memory a K/V cache takes, by batch, context and precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quantui.errors import CheckpointError

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


def cache_shape(config: Mapping[str, Any], where: str = "config.json") -> CacheShape:
    """What the text decoder of a config.json caches; `head_dim` is taken from it where it stands there.

    Raises:
        CheckpointError: the config does not say how many layers or heads there are.
    """
    text = next((config[key] for key in ("text_config", "llm_config", "language_config") if key in config), config)

    def whole(*names: str) -> int:
        found = next((text[name] for name in names if text.get(name) is not None), 0)
        return found if isinstance(found, int) else 0

    layers, heads = whole("num_hidden_layers", "num_layers", "n_layer"), whole("num_attention_heads", "n_head")
    width = whole("head_dim", "kv_channels") or (whole("hidden_size", "n_embd") // heads if heads else 0)
    if not layers or not heads or not width:
        what = "the config does not say how many layers and heads the text decoder has"
        raise CheckpointError(what, where=where, todo="give num_hidden_layers, num_attention_heads and hidden_size there")
    return CacheShape(layers, whole("num_key_value_heads", "multi_query_group_num") or heads, width)


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
