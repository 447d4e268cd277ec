"""Rotary position embeddings: the angles of each position, and the two ways to turn a head by them. Imports torch."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quantui.checkpoint.convert.originals.known import Rope


def angles(rope: Rope, width: int, length: int) -> tuple[Tensor, float]:
    """The angle of each position and pair of channels, and what cosine and sine are multiplied with.

    Source: arXiv 2104.09864 (rotary), 2306.15595 (linear), 2309.00071 (NTK and YaRN); llama3: meta-llama/llama-models,
    models/llama3/reference_impl/model.py, `apply_scaling`; the dynamic base: InternLM's modeling_internlm2.py.

    Args:
        rope: which embedding.
        width: channels that are turned, two for each angle.
        length: tokens.

    Returns:
        (length, width / 2) float32 in radians, and the factor.
    """
    theta, factor = rope.theta, float(rope.settings.get("factor") or 1.0)
    if rope.kind == "dynamic" and length > rope.limit:
        theta *= (factor * length / rope.limit - (factor - 1)) ** (width / (width - 2))
    speeds = 1.0 / theta ** (torch.arange(0, width, 2).float() / width)
    scale = 1.0
    if rope.kind == "linear":
        speeds = speeds / factor
    elif rope.kind == "llama3":
        speeds = _llama3(rope, speeds, factor)
    elif rope.kind == "yarn":
        speeds = _yarn(rope, speeds, factor, width)
        scale = float(rope.settings.get("attention_factor") or (0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0))
    return torch.outer(torch.arange(length).float(), speeds), scale


def _llama3(rope: Rope, speeds: Tensor, factor: float) -> Tensor:
    """Slows long wavelengths down by `factor`, leaves short ones, and goes smoothly between the two."""
    low, high = float(rope.settings["low_freq_factor"]), float(rope.settings["high_freq_factor"])
    turns = _trained(rope) * speeds / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return kept * speeds + (1 - kept) * speeds / factor


def _yarn(rope: Rope, speeds: Tensor, factor: float, width: int) -> Tensor:
    """Slows down by `factor` what turns less than beta_slow times over the trained length, and keeps what turns often."""

    def pair(turns: float) -> float:
        return width * math.log(_trained(rope) / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair(rope.settings.get("beta_fast") or 32), pair(rope.settings.get("beta_slow") or 1)
    if rope.settings.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, width - 1)
    span = last - first or 0.001  # the originals keep the ramp finite in this way
    slowed = ((torch.arange(width // 2).float() - first) / span).clamp(0, 1)
    return slowed * speeds / factor + (1 - slowed) * speeds


def _trained(rope: Rope) -> float:
    return float(rope.settings.get("original_max_position_embeddings") or rope.limit)


def turn_halves(x: Tensor, turn: Tensor, scale: float = 1.0) -> Tensor:
    """Turns channel i with channel i + width / 2; x (batch, length, heads, width), turn (length, width / 2)."""
    cos, sin = (turn.cos() * scale)[:, None], (turn.sin() * scale)[:, None]
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def turn_pairs(x: Tensor, turn: Tensor) -> Tensor:
    """Turns neighbouring channels 2i and 2i + 1 and leaves what lies beyond; x (batch, length, heads, width)."""
    cos, sin = turn.cos()[:, None], turn.sin()[:, None]  # (length, 1, turned / 2)
    turned, rest = x.split([2 * turn.shape[-1], x.shape[-1] - 2 * turn.shape[-1]], dim=-1)
    even, odd = turned[..., 0::2], turned[..., 1::2]
    return torch.cat([torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2), rest], dim=-1)
