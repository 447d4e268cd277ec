"""What a module is to a person: which block it is in, what it does there, which expert it belongs to. From its name alone."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

KINDS = {
    "q": ("q_proj", "query", "wq", "q_lin"),
    "k": ("k_proj", "key", "wk", "k_lin"),
    "v": ("v_proj", "value", "wv", "v_lin"),
    "qkv": ("qkv_proj", "qkv", "wqkv", "query_key_value", "c_attn", "Wqkv"),
    "o": ("o_proj", "out_proj", "wo", "out_lin", "projection_layer"),
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "w3", "fc1", "c_fc"),
    "gate_up": ("gate_up_proj", "dense_h_to_4h", "w12"),
    "down": ("down_proj", "w2", "fc2", "dense_4h_to_h"),
    "router": ("router", "gate"),
    "head": ("lm_head", "score", "embed_out"),
}
"""Kind -> what models call it, by the last part of the name."""

ORDER = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", "router", "other", "head")
"""The kinds as a page lists them."""

_BY_NAME = {name: kind for kind, names in KINDS.items() for name in names}
_BLOCK = re.compile(r"(?:^|\.)(?:layers?|h|blocks?)\.(\d+)(?:\.|$)")
_EXPERT = re.compile(r"\.experts\.(\d+)(?:\.|$)")
_VISION = re.compile(r"(^|\.)(visual|vision\w*|image_tower|img_\w+|vit)(\.|$)")


@dataclass(frozen=True)
class Place:
    """Where a module stands.

    Attributes:
        kind: one of ORDER, "norm" or "attention".
        block: number of its block, None outside of blocks.
        expert: number of the routed expert, None elsewhere.
        vision: whether it belongs to the vision tower.
    """

    kind: str
    block: int | None
    expert: int | None
    vision: bool


@functools.lru_cache(maxsize=1 << 16)
def place_of(name: str) -> Place:
    """What the name of a module says."""
    block, expert = _BLOCK.search(name), _EXPERT.search(name)
    return Place(
        kind=_kind(*name.rpartition(".")[::2]),
        block=int(block[1]) if block else None,
        expert=int(expert[1]) if expert else None,
        vision=_VISION.search(name) is not None,
    )


def _kind(parent: str, last: str) -> str:
    if last == "c_proj":  # GPT-2 and its kin have two of that name in a block
        return "down" if parent.endswith("mlp") else "o"
    if last in _BY_NAME:
        return _BY_NAME[last]
    if "norm" in last.lower() or last.startswith("ln_"):
        return "norm"
    return "attention" if last in ("self_attn", "attn", "attention", "self_attention") else "other"
