"""Calibration samples as padded batches, which all methods share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 1024
"""Tokens of a batch, padding included, where the model is small enough for it."""
TEXT = frozenset({"input_ids", "attention_mask"})


@dataclass(frozen=True)
class Batch:
    """Some samples.

    Attributes:
        inputs: what the model is called with.
        samples: their numbers in the calibration set, one a row.
        real: (rows, tokens) bool, False where there is padding.
        image: (rows, tokens) bool, True where a token stands for a piece of a picture; None where there are none.
    """

    inputs: dict[str, Any]
    samples: tuple[int, ...]
    real: Tensor
    image: Tensor | None = None

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.real.sum())

    def parts(self) -> dict[str, Tensor]:
        """Which tokens are scored apart: "text", and "image" where there are pictures; each (rows, tokens) bool."""
        if self.image is None:
            return {"text": self.real}
        return {"text": self.real & ~self.image, "image": self.real & self.image}


def make_batches(samples: Iterable[Mapping[str, Any]], *, tokens: int = TOKENS, image_token: int | None = None) -> list[Batch]:
    """Samples as batches: of text the shortest first, several in one; what has pictures stays alone.

    Args:
        samples: model inputs of one row each.
        tokens: of a batch at most, but one sample at least.
        image_token: the token that stands for a picture.
    """
    plain: list[tuple[int, Any]] = []
    alone: list[Batch] = []
    for number, sample in enumerate(samples):
        if set(sample) <= TEXT:
            plain.append((number, sample["input_ids"][0]))
            continue
        ids = sample["input_ids"]
        image = ids == image_token if image_token is not None else None
        real = sample["attention_mask"].bool() if "attention_mask" in sample else ids == ids
        alone.append(Batch(dict(sample), (number,), real, image if image is not None and bool(image.any()) else None))
    return [*(_padded(rows) for rows in _packed(plain, tokens)), *alone]


def _packed(rows: list[tuple[int, Any]], tokens: int) -> Iterator[list[tuple[int, Any]]]:
    batch: list[tuple[int, Any]] = []
    for row in sorted(rows, key=lambda row: len(row[1])):
        if batch and (len(batch) + 1) * len(row[1]) > tokens:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _padded(rows: list[tuple[int, Any]]) -> Batch:
    import torch

    width = max(len(ids) for _, ids in rows)
    inputs = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.bool)
    for place, (_, ids) in enumerate(rows):
        inputs[place, : len(ids)], real[place, : len(ids)] = ids, True
    fed = {"input_ids": inputs} | ({} if bool(real.all()) else {"attention_mask": real.long()})
    return Batch(fed, tuple(number for number, _ in rows), real)


def on_device(batch: Batch, device: Any, dtype: Any) -> Batch:
    """The batch on a device, floating-point inputs in the model's dtype."""
    moved = {
        key: value.to(device, dtype) if value.is_floating_point() else value.to(device) for key, value in batch.inputs.items()
    }
    image = None if batch.image is None else batch.image.to(device)
    return Batch(moved, batch.samples, batch.real.to(device), image)
