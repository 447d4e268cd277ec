"""What a format is, and what a folder of any of them is opened as.

Opening reads headers and descriptions only. Each layer is then read when it is asked for, so that a model never has to fit
into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from quantui.checkpoint.files import Tensor
from quantui.numerics.quantized import CacheOutline, CacheScales, Inputs, Outline, QuantizedLayer, Weights

if TYPE_CHECKING:
    import torch

__all__ = [
    "CacheOutline", "CacheScales", "Format", "Inputs", "LayerPart", "OpenFolder", "Outline", "QuantizedLayer",
    "TensorPart", "Weights",
]  # fmt: skip

GIB = 1024**3


@dataclass(frozen=True)
class TensorPart:
    """A tensor that quantization left alone: where it stands."""

    tensor: Tensor

    @property
    def name(self) -> str:
        """Its name in the model."""
        return self.tensor.name


@dataclass(frozen=True)
class LayerPart:
    """A quantized layer that is read when it is asked for.

    Attributes:
        outline: what is known of it without reading.
        load: reads it; with meta=True only shapes and dtypes, on the meta device.
        light: reads all but its codes, which stay on the meta device.
        stored: where the codes stand in a file one by one, a byte each; None where they are packed there.
        words: reads 4-bit codes as `pack.dense_words` packs them, flattened, so many rows at a time, each piece until the next
            is asked for; None where that takes unpacking them.
    """

    outline: Outline
    load: Callable[[bool], QuantizedLayer]
    light: Callable[[], QuantizedLayer] | None = None
    stored: Tensor | None = None
    words: Callable[[int], Iterator[torch.Tensor]] | None = None

    @property
    def name(self) -> str:
        """The name of its module."""
        return self.outline.name


@dataclass(frozen=True)
class OpenFolder:
    """A folder of quantized weights.

    Attributes:
        folder: where it is.
        format: the name of its format.
        config: config.json without what belongs to the format; {} where there is none.
        parts: quantized layers and untouched tensors, in the order of the model's modules.
        caches: scales of the K/V cache, by attention layer.
        dtype: of the float model, "bfloat16".
        extras: what else the format says of the whole model, by its own names.
    """

    folder: Path
    format: str
    config: dict[str, Any]
    parts: tuple[LayerPart | TensorPart, ...]
    caches: tuple[CacheScales, ...] = ()
    dtype: str = "float32"
    extras: dict[str, Any] = field(default_factory=dict)

    @property
    def layers(self) -> tuple[LayerPart, ...]:
        """The quantized layers."""
        return tuple(part for part in self.parts if isinstance(part, LayerPart))

    @property
    def tensors(self) -> tuple[TensorPart, ...]:
        """The untouched tensors."""
        return tuple(part for part in self.parts if isinstance(part, TensorPart))

    def read(self) -> Iterator[QuantizedLayer]:
        """Every quantized layer, one after another."""
        for part in self.layers:
            yield part.load(False)


class Format(Protocol):
    """One format: two directions over the same nouns, and what does not go into it."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        ...

    def opens(self, folder: Path) -> bool:
        """Whether a folder looks like one of this format; reads no weights."""
        ...

    def open(self, folder: Path) -> OpenFolder:
        """The folder, headers and descriptions read and checked against each other.

        Raises:
            CheckpointError: it is truncated, foreign, or its descriptions and tensors disagree (named).
        """
        ...

    def refusal(self, outline: Outline) -> str | None:
        """Why a layer cannot be held, or None if it can; needs no torch."""
        ...

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """Why scales of a K/V cache cannot be held, or None if they can."""
        ...

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """Writes into an empty folder, layer by layer; everything was asked of `refusal` before.

        Args:
            part_bytes: most bytes of tensors a file holds; None leaves it to the format.
        """
        ...
