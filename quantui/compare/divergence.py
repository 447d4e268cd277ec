"""How far two models' next-token distributions are apart, token by token. Formulas: docs/metrics.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantui.compare.generate import Stream
from quantui.compare.pair import Pair
from quantui.compare.prompt import Prompt
from quantui.compare.switches import SIDES, Side
from quantui.devices import widest_float

CHUNK = 1 << 21
"""Logits that are looked at together: they stay in the processor's cache, and float64 of a whole set would not fit anywhere."""
TOP = 5


@dataclass(frozen=True)
class Apart:
    """Two models on the same tokens; every array has one entry a token.

    Attributes:
        kl: KL(original || quantized) in nats.
        original, quantized: log probability of the token itself.
        best_original, best_quantized: the likeliest token.
        top_original, top_quantized: (tokens, TOP) ids of the likeliest, and their log probabilities in `logp_*`; empty where
            they were not asked for.
    """

    kl: torch.Tensor
    original: torch.Tensor
    quantized: torch.Tensor
    best_original: torch.Tensor
    best_quantized: torch.Tensor
    top_original: torch.Tensor
    top_quantized: torch.Tensor
    logp_original: torch.Tensor
    logp_quantized: torch.Tensor

    def first_difference(self, ids: Sequence[int], side: Side) -> int | None:
        """Where the other model, on this side's words, would take another token for the first time."""
        best = self.best_quantized if side == "original" else self.best_original
        places = (best != torch.tensor(list(ids), device=best.device)).nonzero()
        return int(places[0]) if places.numel() else None


def apart(
    original: torch.Tensor, quantized: torch.Tensor, ids: torch.Tensor, *, dtype: Any = torch.float32, top: int = 0
) -> Apart:
    """Compares logits.

    Args:
        original, quantized: logits (tokens, vocabulary).
        ids: (tokens,) the tokens they are followed by.
        dtype: what is computed in: float32 while somebody waits, float64 for figures that are kept.
        top: how many of the likeliest tokens are wanted.
    """
    if dtype == torch.float64:
        dtype = widest_float(original.device)
    rows = max(1, CHUNK // original.shape[-1])
    parts = []
    for start in range(0, len(ids), rows):
        here = slice(start, start + rows)
        parts.append(_part(original[here].to(dtype), quantized[here].to(dtype), ids[here], top))
    if not parts:
        empty, none = torch.empty(0, dtype=dtype), torch.empty(0, dtype=torch.long)
        return Apart(empty, empty, empty, none, none, none, none, empty, empty)
    return Apart(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _part(left: torch.Tensor, right: torch.Tensor, ids: torch.Tensor, top: int) -> tuple[torch.Tensor, ...]:
    """One chunk. With p = exp(l - m) / s: KL = sum p (l - r) - (log-sum-exp of l - log-sum-exp of r)."""
    peaks, bests = zip(left.max(-1), right.max(-1), strict=True)
    powers = (left - peaks[0][:, None]).exp_()
    total = powers.sum(-1)
    norms = (peaks[0] + total.log(), peaks[1] + (right - peaks[1][:, None]).exp_().sum(-1).log())
    # a column where both are -inf has no share; where only the right one is, the distance is infinite and stays so
    gap = (left - right).nan_to_num_(nan=0.0, posinf=torch.inf, neginf=0.0)
    kl = (powers * gap).sum(-1) / total - (norms[0] - norms[1])
    at = ids[:, None]
    own = (left.gather(1, at)[:, 0] - norms[0], right.gather(1, at)[:, 0] - norms[1])
    if top:
        tops = [side.topk(min(top, side.shape[-1]), dim=-1) for side in (left, right)]
        likely = [found.values - norm[:, None] for found, norm in zip(tops, norms, strict=True)]
        return kl.clamp_min_(0), *own, *bests, tops[0].indices, tops[1].indices, *likely
    none = ids.new_empty((len(ids), 0))
    return kl.clamp_min_(0), *own, *bests, none, none, left.new_empty((len(ids), 0)), left.new_empty((len(ids), 0))


def forced(pair: Pair, prompt: Prompt, ids: Sequence[int], streams: Sequence[Stream] = (), *, top: int = TOP) -> Apart:
    """An answer through both models in one pass each.

    Args:
        ids: the answer's tokens.
        streams: answers to the same prompt; what their models have kept of it need not be read again.
    """
    kept = {stream.side: _rest_of(stream, prompt) for stream in streams}
    # one way for both, or what is added up in another order would look like a distance
    known = kept if all(kept.get(side) is not None for side in SIDES) else {}
    logits = {side: _forced(pair, side, prompt, ids, known.get(side)) for side in SIDES}
    return apart(logits["original"], logits["quantized"], torch.tensor(list(ids), device=pair.device), top=top)


def _forced(pair: Pair, side: Side, prompt: Prompt, ids: Sequence[int], kept: tuple[Any, torch.Tensor] | None) -> torch.Tensor:
    """Logits (tokens, vocabulary) before each token of an answer."""
    if kept is None:
        return pair.logits(side, prompt.extended(ids[:-1]), keep=len(ids))[0]
    cache, first = kept
    if len(ids) == 1:
        return first[None]
    rest = {"input_ids": torch.tensor([list(ids[:-1])], device=pair.device)}
    return torch.cat([first[None], pair.logits(side, rest, cache)[0]])


def _rest_of(stream: Stream, prompt: Prompt) -> tuple[Any, torch.Tensor] | None:
    """A stream's cache with the prompt alone in it, and the logits behind that; None where that is not to be had."""
    layers = stream.cache.layers
    plain = all(type(layer).__name__ == "DynamicLayer" for layer in layers) and bool(layers)
    if not plain or stream.given or stream.first is None or stream.prompt is not prompt:
        return None
    more = stream.cache.get_seq_length() - prompt.tokens
    if more < 0:
        return None
    if more:
        stream.cache.crop(-more)
    return stream.cache, stream.first
