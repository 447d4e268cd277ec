"""Which layers have to take one format together, by their names alone. No torch."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from quantui.stats.kinds import place_of

TOGETHER = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
"""Kinds that runtimes fuse into one matrix, and what the fused one is called."""

_EXPERT = re.compile(r"^(.*\.experts)\.\d+(?:\.|$)")


@functools.lru_cache(maxsize=1 << 16)
def shared_group(name: str) -> str:
    """What a layer shares its format with: "model.layers.0.self_attn.qkv", "...mlp.experts", or its own name.

    Runtimes keep q, k and v as one matrix, gate and up too, and the experts of a block in one stack of one format.
    """
    expert = _EXPERT.match(name)
    if expert:
        return expert[1]
    together = TOGETHER.get(place_of(name).kind)
    return f"{name.rpartition('.')[0]}.{together}" if together else name


def grouped(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Group -> its layers, both in the order of the names; a group of one layer has the layer's name."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(shared_group(name), []).append(name)
    return {members[0] if len(members) == 1 else group: tuple(members) for group, members in found.items()}


def snapped(names: Iterable[str], all_names: Iterable[str]) -> tuple[str, ...]:
    """The names together with everything that has to share a format with one of them, in the order of all names."""
    wanted = {shared_group(name) for name in names}
    return tuple(name for name in all_names if shared_group(name) in wanted)
