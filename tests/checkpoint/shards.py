"""Model folders made of headers written by hand: no torch, and no disk space, since the data is a hole in the file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from quantui.checkpoint.files import ITEM_BITS

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Tensor name to (dtype as safetensors writes it, shape)."""

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
}


def entries(tensors: Shapes) -> dict[str, Any]:
    """The header that these tensors have, one after the other."""
    header: dict[str, Any] = {}
    start = 0
    for name, (dtype, shape) in tensors.items():
        stop = start + prod(shape) * ITEM_BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    return header


def write_header(file: Path, header: Any, data: int = 0) -> Path:
    """A safetensors file of any header at all, with `data` bytes of zeros behind it."""
    body = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(body)) + body)
    with file.open("r+b") as opened:
        opened.truncate(8 + len(body) + data)
    return file


def write_shard(file: Path, tensors: Shapes) -> Path:
    """A whole safetensors file of zeros."""
    header = entries(tensors)
    return write_header(file, header, max((entry["data_offsets"][1] for entry in header.values()), default=0))


def write_config(folder: Path, config: Mapping[str, Any] = LLAMA) -> Path:
    """A model folder that holds only its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_index(folder: Path, shards: Mapping[str, Shapes]) -> Path:
    """Shards of a model folder and the index that names them; returns the index."""
    for name, tensors in shards.items():
        write_shard(folder / name, tensors)
    names = {tensor: shard for shard, tensors in shards.items() for tensor in tensors}
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": names}))
    return file


def llama_tensors(config: Mapping[str, Any] = LLAMA, *, tied: bool = False) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a Llama checkpoint of this config, in bf16."""
    hidden, inner, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = hidden * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(config["num_hidden_layers"]):
        shapes |= {f"model.layers.{i}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")}
        attention = {"q": (hidden, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, hidden)}
        shapes |= {f"model.layers.{i}.self_attn.{name}_proj.weight": shape for name, shape in attention.items()}
        shapes |= {f"model.layers.{i}.mlp.{name}_proj.weight": (inner, hidden) for name in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (hidden, inner)
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    return {name: ("BF16", shape) for name, shape in shapes.items()}


def write_llama(folder: Path, **changes: Any) -> Path:
    """A Llama folder of headers only; `changes` go into its config."""
    config = {**LLAMA, **changes}
    write_config(folder, config)
    write_shard(folder / "model.safetensors", llama_tensors(config))
    return folder
