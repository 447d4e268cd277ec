"""A K/V cache that rounds what is written to it, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import DynamicCache

from quantui.compare.rounding import Round


class RoundingCache(DynamicCache):  # type: ignore[misc]
    """transformers' own cache, in front of which keys and values are quantized and dequantized.

    Args:
        config: the model's.
        rounds: by layer index, how keys and how values are rounded; layers that are missing keep them as they are.
    """

    def __init__(self, config: Any, rounds: Mapping[int, tuple[Round, Round]]) -> None:
        super().__init__(config=config)
        self._rounds = rounds

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keeps keys and values (batch, heads, tokens, head_dim), rounded; returns all of the layer so far."""
        if pair := self._rounds.get(layer_idx):
            key_states, value_states = pair[0](key_states), pair[1](value_states)
        made: tuple[torch.Tensor, torch.Tensor] = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return made
