"""Samples out of their sources, still unrendered. No torch: rows of text, paths of pictures, positions in a token file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from quantui.calibration import benchmarks, hub
from quantui.calibration.columnar import Arrow, Parquet
from quantui.calibration.fields import ROW_KEYS, Folders, image_row, to_sample, wanted_columns
from quantui.calibration.lines import JsonLines
from quantui.calibration.mix import by_language, different, mixed
from quantui.calibration.pictures import open_picture
from quantui.calibration.sample import Sample, StoredPicture, check_messages, image_sample
from quantui.calibration.schema import Calibration, Source
from quantui.calibration.tables import Rows, Some, Table, open_dataset, open_file
from quantui.checkpoint.files import read_header
from quantui.errors import CalibrationError, CheckpointError
from quantui.workspace import check_inside

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LARGEST_SHUFFLE = 20_000_000
"""Rows that are still put into an order as a whole, as datasets does; of more, rows are drawn one by one."""


@dataclass
class Notes:
    """What a person should know of a choice of samples.

    Attributes:
        texts: in plain words.
        skipped: what was wrong with the rows that were passed over.
    """

    texts: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def all(self) -> list[str]:
        """Everything, the skipped rows in one sentence."""
        if not self.skipped:
            return list(self.texts)
        return [*self.texts, f"{len(self.skipped)} rows are no samples and were skipped; the first: {self.skipped[0]}"]


class Samples:
    """The samples of one source by number; a row is read when it is asked for."""

    def __init__(self, source: Source, roots: Sequence[Path] = (), *, number: int = 0, seed: int = 42) -> None:
        """Opens the source.

        Args:
            roots: folders that data may be read from; none means any.
            number: of the source in its file.
            seed: of `choose`.

        Raises:
            CalibrationError: it is missing, of another form, or empty.
            AccessError: it lies outside the roots.
        """
        for path in (source.path, source.questions):
            if path is not None:
                check_inside(path, roots)
        if source.path is not None and not source.path.exists():
            todo = "check the path in the calibration file"
            raise CalibrationError("there is no such file or folder", where=str(source.path), todo=todo)
        self.source, self.number, self._roots = source, number, roots
        self._table: Table = _open(source, roots)
        self._columns = {} if source.kind == "hub" else source.columns  # fetched rows have our names already
        if isinstance(self._table, Arrow | Parquet):
            self._table.choose(wanted_columns(self._table.names, source.key, self._columns))
        if source.choose is not None:
            order = np.random.default_rng([seed, number]).permutation(len(self._table))
            self._table = Some(self._table, order[: source.choose].tolist())
        if not len(self._table):
            todo = (
                f"give it rows with {ROW_KEYS}"
                if source.kind in ("jsonl", "json", "dataset")
                else "put at least one sample into it"
            )
            raise CalibrationError("it holds no samples", where=str(source.path or source.name), todo=todo)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        """One sample.

        Raises:
            CalibrationError: the row is none.
            AccessError: its picture lies outside the roots.
        """
        sample = self._read(index, self._table[index], self._table.where(index))
        if isinstance(sample.image, Path) and self.source.kind != "hub":
            check_inside(sample.image, self._roots)
        if sample.image is not None and self.source.on_bad == "skip":
            open_picture(sample)
        return replace(sample, source=self.number) if self.number else sample

    def _read(self, index: int, row: Any, where: str) -> Sample:
        source = self.source
        if isinstance(row, Sample):
            return row
        if source.kind in ("boolq", "gsm8k", "ceval", "mmlu"):
            return benchmarks.to_sample(source.kind, row, where)
        if source.kind == "images":
            assert source.questions is not None
            if not isinstance(row, dict):
                todo = 'write it as {"image": "a.png", "question": "..."}'
                raise CalibrationError("the line is not a JSON object", where=where, todo=todo)
            return image_row(where, row, source.questions.parent, source.question, source.path)
        path = source.path or hub.folder()
        base = Folders(path.parent if path.is_file() else path, source.question)
        return to_sample(row, where, key=source.key, columns=self._columns, base=base, stored=self._stored(index, where))

    def _stored(self, index: int, where: str) -> Any:
        return lambda column: StoredPicture(self._table, index, column, where)


@dataclass(frozen=True)
class Chosen:
    """Samples in the order they are used, and what to know of them."""

    samples: list[Sample]
    notes: list[str]


def choose_samples(calibration: Calibration, roots: Sequence[Path] = (), limit: int | None = None) -> Chosen:
    """The samples a calibration file chooses.

    Args:
        roots: folders that data may be read from; none means any.
        limit: only the first so many of them; what comes behind is not read.

    Raises:
        CalibrationError: a source is missing, empty or malformed (the line is named).
        AccessError: a source lies outside the roots.
    """
    count = calibration.samples if limit is None else min(limit, calibration.samples)
    notes = Notes()
    stream = draw(calibration, roots, notes, ahead=count)
    samples = list(islice(stream, count))
    if len(samples) == calibration.samples and (calibration.weighted or calibration.languages):
        next(stream, None)  # a mix ends here, and says what it lacked
    if not samples:
        first = f" ({notes.skipped[0]})" if notes.skipped else ""
        raise CalibrationError(f"no row of its sources is a sample{first}", where="calibration", todo="mend the data")
    return Chosen(samples, notes.all())


def read_samples(calibration: Calibration, roots: Sequence[Path] = ()) -> list[Sample]:
    """The samples a calibration file chooses, in the order they are used; raises what `choose_samples` raises."""
    return choose_samples(calibration, roots).samples


def draw(calibration: Calibration, roots: Sequence[Path], notes: Notes, *, ahead: int) -> Iterator[Sample]:
    """Samples one after the other for as long as there are any; the first ones are those that are used.

    Args:
        ahead: how many are read in one go, in the order of their files.
    """
    opened = [Samples(source, roots, number=number, seed=calibration.seed) for number, source in enumerate(calibration.sources)]
    seen: set[bytes] = set()
    if calibration.weighted:
        weights = [source.weight or 1.0 for source in calibration.sources]
        streams = [
            _in_order([one], _order(len(one), calibration, [calibration.seed, one.number]), notes, ahead) for one in opened
        ]
        if calibration.drops_equals:
            streams = [different(stream, seen) for stream in streams]
        yield from mixed(streams, weights, calibration.samples, notes.texts.append)
        return
    stream = _in_order(opened, _order(sum(map(len, opened)), calibration, calibration.seed), notes, ahead)
    if calibration.drops_equals:
        stream = different(stream, seen)
    if calibration.languages:
        yield from by_language(
            stream, {str(name): share for name, share in calibration.languages.items()}, calibration.samples, notes.texts.append
        )
    else:
        yield from stream


def read_source(source: Source, roots: Sequence[Path] = ()) -> list[Sample]:
    """All samples of one source, in their own order; raises what `choose_samples` raises."""
    opened = Samples(source, roots)
    return [opened[index] for index in range(len(opened))]


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) for each line of a jsonl file that is not blank.

    Raises:
        CalibrationError: a line is not a JSON object.
    """
    lines = JsonLines(path)
    for index in range(len(lines)):
        row, where = lines[index], lines.where(index)
        if not isinstance(row, dict):
            raise CalibrationError("the line is not a JSON object", where=where, todo=f"write it as an object with {ROW_KEYS}")
        yield where, row


def _order(count: int, calibration: Calibration, seed: int | list[int]) -> Sequence[int]:
    if not calibration.shuffle:
        return range(count)
    generator = np.random.default_rng(seed)
    if count > LARGEST_SHUFFLE:
        return list(dict.fromkeys(generator.integers(0, count, 8 * calibration.samples + 10_000).tolist()))
    # numpy's permutation is what datasets.Dataset.shuffle(seed) draws
    return generator.permutation(count)  # type: ignore[return-value]


def _in_order(opened: Sequence[Samples], order: Sequence[int], notes: Notes, ahead: int) -> Iterator[Sample]:
    """Samples of several sources that follow one another, by their places; read in rising order, some at a time."""
    begins = np.concatenate(([0], np.cumsum([len(one) for one in opened])))
    for begin in range(0, len(order), ahead):
        part = [int(place) for place in order[begin : begin + ahead]]
        found: dict[int, Sample] = {}
        for place in sorted(part):
            number = int(np.searchsorted(begins, place, side="right")) - 1
            try:
                found[place] = opened[number][place - int(begins[number])]
            except CalibrationError as error:
                if opened[number].source.on_bad == "stop":
                    raise
                notes.skipped.append(str(error))
        yield from (found[place] for place in part if place in found)


def _open(source: Source, roots: Sequence[Path]) -> Table:
    path = source.path
    if source.kind == "texts":
        return Rows([Sample(f"texts[{i}]", text=text) for i, text in enumerate(source.texts or ()) if text.strip()], "texts")
    if source.kind == "hub":
        return hub.fetch(source)
    assert path is not None
    if source.kind in ("jsonl", "json"):
        return open_file(path, source.kind)
    if source.kind == "dataset":
        return open_dataset(path, source.split, roots)
    if source.kind == "images":
        return _images(source)
    if source.kind == "tokens":
        return Rows(list(_tokens(path)), str(path))
    return benchmarks.open_benchmark(source.kind, path, roots)


def _images(source: Source) -> Table:
    path = source.path
    assert path is not None
    if not path.is_dir():
        raise CalibrationError("it is not a folder of pictures", where=str(path), todo="give the folder that holds them")
    if source.questions is not None:
        return JsonLines(source.questions)
    pictures = sorted(p for p in path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
    return Rows([image_sample(str(picture), picture, source.question, None) for picture in pictures], str(path))


def _tokens(path: Path) -> Iterator[Sample]:
    todo = "write input_ids (N, L) int64 as safetensors"
    try:
        tensor = read_header(path).get("input_ids")
    except CheckpointError as error:
        raise CalibrationError(error.what, where=str(path), todo=todo) from error
    if tensor is None or len(tensor.shape) != 2 or not tensor.shape[1] or tensor.dtype != "I64":
        what = "it has no input_ids of shape (N, L) and dtype int64 with L of at least 1"
        raise CalibrationError(what, where=str(path), todo=todo)
    for row in range(tensor.shape[0]):
        yield Sample(f"{path}[{row}]", tokens=(path, row))


__all__ = (
    "Chosen", "Notes", "Sample", "Samples", "check_messages", "choose_samples", "draw", "image_row", "image_sample",
    "read_rows", "read_samples", "read_source",
)  # fmt: skip
