"""The samples of a calibration file on their way into a model, and what is known of them afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.calibration.arrange import arrange
from quantui.calibration.batches import make_loader
from quantui.calibration.render import render, text_ids
from quantui.calibration.sample import Sample
from quantui.calibration.schema import Calibration
from quantui.calibration.sources import Chosen, Notes, choose_samples, draw
from quantui.calibration.template import has_template, read_template, with_template
from quantui.calibration.token_hash import TokenHash

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader

NO_TEMPLATE = 'the model has no chat template: chats are given to it as "role: content" lines'
WHOLE = 1 << 60
"""Tokens that no sample has."""


class Feed:
    """Chosen samples; `settle` makes them those that are used, `loader` renders them one at a time."""

    def __init__(self, calibration: Calibration | None, roots: Sequence[Path] = ()) -> None:
        """Chooses the samples; without a calibration there are none.

        Raises:
            CalibrationError: a source is missing, empty or malformed.
            AccessError: it lies outside the roots.
        """
        chosen = choose_samples(calibration, roots) if calibration else Chosen([], [])
        self.samples, self.notes = chosen.samples, chosen.notes
        self.tokens: dict[int, int] = {}
        self.hash = TokenHash()
        self._calibration, self._roots = calibration, roots
        self._processor: Any = None

    @property
    def needs_words(self) -> bool:
        """Whether a tokenizer is needed: not all samples are token ids as they are."""
        return any(sample.tokens is None and sample.ids is None for sample in self.samples)

    def settle(self, processor: Any) -> None:
        """Puts the file's own template on a copy of the processor and splits, drops or packs long samples, where it says so.

        Raises:
            CalibrationError: nothing is left, or the template refuses a sample.
        """
        if self._calibration is None:
            return
        self._processor = with_template(processor, read_template(self._calibration, self._roots))
        tokenizer = getattr(self._processor, "tokenizer", self._processor)
        if self._calibration.reshapes:
            notes = Notes()
            stream = draw(self._calibration, self._roots, notes, ahead=self._calibration.samples)
            end = getattr(tokenizer, "eos_token_id", None)
            self.samples = arrange(stream, self._ids, self._calibration, end=end, note=notes.texts.append)
            self.notes = notes.all()
        if not has_template(tokenizer) and any(sample.messages for sample in self.samples):
            self.notes = [*self.notes, NO_TEMPLATE]

    def loader(self, dtype: torch.dtype | None = None) -> DataLoader[Any]:
        """The samples as batches of one; their tokens are counted and hashed as they go by."""
        assert self._calibration is not None
        return make_loader(
            self.samples,
            self._processor,
            self._calibration.max_tokens,
            dtype=dtype,
            seen=self.tokens.__setitem__,
            hashed=self.hash,
        )

    def first(self, dtype: torch.dtype | None = None) -> dict[str, Any]:
        """The inputs of the first sample, uncounted."""
        assert self._calibration is not None
        return render(self.samples[0], self._processor, self._calibration.max_tokens, dtype=dtype)

    def facts(self) -> dict[str, Any]:
        """What a result says of it: samples and tokens used, and the hash of all token ids."""
        return {
            "calibration_samples": len(self.tokens),
            "calibration_tokens": sum(self.tokens.values()),
            "token_hash": self.hash.hexdigest() if self.hash else None,
        }

    def _ids(self, sample: Sample) -> list[int]:
        if sample.image is not None:
            found: list[int] = render(sample, self._processor, WHOLE)["input_ids"][0].tolist()
            return found
        return text_ids(sample, getattr(self._processor, "tokenizer", self._processor))
