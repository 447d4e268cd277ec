"""ChatGLM2, ChatGLM3 and GLM-4 under their original names. Imports torch.

Source: THUDM/chatglm2-6b, chatglm3-6b and glm-4-9b, modeling_chatglm.py and configuration_chatglm.py. The options that scale
scores by the layer number and that soften them in float32 leave the result as it is, so they are not read.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional

from quantui.checkpoint.convert.originals import layers, rotary
from quantui.checkpoint.convert.originals.known import Rope, ratio_scales
from quantui.checkpoint.convert.originals.layers import Read

DEFAULTS = {
    "num_layers": 28, "hidden_size": 4096, "ffn_hidden_size": 13696, "kv_channels": 128, "num_attention_heads": 32,
    "layernorm_epsilon": 1e-5, "rmsnorm": True, "apply_residual_connection_post_layernorm": False, "post_layer_norm": True,
    "add_bias_linear": False, "add_qkv_bias": False, "multi_query_attention": False, "multi_query_group_num": 1,
    "rope_ratio": 1,
}  # fmt: skip
"""What ChatGLMConfig fills in."""


def logits(config: dict[str, Any], read: Read, input_ids: Tensor) -> Tensor:
    """(batch, length) int64 -> (batch, length, vocabulary) float32."""
    options = DEFAULTS | config
    hidden = layers.embed(read, "transformer.embedding.word_embeddings.weight", input_ids)
    turn = _angles(options, input_ids.shape[1])
    for index in range(options["num_layers"]):
        hidden = _layer(options, read, f"transformer.encoder.layers.{index}.", hidden, turn)
    if options["post_layer_norm"]:
        hidden = _norm(options, read, "transformer.encoder.final_layernorm", hidden)
    return layers.head(read, "transformer.output_layer.weight", hidden)


def _angles(options: dict[str, Any], length: int) -> Tensor:
    """(length, width / 4): half of each head is turned, two channels for each angle."""
    ratio = float(options["rope_ratio"])
    theta = 10000.0 * ratio if ratio_scales(options) == "base" else 10000.0
    turn, _ = rotary.angles(Rope("default", theta, length, {}), options["kv_channels"] // 2, length)
    return turn / ratio if ratio_scales(options) == "positions" else turn


def _norm(options: dict[str, Any], read: Read, name: str, x: Tensor) -> Tensor:
    return layers.norm(read, name, x, float(options["layernorm_epsilon"]), rms=options["rmsnorm"])


def _layer(options: dict[str, Any], read: Read, prefix: str, hidden: Tensor, turn: Tensor) -> Tensor:
    """One layer over hidden (batch, length, channels)."""

    def tensor(name: str) -> Tensor:
        return read(prefix + name)

    after, bias = options["apply_residual_connection_post_layernorm"], options["add_bias_linear"]
    x = _norm(options, tensor, "input_layernorm", hidden)
    query, key, value = _heads(options, tensor, x)
    attended = layers.attend(rotary.turn_pairs(query, turn), rotary.turn_pairs(key, turn), value, causal=True)
    hidden = (x if after else hidden) + layers.linear(tensor, "self_attention.dense", attended, bias=bias)
    x = _norm(options, tensor, "post_attention_layernorm", hidden)
    gate, up = layers.linear(tensor, "mlp.dense_h_to_4h", x, bias=bias).chunk(2, dim=-1)
    return (x if after else hidden) + layers.linear(tensor, "mlp.dense_4h_to_h", functional.silu(gate) * up, bias=bias)


def _heads(options: dict[str, Any], tensor: Read, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query (batch, length, heads, width), key and value (batch, length, shared, width) of x (batch, length, channels)."""
    heads, width = options["num_attention_heads"], options["kv_channels"]
    fused = layers.linear(
        tensor, "self_attention.query_key_value", x, bias=options["add_bias_linear"] or options["add_qkv_bias"]
    ).unflatten(-1, (-1, width))
    if options["multi_query_attention"]:
        shared = options["multi_query_group_num"]
        query, key, value = fused.split([heads, shared, shared], dim=2)
        return query, key, value
    # without sharing, each head's query, key and value lie together
    query, key, value = fused.unflatten(2, (heads, 3)).unbind(3)
    return query, key, value
