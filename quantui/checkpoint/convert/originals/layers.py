"""What every architecture here is made of: norms, linears, attention and heads, in float32. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Read = Callable[[str], Tensor]
"""Gives a tensor by its original name, in whatever dtype it is stored."""

HEAD_ROWS = 16384
"""Rows of a language head that are float32 at a time: a head of 150k x 8192 would need 5 GB at once."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis; x (..., channels) float32, weight (channels)."""
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight.float()


def norm(read: Read, name: str, x: Tensor, eps: float, *, rms: bool) -> Tensor:
    """The RMS norm (weight only) or layer norm (weight and bias) `name` over the last axis of x."""
    weight = read(f"{name}.weight").float()
    if rms:
        return rms_norm(x, weight, eps)
    return functional.layer_norm(x, weight.shape, weight, read(f"{name}.bias").float(), eps)


def linear(read: Read, name: str, x: Tensor, *, bias: bool) -> Tensor:
    """x (..., in) -> (..., out) through the linear `name`, stored (out, in)."""
    return functional.linear(x, read(f"{name}.weight").float(), read(f"{name}.bias").float() if bias else None)


def embed(read: Read, name: str, ids: Tensor) -> Tensor:
    """The rows of the table `name` for ids (batch, length), as (batch, length, channels) float32."""
    return read(name)[ids].float()


def head(read: Read, name: str, x: Tensor) -> Tensor:
    """x (..., channels) -> (..., vocabulary) through the language head `name`, which has no bias."""
    return torch.cat([functional.linear(x, rows.float()) for rows in read(name).split(HEAD_ROWS)], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor, *, causal: bool) -> Tensor:
    """Attention of heads, consecutive query heads sharing one key and value head.

    The scores are written out, not fused, because the originals' own float32 results are met most closely in this way, and only
    for the heads that share a key at a time, because those of all heads would fill the memory.

    Args:
        query: (batch, length, heads, width) float32.
        key: (batch, length, shared heads, width); value likewise.
        causal: whether a token sees only itself and what comes before it.

    Returns:
        (batch, length, heads * width).
    """
    each = query.shape[2] // key.shape[2]
    later = torch.ones(query.shape[1], query.shape[1], dtype=torch.bool).triu(1) if causal else None
    attended = []
    for index, group in enumerate(query.transpose(1, 2).split(each, dim=1)):  # (batch, each, length, width)
        scores = group @ key[:, None, :, index].transpose(2, 3) / math.sqrt(query.shape[-1])
        if later is not None:
            scores = scores.masked_fill(later, -math.inf)
        attended.append(scores.softmax(dim=-1) @ value[:, None, :, index])
    return torch.cat(attended, dim=1).transpose(1, 2).flatten(2)
