"""InternVL in the layout of its GitHub repository: InternViT, the projector and a language model. Imports torch.

Source: OpenGVLab/InternVL, internvl_chat/internvl/model/internvl_chat/modeling_intern_vit.py (1fbcd6a) and
modeling_internvl_chat.py (0328579).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from quantui.checkpoint.convert.originals import language, layers
from quantui.checkpoint.convert.originals.known import VISION_DEFAULTS
from quantui.checkpoint.convert.originals.layers import Read
from quantui.errors import CheckpointError

PROJECTOR_EPS = 1e-5
"""Of the projector's layer norm: torch's default."""


def logits(
    config: dict[str, Any], read: Read, input_ids: Tensor, pixel_values: Tensor | None, image_token_id: int | None
) -> Tensor:
    """(batch, length) ids and (tiles, 3, height, width) pictures -> (batch, length, vocabulary) float32.

    Raises:
        CheckpointError: the ids have room for more or for fewer pieces of picture than there are.
    """

    def tensor(name: str) -> Tensor:
        return read(f"language_model.{name}")

    hidden = language.embed(config["llm_config"], tensor, input_ids)
    if pixel_values is not None:
        places = input_ids == image_token_id
        pieces = project(config, read, see(config, read, pixel_values)).flatten(0, 1)
        if int(places.sum()) != len(pieces):
            what = f"the ids have {int(places.sum())} image tokens where the pictures make {len(pieces)}"
            raise CheckpointError(what, todo="repeat the image token once for each piece of picture")
        hidden[places] = pieces
    return language.from_embeddings(config["llm_config"], tensor, hidden)


def see(config: dict[str, Any], read: Read, pixel_values: Tensor) -> Tensor:
    """What InternViT makes of pictures, up to `select_layer`.

    Args:
        config: config.json of the whole model.
        read: gives a tensor by its original name.
        pixel_values: (tiles, 3, height, width).

    Returns:
        (tiles, 1 + patches, channels) float32; the first row is the class token.
    """
    options = VISION_DEFAULTS | config["vision_config"]
    hidden = _embed(options, read, pixel_values)
    # hidden state 0 is the embedding, and -1 is what the last layer gives
    select, count = config.get("select_layer", -1), options["num_hidden_layers"]
    for index in range(select if select >= 0 else count + 1 + select):
        hidden = _layer(options, read, f"vision_model.encoder.layers.{index}.", hidden)
    return hidden


def project(config: dict[str, Any], read: Read, seen: Tensor) -> Tensor:
    """(tiles, 1 + patches, channels) -> (tiles, pieces, channels of the language model), without the class token."""
    side = math.isqrt(seen.shape[1] - 1)
    x = shuffle(seen[:, 1:].unflatten(1, (side, side)), config.get("downsample_ratio", 0.5), config.get("ps_version", "v1"))
    x = layers.norm(read, "mlp1.0", x.flatten(1, 2), PROJECTOR_EPS, rms=False)
    x = functional.gelu(layers.linear(read, "mlp1.1", x, bias=True))
    return layers.linear(read, "mlp1.3", x, bias=True)


def shuffle(x: Tensor, ratio: float, version: str) -> Tensor:
    """Puts neighbouring patches into one another's channels; version v1 leaves rows and columns exchanged.

    Args:
        x: (tiles, rows, columns, channels).
        ratio: how much shorter each side becomes; 0.5 makes four patches one.
        version: v1 or v2.

    Returns:
        (tiles, rows * ratio, columns * ratio, channels / ratio^2).
    """
    step = round(1 / ratio)
    # channels of a piece: row within it, then column within it, then the patch's own
    x = x.unflatten(2, (-1, step)).unflatten(1, (-1, step))  # (tiles, rows, step, columns, step, channels)
    x = x.permute(0, 1, 3, 2, 4, 5).flatten(3)
    return x.transpose(1, 2) if version == "v1" else x


def _embed(options: dict[str, Any], read: Read, pixel_values: Tensor) -> Tensor:
    """(tiles, 3, height, width) -> (tiles, 1 + patches, channels)."""
    name = "vision_model.embeddings."
    weight, bias = read(f"{name}patch_embedding.weight").float(), read(f"{name}patch_embedding.bias").float()
    patches = functional.conv2d(pixel_values.float(), weight, bias, stride=options["patch_size"])
    rows, columns = patches.shape[2:]
    first = read(f"{name}class_embedding").float().expand(len(patches), 1, -1)
    table = read(f"{name}position_embedding").float()
    if table.shape[1] - 1 != rows * columns or rows != columns:
        side = math.isqrt(table.shape[1] - 1)
        grid = table[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = functional.interpolate(grid, size=(rows, columns), mode="bicubic", align_corners=False)
        table = torch.cat([table[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
    return torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + table


def _layer(options: dict[str, Any], read: Read, prefix: str, hidden: Tensor) -> Tensor:
    """One layer over hidden (tiles, 1 + patches, channels)."""

    def tensor(name: str) -> Tensor:
        return read(prefix + name)

    eps, rms = float(options["layer_norm_eps"]), options["norm_type"] == "rms_norm"
    x = layers.norm(tensor, "norm1", hidden, eps, rms=rms)
    parts = layers.linear(tensor, "attn.qkv", x, bias=options["qkv_bias"]).chunk(3, dim=-1)
    query, key, value = parts
    if options["qk_normalization"]:
        # over all heads together, unlike the norms of Qwen3
        query = layers.norm(tensor, "attn.q_norm", query, eps, rms=True)
        key = layers.norm(tensor, "attn.k_norm", key, eps, rms=True)
    query, key, value = (part.unflatten(-1, (options["num_attention_heads"], -1)) for part in (query, key, value))
    x = layers.linear(tensor, "attn.proj", layers.attend(query, key, value, causal=False), bias=True)
    hidden = hidden + x * tensor("ls1").float()
    x = layers.norm(tensor, "norm2", hidden, eps, rms=rms)
    x = layers.linear(tensor, "mlp.fc2", functional.gelu(layers.linear(tensor, "mlp.fc1", x, bias=True)), bias=True)
    return hidden + x * tensor("ls2").float()
