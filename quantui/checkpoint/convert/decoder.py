"""Text decoders: the tensors of transformers' Llama, Qwen2, Qwen3 and Glm, and what InternLM2, InternLM and ChatGLM call them.

Sources: transformers/models/{llama,qwen2,qwen3,glm} of 5.17; modeling_internlm2.py and modeling_internlm.py of
internlm/internlm2-chat-7b and internlm-chat-7b; modeling_chatglm.py of THUDM/chatglm2-6b and chatglm3-6b.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantui.checkpoint.convert.layout import Layout, Shape
from quantui.checkpoint.inspect import whole


@dataclass(frozen=True)
class Decoder:
    """The sizes a decoder's tensors follow from.

    Attributes:
        bias: biases of q, k and v.
        out_bias: bias of o.
        head_norms: q_norm and k_norm of one head's width.
        tied: lm_head is the embedding.
    """

    vocab: int
    hidden: int
    intermediate: int
    blocks: int
    heads: int
    kv_heads: int
    head: int
    bias: bool = False
    out_bias: bool = False
    head_norms: bool = False
    tied: bool = False


def decoder_of(config: dict[str, Any]) -> Decoder:
    """The sizes in a native text config (llama, qwen2, qwen3)."""
    kind, hidden, heads = config.get("model_type"), whole(config, "hidden_size"), whole(config, "num_attention_heads")
    attention_bias = bool(config.get("attention_bias"))
    return Decoder(
        vocab=whole(config, "vocab_size"),
        hidden=hidden,
        intermediate=whole(config, "intermediate_size"),
        blocks=whole(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=whole(config, "num_key_value_heads") or heads,
        head=whole(config, "head_dim") or (128 if kind == "qwen3" else hidden // max(heads, 1)),
        bias=kind == "qwen2" or attention_bias,
        out_bias=kind != "qwen2" and attention_bias,
        head_norms=kind == "qwen3",
        tied=bool(config.get("tie_word_embeddings")),
    )


def plain(decoder: Decoder) -> Layout:
    """The same names on both sides: what Llama, Qwen2 and Qwen3 checkpoints hold."""
    made = Layout()
    for name, shape in _outside(decoder).items():
        made.same(name, name, shape)
    for block in range(decoder.blocks):
        for name, shape in _block(decoder).items():
            made.same(f"model.layers.{block}.{name}", f"model.layers.{block}.{name}", shape)
    return made


def internlm2(decoder: Decoder) -> Layout:
    """InternLM2 against Llama: wqkv holds, for each key-value head, its query heads, then its key, then its value."""
    made = Layout()
    names = {"model.embed_tokens": "model.tok_embeddings", "lm_head": "output"}
    for name, shape in _outside(decoder).items():
        stem, _, leaf = name.rpartition(".")
        made.same(f"{names.get(stem, stem)}.{leaf}", name, shape)
    inside = {
        "input_layernorm": "attention_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.up_proj": "feed_forward.w3", "mlp.down_proj": "feed_forward.w2",
    }  # fmt: skip
    queries = decoder.heads // decoder.kv_heads * decoder.head
    for block in range(decoder.blocks):
        prefix = f"model.layers.{block}."
        for name, shape in _block(decoder).items():
            stem, _, leaf = name.rpartition(".")
            if stem in inside:
                made.same(f"{prefix}{inside[stem]}.{leaf}", prefix + name, shape)
        for leaf, rest in _leaves(decoder):
            q, k, v = (f"{prefix}self_attn.{part}_proj.{leaf}" for part in "qkv")
            group = [(q, queries), (k, decoder.head), (v, decoder.head)]
            made.fused(f"{prefix}attention.wqkv.{leaf}", group * decoder.kv_heads, *rest)
    return made


def chatglm(decoder: Decoder, *, multi_query: bool) -> Layout:
    """ChatGLM2 and 3 against Glm: with multi-query attention all queries, then keys, then values; else the three by head."""
    made = Layout()
    encoder = "transformer.encoder."
    outside = {
        "model.embed_tokens": "transformer.embedding.word_embeddings", "model.norm": f"{encoder}final_layernorm",
        "lm_head": "transformer.output_layer",
    }  # fmt: skip
    for name, shape in _outside(decoder).items():
        stem, _, leaf = name.rpartition(".")
        made.same(f"{outside[stem]}.{leaf}", name, shape)
    keys, head = decoder.kv_heads * decoder.head, decoder.head
    inside: dict[str, tuple[str, Shape]] = {
        "input_layernorm": ("input_layernorm", (decoder.hidden,)),
        "post_attention_layernorm": ("post_attention_layernorm", (decoder.hidden,)),
        "self_attention.dense": ("self_attn.o_proj", (decoder.hidden, decoder.heads * head)),
        "mlp.dense_h_to_4h": ("mlp.gate_up_proj", (2 * decoder.intermediate, decoder.hidden)),
        "mlp.dense_4h_to_h": ("mlp.down_proj", (decoder.hidden, decoder.intermediate)),
    }
    for block in range(decoder.blocks):
        there, here = f"{encoder}layers.{block}.", f"model.layers.{block}."
        for original, (native, shape) in inside.items():
            made.same(f"{there}{original}.weight", f"{here}{native}.weight", shape)
        for leaf, rest in _leaves(decoder):
            q, k, v = (f"{here}self_attn.{part}_proj.{leaf}" for part in "qkv")
            parts = [(q, decoder.heads * head), (k, keys), (v, keys)]
            if not multi_query:
                parts = [(q, head), (k, head), (v, head)] * decoder.heads
            made.fused(f"{there}self_attention.query_key_value.{leaf}", parts, *rest)
    return made


def _outside(decoder: Decoder) -> dict[str, Shape]:
    """Native names of what is in no block."""
    table = (decoder.vocab, decoder.hidden)
    found: dict[str, Shape] = {"model.embed_tokens.weight": table, "model.norm.weight": (decoder.hidden,)}
    return found if decoder.tied else {**found, "lm_head.weight": table}


def _block(decoder: Decoder) -> dict[str, Shape]:
    """Native names inside one block of Llama, Qwen2 or Qwen3."""
    hidden, wide = decoder.hidden, decoder.intermediate
    queries, keys = decoder.heads * decoder.head, decoder.kv_heads * decoder.head
    found: dict[str, Shape] = {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        found[f"self_attn.{name}_proj.weight"] = (rows, hidden)
        if decoder.bias:
            found[f"self_attn.{name}_proj.bias"] = (rows,)
    found["self_attn.o_proj.weight"] = (hidden, queries)
    if decoder.out_bias:
        found["self_attn.o_proj.bias"] = (hidden,)
    if decoder.head_norms:
        found |= {"self_attn.q_norm.weight": (decoder.head,), "self_attn.k_norm.weight": (decoder.head,)}
    found |= {"mlp.gate_proj.weight": (wide, hidden), "mlp.up_proj.weight": (wide, hidden)}
    return found | {"mlp.down_proj.weight": (hidden, wide)}


def _leaves(decoder: Decoder) -> list[tuple[str, Shape]]:
    """The parameters of a fused projection, each with its axes behind the first."""
    return [("weight", (decoder.hidden,)), ("bias", ())] if decoder.bias else [("weight", (decoder.hidden,))]
