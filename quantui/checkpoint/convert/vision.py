"""InternViT and the projector: the names of OpenGVLab's code against those of transformers' InternVL.

Sources: modeling_intern_vit.py and modeling_internvl_chat.py of OpenGVLab/InternVL; transformers/models/internvl of 5.17.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantui.checkpoint.convert.layout import Layout
from quantui.checkpoint.inspect import whole


@dataclass(frozen=True)
class Vision:
    """The sizes the tensors of an InternViT follow from; `patches` are those of one tile along each side."""

    hidden: int
    intermediate: int
    blocks: int
    patches: int
    patch: int
    channels: int
    bias: bool
    head_norms: bool
    norm_bias: bool


def vision_of(config: dict[str, Any]) -> Vision:
    """The sizes in an original vision config."""
    patch = whole(config, "patch_size") or 14
    return Vision(
        hidden=whole(config, "hidden_size"),
        intermediate=whole(config, "intermediate_size"),
        blocks=whole(config, "num_hidden_layers"),
        patches=(whole(config, "image_size") or 224) // patch,
        patch=patch,
        channels=whole(config, "num_channels") or 3,
        bias=bool(config.get("qkv_bias", False)),
        head_norms=bool(config.get("qk_normalization", True)),
        norm_bias=config.get("norm_type", "rms_norm") == "layer_norm",
    )


def vision_layout(vision: Vision) -> Layout:
    """`vision_model.` against `vision_tower.`, without these prefixes."""
    made, hidden = Layout(), vision.hidden
    there, here = "embeddings.", "embeddings."
    made.same(f"{there}class_embedding", f"{here}cls_token", (1, 1, hidden))
    made.same(f"{there}position_embedding", f"{here}position_embeddings", (1, vision.patches**2 + 1, hidden))
    kernel = (hidden, vision.channels, vision.patch, vision.patch)
    made.same(f"{there}patch_embedding.weight", f"{here}patch_embeddings.projection.weight", kernel)
    made.same(f"{there}patch_embedding.bias", f"{here}patch_embeddings.projection.bias", (hidden,))
    for block in range(vision.blocks):
        made.add(_block(vision), f"encoder.layers.{block}.", f"encoder.layer.{block}.")
    return made


def _block(vision: Vision) -> Layout:
    made, hidden, wide = Layout(), vision.hidden, vision.intermediate
    for number in "12":
        made.same(f"ls{number}", f"lambda_{number}", (hidden,))
    for original, native in (("norm1", "layernorm_before"), ("norm2", "layernorm_after")):
        for leaf in ("weight", "bias") if vision.norm_bias else ("weight",):
            made.same(f"{original}.{leaf}", f"{native}.{leaf}", (hidden,))
    made.fused("attn.qkv.weight", [(f"attention.{part}_proj.weight", hidden) for part in "qkv"], hidden)
    if vision.bias:
        made.fused("attn.qkv.bias", [(f"attention.{part}_proj.bias", hidden) for part in "qkv"])
    if vision.head_norms:
        for part in "qk":
            made.same(f"attn.{part}_norm.weight", f"attention.{part}_norm.weight", (hidden,))
    made.same("attn.proj.weight", "attention.projection_layer.weight", (hidden, hidden))
    made.same("attn.proj.bias", "attention.projection_layer.bias", (hidden,))
    for name, rows, columns in (("fc1", wide, hidden), ("fc2", hidden, wide)):
        made.same(f"mlp.{name}.weight", f"mlp.{name}.weight", (rows, columns))
        made.same(f"mlp.{name}.bias", f"mlp.{name}.bias", (rows,))
    return made


def projector_layout(vision_hidden: int, text_hidden: int, downsample_ratio: float) -> Layout:
    """`mlp1.` against `multi_modal_projector.`, without these prefixes."""
    made = Layout()
    wide = vision_hidden * round(1 / downsample_ratio) ** 2
    for leaf in ("weight", "bias"):
        made.same(f"0.{leaf}", f"layer_norm.{leaf}", (wide,))
    for original, native, columns in (("1", "linear_1", wide), ("3", "linear_2", text_hidden)):
        made.same(f"{original}.weight", f"{native}.weight", (text_hidden, columns))
        made.same(f"{original}.bias", f"{native}.bias", (text_hidden,))
    return made
