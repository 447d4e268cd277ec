"""How many tokens samples come to, before a job counts them. No torch."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quantui.calibration.preview import many_ids, open_seer
from quantui.calibration.sample import Sample
from quantui.calibration.schema import Calibration
from quantui.calibration.template import read_template
from quantui.calibration.words import stands_alone
from quantui.checkpoint.files import Checkpoint, read_header
from quantui.checkpoint.inspect import whole
from quantui.errors import CheckpointError

CHARACTERS = 1 << 17
"""How much text is tokenized, about 100 ms of it; the tokens of the rest are forecast from that."""

MESSAGE_TOKENS = 6
"""What a chat template adds to a message, roughly."""


class Count(NamedTuple):
    """Tokens of all samples after the cut.

    Attributes:
        tokens: how many.
        exact: False where that is an estimate.
    """

    tokens: int
    exact: bool


def count_tokens(
    checkpoint: Checkpoint, samples: Sequence[Sample], calibration: Calibration, roots: Sequence[Path] = ()
) -> Count:
    """Tokens as the model will get them, where its tokenizer and template are to be had without transformers.

    Args:
        samples: as chosen, not yet split or packed.

    Raises:
        CalibrationError: the template refuses a sample, or a picture cannot be placed.
        CheckpointError: the tokenizer cannot be read.
    """
    some = list(_first(samples))
    lengths, exact = _lengths(checkpoint, some, calibration, roots)
    cut = [
        length if _stored(sample) else min(length, calibration.max_tokens) for length, sample in zip(lengths, some, strict=True)
    ]
    whole_set = len(some) == len(samples)
    return Count(round(sum(cut) * len(samples) / max(len(some), 1)), exact and whole_set and not calibration.reshapes)


def _first(samples: Sequence[Sample]) -> Iterator[Sample]:
    left = CHARACTERS
    for sample in samples:
        yield sample
        left -= len(sample.plain)
        if left <= 0:
            return


def _lengths(
    checkpoint: Checkpoint, samples: Sequence[Sample], calibration: Calibration, roots: Sequence[Path]
) -> tuple[list[int], bool]:
    """Tokens of each before the cut, and whether that is what the model gets."""
    if all(map(_stored, samples)):
        return [_stored_length(sample) for sample in samples], True
    if stands_alone(checkpoint.folder):
        seer = open_seer(checkpoint.folder, read_template(calibration, roots))
        if seer.tiler is not None or not any(sample.image for sample in samples):
            return [len(ids) for ids in many_ids(seer, samples)], True
    file = checkpoint.folder / "tokenizer.json"
    if not file.is_file():
        return [calibration.max_tokens] * len(samples), False
    encodings = _tokenizer(file, file.stat().st_mtime_ns).encode_batch([one.plain for one in samples], add_special_tokens=False)
    tile = whole(checkpoint.config, "image_seq_length") or 256
    return [
        _stored_length(sample) or len(encoding.ids) + MESSAGE_TOKENS * len(sample.messages) + (tile if sample.image else 0)
        for sample, encoding in zip(samples, encodings, strict=True)
    ], False


@functools.lru_cache(maxsize=2)
def _tokenizer(file: Path, _modified: int) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # it raises nothing more special
        what = f"its tokenizer cannot be read ({error})"
        raise CheckpointError(what, where=str(file), todo="copy the tokenizer files of the original model again") from error


def _stored(sample: Sample) -> bool:
    return sample.ids is not None or sample.tokens is not None


def _stored_length(sample: Sample) -> int:
    if sample.ids is not None:
        return len(sample.ids)
    return read_header(sample.tokens[0])["input_ids"].shape[1] if sample.tokens else 0
