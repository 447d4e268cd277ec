"""What a model will see of each sample: its text and tokens, what is cut off, the tiles of its picture. No torch."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantui.calibration.answer import ask_pictures
from quantui.calibration.languages import language_of
from quantui.calibration.pictures import open_picture, picture_size
from quantui.calibration.sample import Sample
from quantui.calibration.tiles import Tiler, load_tiler, png
from quantui.calibration.words import Words, load_words
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import summary_of
from quantui.errors import CalibrationError

LARGEST_SHOWN = 1024
"""Longest side, in pixels, of a whole picture as it is shown; tiles are shown as they are."""

Ids = Sequence[int]


@dataclass(frozen=True)
class Seer:
    """What of a model is needed to see samples as it does.

    Attributes:
        reads_pictures: whether it takes pictures at all.
        tiler: how it cuts them; None where only a process with transformers can tell.
    """

    folder: Path
    words: Words
    tiler: Tiler | None
    reads_pictures: bool


@dataclass(frozen=True)
class View:
    """One sample as the model gets it.

    Attributes:
        index: its place among the samples, from 0.
        where: the file and line it comes from.
        source: which source, from 0.
        kind: chat, text, picture or tokens.
        text: as it is tokenized, special tokens written out, the part that is cut off included; a picture stands as one
            placeholder, though it is `image_tokens` tokens.
        ids: of all tokens, those that are cut off included.
        spans: begin and end of each token in `text`; for a picture's own tokens those of its placeholder.
        special: whether each token stands for no text.
        kept: how many tokens are left after the cut; `ids[:kept]` is what the model gets.
        cut_at: the place in `text` where it is cut; None when nothing is.
        language: en, zh, code or other.
        image_tokens: tokens of the picture.
        size: width and height of the picture.
        grid: columns and rows of its tiles.
        picture: PNG of the whole picture, made small.
        tiles: PNG of each tile as the vision tower gets it, row by row, the thumbnail last.
        problem: why it cannot be used, in one sentence; then the rest may be empty.
    """

    index: int
    where: str
    source: int
    kind: str
    text: str = ""
    ids: tuple[int, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    special: tuple[bool, ...] = ()
    kept: int = 0
    cut_at: int | None = None
    language: str = "other"
    image_tokens: int = 0
    size: tuple[int, int] | None = None
    grid: tuple[int, int] | None = None
    picture: bytes | None = None
    tiles: tuple[bytes, ...] = ()
    problem: str | None = None


def open_seer(folder: Path, template: str | None = None) -> Seer:
    """Reads what is needed of a model folder, its weights excepted.

    Args:
        template: instead of its own; "" for none.

    Raises:
        CheckpointError: it is no model folder, or its tokenizer cannot be read.
    """
    pictures = summary_of(open_checkpoint(folder)).kind == "image-text"  # first: it tells at once what is no model folder
    words = load_words(folder)
    tiler = load_tiler(folder, words)
    return Seer(folder, words.with_template(template), tiler if pictures else None, pictures)


def kind_of(sample: Sample) -> str:
    """chat, text, picture or tokens."""
    if sample.image is not None:
        return "picture"
    if sample.ids is not None or sample.tokens is not None:
        return "tokens"
    return "text" if sample.text is not None else "chat"


def ids_of(seer: Seer, sample: Sample) -> list[int]:
    """All token ids of one sample, uncut.

    Raises:
        CalibrationError: the template refuses it, or its picture cannot be placed.
    """
    return next(many_ids(seer, [sample]))


def many_ids(seer: Seer, samples: Iterable[Sample]) -> Iterator[list[int]]:
    """All token ids of many samples, in their order; of pictures only the sizes are looked at.

    Raises:
        CalibrationError: as `ids_of`; `where` names the sample.
    """
    stored: dict[int, list[int]] = {}

    def texts() -> Iterator[tuple[str, bool]]:
        for place, sample in enumerate(samples):
            if sample.ids is not None or sample.tokens is not None:
                stored[place] = stored_ids(sample)
                yield "", False
            elif sample.image is not None:
                yield _placed(seer, sample, tiles_of(seer, sample)), False
            else:
                yield seer.words.text(sample)

    for place, ids in enumerate(seer.words.encode_many(texts())):
        yield stored.pop(place, ids)


def stored_ids(sample: Sample) -> list[int]:
    """The ids a sample brings along, read without torch."""
    if sample.ids is not None:
        return list(sample.ids)
    from safetensors import safe_open

    assert sample.tokens is not None
    path, row = sample.tokens
    with safe_open(str(path), framework="np") as file:
        return [int(token) for token in file.get_slice("input_ids")[row : row + 1][0]]


def tiles_of(seer: Seer, sample: Sample) -> int:
    """How many tiles the sample's picture becomes.

    Raises:
        CalibrationError: the model reads no pictures, or this one cannot be read.
    """
    if not seer.reads_pictures:
        todo = "choose an image-text model, or calibrate this one with text"
        raise CalibrationError("the model reads no pictures, but the calibration holds some", where=sample.where, todo=todo)
    size = picture_size(sample)
    return seer.tiler.count(*size) if seer.tiler else 1


def see(seer: Seer, samples: Sequence[Sample], max_tokens: int, *, first: int = 0, pictures: bool = True) -> list[View]:
    """Samples as the model gets them; one that cannot be used becomes a view with its problem.

    Args:
        first: the place of the first of these samples among all.
        pictures: whether tiles are made; else only counted.

    Raises:
        CheckpointError: the model's pictures need a process with transformers, and it fails.
    """
    views = []
    for index, sample in enumerate(samples, first):
        try:
            views.append(_seen(seer, sample, index, max_tokens, pictures))
        except CalibrationError as error:
            views.append(View(index, sample.where, sample.source, kind_of(sample), problem=str(error)))
    if seer.reads_pictures and seer.tiler is None:
        return _answered(seer, samples, views, max_tokens, first)
    return views


def _seen(seer: Seer, sample: Sample, index: int, max_tokens: int, pictures: bool) -> View:
    view = View(index, sample.where, sample.source, kind_of(sample), language=language_of(sample.plain))
    if view.kind == "tokens":
        return _decoded(seer, view, stored_ids(sample), max_tokens)
    if view.kind == "picture":
        return _pictured(seer, view, sample, max_tokens, pictures)
    text, special = seer.words.text(sample)
    encoding = seer.words.encode(text, special=special)
    return _cut(replace(view, text=text), encoding.ids, encoding.offsets, seer.words.special_ids, max_tokens)


def _decoded(seer: Seer, view: View, ids: list[int], max_tokens: int) -> View:
    """Text that was tokenized elsewhere; tokens that are parts of one character share its place."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    waiting: list[int] = []
    place = 0
    for position, token in enumerate(ids):
        waiting.append(token)
        piece = seer.words.core.decode(waiting, skip_special_tokens=False)
        if "\ufffd" in piece and len(waiting) < 4 and position + 1 < len(ids):
            continue
        pieces.append(piece)
        spans += [(place, place + len(piece))] * len(waiting)
        place, waiting = place + len(piece), []
    view = replace(view, text="".join(pieces), language=language_of("".join(pieces)))
    return _cut(view, ids, spans, seer.words.special_ids, max_tokens if view.kind != "tokens" else len(ids))


def _pictured(seer: Seer, view: View, sample: Sample, max_tokens: int, pictures: bool) -> View:
    count = tiles_of(seer, sample)
    if seer.tiler is None:
        return view  # a process with transformers is asked for all of them together
    tiler = seer.tiler
    text, _ = seer.words.text(sample)
    full = _placed(seer, sample, count)
    encoding = seer.words.encode(full, special=False)
    begin = text.index(tiler.context)
    length, grown = len(tiler.context), len(full) - len(text)
    spans = [_folded(span, begin, length, grown) for span in encoding.offsets]
    context = seer.words.core.token_to_id(tiler.context)
    image_tokens = encoding.ids.count(context)
    view = replace(view, text=text, image_tokens=image_tokens, size=picture_size(sample))
    view = _cut(view, encoding.ids, spans, seer.words.special_ids, max_tokens)
    if context in view.ids[view.kept :]:
        what = f"the picture alone takes {image_tokens} tokens, more than max_tokens {max_tokens} leaves room for"
        view = replace(view, problem=f"{sample.where}: {what}; raise max_tokens, or use smaller pictures.")
    if pictures:
        picture = open_picture(sample)
        cut = tuple(png(tile) for tile in tiler.cut(picture))
        view = replace(view, grid=tiler.grid(*picture.size), picture=png(picture, LARGEST_SHOWN), tiles=cut)
    return view


def _placed(seer: Seer, sample: Sample, tiles: int) -> str:
    """The sample's text with its picture written out as tokens."""
    text, _ = seer.words.text(sample)
    if seer.tiler is None:
        return text
    if text.count(seer.tiler.context) != 1:
        what = "the chat template leaves no place for the picture" if seer.tiler.context not in text else (
            "the question holds the placeholder of a picture itself"
        )  # fmt: skip
        todo = "check that the chat template holds the image placeholder once for the picture, and the question none"
        raise CalibrationError(what, where=sample.where, todo=todo)
    return seer.tiler.text(text, tiles)


def _folded(span: tuple[int, int], begin: int, length: int, grown: int) -> tuple[int, int]:
    """A place in the text with the picture written out, as a place in the text with one placeholder."""
    low, high = span
    if high <= begin:
        return span
    if low >= begin + length + grown:
        return low - grown, high - grown
    return begin, begin + length


def _cut(view: View, ids: Ids, spans: Sequence[tuple[int, int]], special: frozenset[int], max_tokens: int) -> View:
    kept = min(len(ids), max_tokens)
    problem = None if ids else f"{view.where}: nothing is left of the sample: it has no tokens; give it text."
    return replace(
        view,
        ids=tuple(ids),
        spans=tuple(spans),
        special=tuple(token in special for token in ids),
        kept=kept,
        cut_at=spans[kept][0] if kept < len(ids) else None,
        problem=problem,
    )


def _answered(seer: Seer, samples: Sequence[Sample], views: list[View], max_tokens: int, first: int) -> list[View]:
    """Views of pictures as a process with transformers sees them."""
    places = [place for place, view in enumerate(views) if view.kind == "picture" and view.problem is None]
    if not places:
        return views
    with tempfile.TemporaryDirectory(prefix="quantui-pictures-") as folder:
        asked: list[dict[str, Any]] = []
        for place in places:
            file = Path(folder) / f"{place}.png"
            try:
                file.write_bytes(png(open_picture(samples[place])))
            except CalibrationError as error:
                views[place] = replace(views[place], problem=str(error))
            sample = samples[place]
            asked.append({"where": sample.where, "messages": sample.messages, "image": str(file), "complete": sample.complete})
        answers = ask_pictures(seer.folder, asked, seer.words.picture_template)
    for place, answer in zip(places, answers, strict=True):
        if views[place].problem is None and "problem" in answer:
            views[place] = replace(views[place], problem=answer["problem"])
        elif views[place].problem is None:
            tiles = tuple(bytes.fromhex(tile) for tile in answer["tiles"])
            picture = open_picture(samples[place])
            view = _decoded(seer, views[place], answer["ids"], max_tokens)
            views[place] = replace(
                view, image_tokens=answer["image_tokens"], size=picture.size, picture=png(picture, LARGEST_SHOWN), tiles=tiles
            )
    return views
