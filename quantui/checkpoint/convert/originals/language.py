"""Llama, Qwen2, Qwen3, InternLM and InternLM2 under their original names. Imports torch.

Source: huggingface/transformers 4.46, models/llama, qwen2 and qwen3; InternLM/InternLM, modeling_internlm.py;
OpenGVLab/InternVL 0c8993d, internvl_chat/internvl/model/internlm2/modeling_internlm2.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional

from quantui.checkpoint.convert.originals import layers, rotary
from quantui.checkpoint.convert.originals.known import kind_of, rope_of
from quantui.checkpoint.convert.originals.layers import Read
from quantui.errors import CheckpointError


@dataclass(frozen=True)
class Names:
    """What the tensors of a layer and around the layers are called; `fused` is empty when q, k and v are apart."""

    embed: str = "model.embed_tokens.weight"
    before_attention: str = "input_layernorm"
    parts: tuple[str, str, str] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    fused: str = ""
    out: str = "self_attn.o_proj"
    before_mlp: str = "post_attention_layernorm"
    gate: str = "mlp.gate_proj"
    up: str = "mlp.up_proj"
    down: str = "mlp.down_proj"
    head: str = "lm_head.weight"


NAMES = {
    "internlm2": Names(
        embed="model.tok_embeddings.weight",
        before_attention="attention_norm",
        fused="attention.wqkv",
        out="attention.wo",
        before_mlp="ffn_norm",
        gate="feed_forward.w1",
        up="feed_forward.w3",
        down="feed_forward.w2",
        head="output.weight",
    )
}
"""By architecture, where it is not Llama's."""

BIASES: dict[str, tuple[bool | str, bool | str, bool]] = {
    "llama": ("attention_bias", "attention_bias", False),
    "qwen2": (True, False, False),
    "qwen3": ("attention_bias", "attention_bias", False),
    "internlm": ("bias", "bias", True),
    "internlm2": ("bias", "bias", True),
}
"""Whether q, k, v and whether the output have a bias: fixed, or a key of the config with what a missing key means."""


@dataclass(frozen=True)
class Shape:
    """The sizes and options of one language model."""

    names: Names
    heads: int
    shared: int
    width: int
    eps: float
    in_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_norm: bool


def logits(config: dict[str, Any], read: Read, input_ids: Tensor) -> Tensor:
    """(batch, length) int64 -> (batch, length, vocabulary) float32."""
    return from_embeddings(config, read, embed(config, read, input_ids))


def embed(config: dict[str, Any], read: Read, input_ids: Tensor) -> Tensor:
    """(batch, length) int64 -> (batch, length, channels) float32."""
    return layers.embed(read, _names(config).embed, input_ids)


def from_embeddings(config: dict[str, Any], read: Read, hidden: Tensor) -> Tensor:
    """The layers and the head over hidden (batch, length, channels) float32; returns (batch, length, vocabulary).

    Raises:
        CheckpointError: there are more tokens than a sliding window holds.
    """
    shape, length = _shape(config), hidden.shape[1]
    if config.get("use_sliding_window") and length > (config.get("sliding_window") or length):
        raise CheckpointError("more tokens than the sliding window holds are not known here", todo="compare fewer tokens")
    turn, scale = rotary.angles(rope_of(config), shape.width, length)
    for index in range(config["num_hidden_layers"]):
        hidden = _layer(shape, read, f"model.layers.{index}.", hidden, turn, scale)
    hidden = layers.norm(read, "model.norm", hidden, shape.eps, rms=True)
    return layers.head(read, shape.names.embed if config.get("tie_word_embeddings") else shape.names.head, hidden)


def _names(config: dict[str, Any]) -> Names:
    return NAMES.get(kind_of(config), Names())


def _shape(config: dict[str, Any]) -> Shape:
    kind, heads = kind_of(config), config["num_attention_heads"]
    in_bias, out_bias, missing = BIASES[kind]
    said = [bias if isinstance(bias, bool) else bool(config.get(bias, missing)) for bias in (in_bias, out_bias)]
    # Qwen3's head is 128 wide unless it says otherwise, whatever hidden_size and the number of heads come to
    width = config.get("head_dim") or (128 if kind == "qwen3" else config["hidden_size"] // heads)
    return Shape(
        names=_names(config),
        heads=heads,
        shared=config.get("num_key_value_heads") or heads,
        width=width,
        eps=float(config.get("rms_norm_eps", 1e-6)),
        in_bias=said[0],
        out_bias=said[1],
        mlp_bias=kind == "llama" and bool(config.get("mlp_bias", False)),
        head_norm=kind == "qwen3",
    )


def _layer(shape: Shape, read: Read, prefix: str, hidden: Tensor, turn: Tensor, scale: float) -> Tensor:
    """One layer over hidden (batch, length, channels)."""

    def tensor(name: str) -> Tensor:
        return read(prefix + name)

    names = shape.names
    x = layers.norm(tensor, names.before_attention, hidden, shape.eps, rms=True)
    query, key, value = _heads(shape, tensor, x)
    query, key = (rotary.turn_halves(part, turn, scale) for part in (query, key))
    x = layers.attend(query, key, value, causal=True)
    hidden = hidden + layers.linear(tensor, names.out, x, bias=shape.out_bias)
    x = layers.norm(tensor, names.before_mlp, hidden, shape.eps, rms=True)
    gate = functional.silu(layers.linear(tensor, names.gate, x, bias=shape.mlp_bias))
    x = gate * layers.linear(tensor, names.up, x, bias=shape.mlp_bias)
    return hidden + layers.linear(tensor, names.down, x, bias=shape.mlp_bias)


def _heads(shape: Shape, tensor: Read, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query (batch, length, heads, width), key and value (batch, length, shared, width) of x (batch, length, channels)."""
    if shape.names.fused:
        # each key and value head lies behind the query heads that share it
        each = shape.heads // shape.shared
        blocks = layers.linear(tensor, shape.names.fused, x, bias=shape.in_bias)
        blocks = blocks.unflatten(-1, (shape.shared, each + 2, shape.width))  # (batch, length, shared, each + 2, width)
        return blocks[..., :each, :].flatten(2, 3), blocks[..., -2, :], blocks[..., -1, :]
    query, key, value = (
        layers.linear(tensor, name, x, bias=shape.in_bias).unflatten(-1, (-1, shape.width)) for name in shape.names.parts
    )
    if shape.head_norm:
        query = layers.norm(tensor, "self_attn.q_norm", query, shape.eps, rms=True)
        key = layers.norm(tensor, "self_attn.k_norm", key, shape.eps, rms=True)
    return query, key, value
