"""What a set of samples is as a whole: how long, how much is cut, in which languages, how often the same. No torch."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantui.calibration.arrange import arrange
from quantui.calibration.languages import language_of, script_counts, shares
from quantui.calibration.preview import Seer, ids_of, kind_of, many_ids, tiles_of
from quantui.calibration.sample import Sample
from quantui.calibration.schema import Calibration
from quantui.calibration.sources import Chosen, Notes, choose_samples, draw
from quantui.calibration.token_hash import token_hash
from quantui.errors import CalibrationError

BINS = 24
"""Bars of the histogram of lengths."""


@dataclass(frozen=True)
class Histogram:
    """How many samples have how many tokens; the cut falls between two bars.

    Attributes:
        edges: of the bars, one more than there are bars; a bar counts edges[i] <= tokens < edges[i + 1].
        counts: samples in each bar.
        cut: max_tokens, where the line is drawn.
    """

    edges: tuple[int, ...]
    counts: tuple[int, ...]
    cut: int


@dataclass(frozen=True)
class Survey:
    """A set of samples in numbers; padding is in none of them, since samples go one by one and are never padded.

    Attributes:
        samples: how many can be used.
        asked: how many the file asks for.
        kinds: how many are chat, text, picture or tokens.
        sources: share of each source, by its place in the file.
        lengths: tokens of each sample before the cut.
        kept: tokens of each after it.
        cut: samples that lose something.
        empty: samples of which nothing is left.
        duplicates: samples that are there already.
        languages: share of English (en), Chinese (zh), code and other.
        scripts: share of each script among all letters.
        vocabulary_used, vocabulary_size: different tokens after the cut, and all there are.
        pictures, tiles: how many.
        total_tokens: after the cut.
        longest: tokens of the longest sample after the cut.
        token_hash: of all ids after the cut, the one the job's log and result show.
        problems: what is wrong with samples that cannot be used, each in a sentence; such a job would stop there.
        notes: what else to know.
    """

    samples: int
    asked: int
    kinds: dict[str, int]
    sources: dict[int, float]
    lengths: tuple[int, ...]
    kept: tuple[int, ...]
    histogram: Histogram
    cut: int
    empty: int
    duplicates: int
    languages: dict[str, float]
    scripts: dict[str, float]
    vocabulary_used: int
    vocabulary_size: int
    pictures: int
    tiles: int
    total_tokens: int
    longest: int
    token_hash: str | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def gather(seer: Seer, calibration: Calibration, roots: Sequence[Path] = (), limit: int | None = None) -> Chosen:
    """The samples that a job will use, windows and packs made: what `Feed` chooses, without torch.

    Args:
        limit: only the first so many; what comes behind is not read.

    Raises:
        CalibrationError: a source cannot be used, or nothing is left.
        AccessError: a source lies outside the roots.
    """
    if not calibration.reshapes:
        return choose_samples(calibration, roots, limit)
    notes = Notes()
    stream = draw(calibration, roots, notes, ahead=limit or calibration.samples)
    found = arrange(
        stream, lambda one: ids_of(seer, one), calibration, end=seer.words.end, limit=limit, note=notes.texts.append
    )
    return Chosen(found, notes.all())


def survey(seer: Seer, samples: Sequence[Sample], calibration: Calibration, notes: Sequence[str] = ()) -> Survey:
    """Counts everything.

    Raises:
        CalibrationError: no sample can be used (why the first cannot), or nothing is left of any.
    """
    usable, every, problems = _tokenized(seer, samples)
    kept = [
        ids if kind_of(sample) == "tokens" else ids[: calibration.max_tokens] for sample, ids in zip(usable, every, strict=True)
    ]
    if not usable and problems:
        raise problems[0]
    if not any(kept):
        what = "all samples are empty after the cut"
        raise CalibrationError(what, where="calibration", todo="choose other data, or raise max_tokens")
    used = np.unique(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in kept]))
    scripts: Counter[str] = Counter()
    for sample in usable:
        scripts.update(script_counts(sample.plain))
    pictures = [sample for sample in usable if sample.image is not None]
    lengths = tuple(map(len, every))
    return Survey(
        samples=len(usable),
        asked=calibration.samples,
        kinds=dict(Counter(map(kind_of, usable))),
        sources=shares_of(usable, len(calibration.sources)),
        lengths=lengths,
        kept=tuple(map(len, kept)),
        histogram=histogram(lengths, calibration.max_tokens),
        cut=sum(len(after) < len(before) for before, after in zip(every, kept, strict=True)),
        empty=sum(not ids for ids in kept),
        duplicates=len(usable) - len({_digest(sample) for sample in usable}),
        languages=shares(Counter(language_of(_text(seer, sample)) for sample in usable)),
        scripts=shares(scripts),
        vocabulary_used=int(np.count_nonzero(used < seer.words.size)),
        vocabulary_size=seer.words.size,
        pictures=len(pictures),
        tiles=sum(tiles_of(seer, sample) for sample in pictures),
        total_tokens=sum(map(len, kept)),
        longest=max(map(len, kept)),
        token_hash=None if pictures and seer.tiler is None else token_hash(kept),
        problems=tuple(map(str, problems)),
        notes=(*notes, *_notes(seer, usable)),
    )


def histogram(lengths: Sequence[int], cut: int) -> Histogram:
    """Bars of equal width; the cut divides the one it falls into, or stands alone behind them."""
    longest = max([*lengths, 1])
    width = -(-(longest + 1) // BINS)
    edges = sorted({*range(0, longest + 1 + width, width), cut})
    counts, _ = np.histogram(lengths, bins=edges)
    return Histogram(tuple(edges), tuple(map(int, counts)), cut)


def shares_of(samples: Sequence[Sample], sources: int) -> dict[int, float]:
    """Which share of the samples comes from each source."""
    counts = Counter(sample.source for sample in samples)
    return {number: counts[number] / max(len(samples), 1) for number in range(sources)}


def _tokenized(seer: Seer, samples: Sequence[Sample]) -> tuple[list[Sample], list[list[int]], list[CalibrationError]]:
    """Samples that can be used with their ids, and what is wrong with the others."""
    try:
        return list(samples), list(many_ids(seer, samples)), []
    except CalibrationError:
        pass
    usable: list[Sample] = []
    every: list[list[int]] = []
    problems: list[CalibrationError] = []
    for sample in samples:
        try:
            every.append(ids_of(seer, sample))
            usable.append(sample)
        except CalibrationError as error:
            problems.append(error)
    return usable, every, problems


def _text(seer: Seer, sample: Sample) -> str:
    if sample.ids is None:
        return sample.plain
    return str(seer.words.core.decode(list(sample.ids)))


def _digest(sample: Sample) -> bytes:
    return hashlib.blake2b(sample.content.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _notes(seer: Seer, samples: Sequence[Sample]) -> list[str]:
    notes = []
    if not seer.words.template and any(sample.messages for sample in samples):
        notes.append('the model has no chat template: chats are given to it as "role: content" lines')
    if seer.tiler is None and any(sample.image for sample in samples):
        notes.append("image tokens of this kind of model are counted in the run only; here a picture counts as one")
    return notes
