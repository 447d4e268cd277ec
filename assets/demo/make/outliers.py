"""Outlier channels like those of real language models, put in without changing what the model computes.

A channel is made louder where it is written and its readers are made quieter by the same factor. Factors are powers of
two, so that in binary floating point nothing is rounded and the logits stay the same bit for bit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

CHANNELS = 3  # a site

# "attention" and "mlp" are read behind a norm, "down" behind up_proj.
Place = Literal["attention", "mlp", "down"]


@dataclass(frozen=True)
class Site:
    """Where channels are made loud.

    attention: the input of q_proj, k_proj and v_proj, which a norm writes; mlp: the input of gate_proj and up_proj, which
    a norm writes; down: the input of down_proj, which up_proj writes.
    """

    layer: int
    place: Place
    factor: int
    skipped: int = 0  # so many of the loudest channels stay as they are: tunes the strength between two powers of two

    def __post_init__(self) -> None:
        """Refuse a factor that would round."""
        if self.factor < 1 or self.factor & (self.factor - 1):
            where = f"layer {self.layer} {self.place}"
            raise ValueError(f"factor {self.factor} at {where} is not a power of two: logits would be rounded")


def writer_and_readers(layer: Any, place: Place) -> tuple[Tensor, list[Tensor]]:
    """The weight whose first axis writes the channels, and the weights whose last axis reads them."""
    attention, mlp = layer.self_attn, layer.mlp
    if place == "attention":
        return layer.input_layernorm.weight, [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    if place == "mlp":
        return layer.post_attention_layernorm.weight, [mlp.gate_proj.weight, mlp.up_proj.weight]
    return mlp.up_proj.weight, [mlp.down_proj.weight]


def loud_channels(writer: Tensor, readers: list[Tensor], skipped: int) -> Tensor:
    """The channels that already matter most, by written times read norm, less the first few."""
    written = writer.abs() if writer.dim() == 1 else writer.norm(dim=1)
    read = torch.stack([reader.norm(dim=0) for reader in readers]).sum(0)
    return torch.sort(written * read, descending=True, stable=True).indices[skipped : skipped + CHANNELS]


@torch.no_grad()
def put_in(layers: Any, sites: Iterable[Site]) -> None:
    """Rescale the sites of a decoder's layers in place; float logits do not change."""
    for site in sites:
        writer, readers = writer_and_readers(layers[site.layer], site.place)
        channels = loud_channels(writer, readers, site.skipped)
        writer[channels] *= site.factor
        for reader in readers:
            reader[:, channels] /= site.factor
