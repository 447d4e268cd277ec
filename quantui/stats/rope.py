"""Which dimensions of a head the rotary position embedding turns together. From the config alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NEIGHBOURS = frozenset(
    ("blt", "codegen", "cohere", "cohere2", "cohere2_moe", "deepseek_v2", "deepseek_v4", "ernie4_5", "ernie4_5_moe", "glm",
     "glm4", "gptj", "helium", "llama4", "llama4_text", "moonshine", "moonshine_streaming")
)  # fmt: skip
"""Model types that turn dimensions 2i and 2i + 1 together; all others turn i and i + half.

Source: transformers 5.17, `rotate_half` and `apply_rotary_pos_emb` of models/*/modeling_*.py.
"""

PARTIAL = {"glm": 0.5, "glm4": 0.5, "phi": 0.5, "persimmon": 0.5, "stablelm": 0.25, "gpt_neox": 0.25}
"""Share of a head that is turned where the config does not say. Source: the same, configuration_*.py."""

WITHOUT = frozenset(("bloom", "gpt2", "gpt_bigcode", "gpt_neo", "mpt", "opt", "xglm"))
"""Decoders whose positions are not rotary."""


def rope_pairs(config: Mapping[str, Any], head_dim: int) -> list[tuple[int, int]]:
    """Pairs of dimensions that are turned together, in the order of their frequencies, the fastest first; [] without rotary
    positions.

    Args:
        config: config.json of the model.
        head_dim: dimensions of a head, of which only some may be turned.
    """
    text = next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), Mapping)), config)
    kind = str(text.get("model_type") or config.get("model_type") or "")
    if kind in WITHOUT:
        return []
    turned, first = head_dim, 0
    apart = text.get("qk_rope_head_dim")  # where only the end of a key is turned
    if isinstance(apart, int) and 0 < apart < head_dim:
        turned, first = apart, head_dim - apart
    else:
        turned = int(head_dim * _share(text, kind))
    half = turned // 2
    if kind in NEIGHBOURS:
        return [(first + 2 * i, first + 2 * i + 1) for i in range(half)]
    return [(first + i, first + i + half) for i in range(half)]


def _share(text: Mapping[str, Any], kind: str) -> float:
    given = text.get("rope_parameters")
    inner = given.get("partial_rotary_factor") if isinstance(given, Mapping) else None
    for value in (inner, text.get("partial_rotary_factor"), text.get("rotary_pct")):
        if isinstance(value, int | float) and 0 < value <= 1:
            return float(value)
    return PARTIAL.get(kind, 1.0)
