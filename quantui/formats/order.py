"""The order of a model's modules, from names alone: files sort tensors by name, descriptions list them as the model runs."""

from __future__ import annotations

import re

MODULES = (
    "model", "transformer", "vision_tower", "vision_model", "visual", "multi_modal_projector", "mlp1", "language_model",
    "embed_tokens", "tok_embeddings", "embedding", "embeddings", "word_embeddings", "layers", "encoder", "layer", "h", "blocks",
    "attention_norm", "attention", "self_attn", "self_attention", "q_proj", "k_proj", "v_proj", "qkv_proj", "query_key_value",
    "wqkv", "o_proj", "wo", "dense", "q_norm", "k_norm", "feed_forward", "mlp", "gate", "experts", "shared_expert",
    "shared_expert_gate", "gate_proj", "gate_up_proj", "dense_h_to_4h", "w1", "w3", "up_proj", "w2", "down_proj",
    "dense_4h_to_h", "input_layernorm", "ffn_norm", "post_attention_layernorm", "post_self_attn_layernorm",
    "post_mlp_layernorm", "norm", "final_layernorm", "lm_head", "output", "output_layer",
)  # fmt: skip
"""Children of a module in the order in which the usual decoders define them; others stand before the closing norm, by name."""

_RANK = {name: rank for rank, name in enumerate(MODULES)}
_UNKNOWN = _RANK["norm"] - 0.5
_NUMBER = re.compile(r"\d+")


def module_key(name: str) -> list[tuple[float, int, str]]:
    """Sorts the names of modules and tensors into the order of the model."""
    key: list[tuple[float, int, str]] = []
    for part in name.split("."):
        if _NUMBER.fullmatch(part):
            key.append((0, int(part), ""))
        else:
            rank = _RANK.get(part, _UNKNOWN)
            key.append((rank + 1, 0, part if rank == _UNKNOWN else ""))
    return key
