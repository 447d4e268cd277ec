"""Which norm or Linear of a decoder layer feeds which Linears, by the type of model."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Feed(NamedTuple):
    """What is divided by scales so that its readers can be multiplied by them.

    Attributes:
        source: path of the norm or Linear in a decoder layer.
        readers: paths of all the Linears that read its output.
        kind: a norm; the values that attention mixes, whose heads several query heads may read; or a factor of the product that
            is read.
        rows: which output rows of a fused Linear are the source.
    """

    source: str
    readers: tuple[str, ...]
    kind: Literal["norm", "values", "factor"]
    rows: Literal["all", "last half"] = "all"


_ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_SEPARATE = (
    Feed("input_layernorm", _ATTENTION, "norm"),
    Feed("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj"), "norm"),
    Feed("self_attn.v_proj", ("self_attn.o_proj",), "values"),
    Feed("mlp.up_proj", ("mlp.down_proj",), "factor"),
)
_FUSED_UP = (
    Feed("input_layernorm", _ATTENTION, "norm"),
    Feed("post_attention_layernorm", ("mlp.gate_up_proj",), "norm"),
    Feed("self_attn.v_proj", ("self_attn.o_proj",), "values"),
    Feed("mlp.gate_up_proj", ("mlp.down_proj",), "factor", "last half"),
)
FEEDS: dict[str, tuple[Feed, ...]] = {
    "glm": _FUSED_UP,
    "glm4": _FUSED_UP,
    "llama": _SEPARATE,
    "mistral": _SEPARATE,
    "qwen2": _SEPARATE,
    "qwen3": _SEPARATE,
}
"""By `model_type` of the text config; InternVL's language part is one of these, InternLM2 becomes a Llama."""
