"""Files and folders of rows by number, whatever they are written in; nothing of a dataset is executed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from quantui.calibration.columnar import Arrow, Parquet
from quantui.calibration.lines import CsvLines, JsonLines, parse
from quantui.calibration.schema import read_text
from quantui.errors import CalibrationError
from quantui.workspace import check_inside

LARGEST_JSON = 256_000_000
"""Bytes of a .json file, which has to be read whole."""

FORMS = {
    ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json",
    ".csv": "csv", ".tsv": "csv",
}  # fmt: skip
BESIDE = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "metadata.json", "config.json")
"""JSON files that describe a dataset and are none."""

_SPLIT = re.compile(r"^([\w.-]*)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?$")


class Table(Protocol):
    """Rows by number, parsed when they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any:
        """A row; CalibrationError where it cannot be read."""

    def where(self, index: int) -> str:
        """The file and line or row, for messages."""


class Rows:
    """Rows that are in memory already."""

    def __init__(self, rows: Sequence[Any], name: str) -> None:
        self._rows, self._name = rows, name

    def __len__(self) -> int:
        return len(self._rows)

    def where(self, index: int) -> str:
        """name[row]."""
        return f"{self._name}[{index}]"

    def __getitem__(self, index: int) -> Any:
        """One row."""
        return self._rows[index]


class Some:
    """Some rows of another table, in an order of their own."""

    def __init__(self, table: Table, places: Sequence[int]) -> None:
        self.table, self.places = table, places

    def __len__(self) -> int:
        return len(self.places)

    def where(self, index: int) -> str:
        """As the table says."""
        return self.table.where(int(self.places[index]))

    def __getitem__(self, index: int) -> Any:
        """One row."""
        return self.table[int(self.places[index])]


class Joined:
    """Tables one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = [table for table in tables if len(table)]

    def __len__(self) -> int:
        return sum(map(len, self._tables))

    def _find(self, index: int) -> tuple[Table, int]:
        for table in self._tables:
            if index < len(table):
                return table, index
            index -= len(table)
        raise IndexError(index)

    def where(self, index: int) -> str:
        """As its table says."""
        table, place = self._find(index)
        return table.where(place)

    def __getitem__(self, index: int) -> Any:
        """One row."""
        table, place = self._find(index)
        return table[place]


def open_file(path: Path, form: str | None = None) -> Table:
    """The rows of one file.

    Args:
        form: one of FORMS' values; None goes by the name.

    Raises:
        CalibrationError: it is none of these, or cannot be read.
    """
    form = form or FORMS.get(path.suffix.lower())
    if form == "json":
        return _json(path)
    if form == "jsonl":
        return JsonLines(path)
    if form == "csv":
        return CsvLines(path)
    if form == "parquet":
        return Parquet([path])
    if form == "arrow":
        return Arrow([path])
    if path.suffix == ".py":
        raise _script(path)
    known = ", ".join(FORMS)
    raise CalibrationError(f"files of this kind are not read; known are {known}", where=str(path), todo="convert it to one")


def open_dataset(path: Path, split: str | None, roots: Sequence[Path] = ()) -> Table:
    """The rows of a dataset: one file, what `save_to_disk` wrote, or a folder of files.

    Args:
        split: which split, with a slice if wanted: `train[:256]`, `[10%:20%]`.

    Raises:
        CalibrationError: it carries a loading script, has no such split, or no files that can be read.
    """
    name, bounds = parse_split(split, str(path))
    table = open_file(path) if path.is_file() else _folder(path, name, roots)
    if path.is_file() and name:
        raise CalibrationError("one file has no splits", where=str(path), todo=f"write the split as {split!r} without its name")
    return table if bounds is None else Some(table, range(len(table))[slice(*(_place(bound, len(table)) for bound in bounds))])


def parse_split(split: str | None, where: str) -> tuple[str, tuple[str | None, str | None] | None]:
    """The name of a split and the bounds of its slice.

    Raises:
        CalibrationError: it is written in another way.
    """
    found = _SPLIT.match(split or "")
    if not found:
        raise CalibrationError(f"the split {split!r} cannot be read", where=where, todo="write it as train or train[:256]")
    name, start, stop = found.groups()
    return name, (start, stop) if "[" in (split or "") else None


def _place(bound: str | None, count: int) -> int | None:
    if bound is None:
        return None
    return round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)


def _json(path: Path) -> Table:
    if path.is_file() and path.stat().st_size > LARGEST_JSON:
        what = f"a JSON list has to be read whole, and this one has more than {LARGEST_JSON // 10**6} MB"
        raise CalibrationError(what, where=str(path), todo="write it as jsonl, one row a line, or as parquet")
    text = read_text(path)
    begin = text.lstrip()[:1]
    if begin == "{":
        lines = JsonLines(path)
        try:
            lines[0]
        except CalibrationError:
            pass
        else:
            if len(lines) > 1:
                return lines
    if not begin:
        return Rows([], str(path))
    try:
        body = json.loads(text)
    except json.JSONDecodeError as error:
        what = f"the file is not valid JSON ({error.msg})"
        raise CalibrationError(what, where=f"{path}:{error.lineno}", todo="mend that line") from error
    except (ValueError, RecursionError):
        body = parse(text, str(path))
    if isinstance(body, dict):
        lists = [value for value in body.values() if isinstance(value, list)]
        body = lists[0] if len(lists) == 1 and len(body) <= 3 and isinstance((lists[0] or [0])[0], dict | str) else [body]
    return Rows(body if isinstance(body, list) else [body], str(path))


def _folder(path: Path, split: str, roots: Sequence[Path]) -> Table:
    if scripts := sorted(path.glob("*.py")):
        raise _script(scripts[0])
    if (path / "dataset_dict.json").is_file():
        splits = sorted(entry.parent.name for entry in path.glob("*/state.json"))
        chosen = split or ("train" if "train" in splits else splits[0] if len(splits) == 1 else "")
        if chosen not in splits:
            what = f"there is no split {chosen}" if chosen else "it has several splits"
            raise CalibrationError(f"{what}; there are {', '.join(splits)}", where=str(path), todo="give one of them as split")
        path, split = path / chosen, ""
    if (path / "state.json").is_file():
        return _saved(path, roots)
    return _files(path, split, roots)


def _saved(path: Path, roots: Sequence[Path]) -> Table:
    state = parse(read_text(path / "state.json"), str(path / "state.json"))
    names = [entry.get("filename") for entry in state.get("_data_files") or ()] if isinstance(state, dict) else []
    if not all(isinstance(name, str) for name in names) or not names:
        raise CalibrationError("state.json names no data files", where=str(path), todo="save the dataset again")
    if state.get("_indices_files") or state.get("_indices_data_files"):
        todo = "save it with a newer version of datasets, which writes its rows in their order"
        raise CalibrationError("its rows are chosen by a separate file of indices", where=str(path), todo=todo)
    return Arrow([check_inside(path / str(name), roots) for name in names])


def _files(path: Path, split: str, roots: Sequence[Path]) -> Table:
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        form = FORMS.get(file.suffix.lower())
        if form and file.is_file() and file.name not in BESIDE and not file.name.startswith("."):
            found.setdefault(form, []).append(file)
    if not found:
        what = "there are no data files in the folder"
        raise CalibrationError(what, where=str(path), todo=f"put {', '.join(FORMS)} files into it")
    form = next(form for form in ("parquet", "arrow", "jsonl", "csv", "json") if form in found)
    files = [file for file in found[form] if not split or _of_split(file.relative_to(path), split)]
    if not split and (train := [file for file in files if _of_split(file.relative_to(path), "train")]):
        files = train
    if not files:
        names = ", ".join(str(file.relative_to(path)) for file in found[form][:8])
        raise CalibrationError(
            f"no file is of the split {split}; there are {names}", where=str(path), todo="give another split"
        )
    files = [check_inside(file, roots) for file in files]
    if form in ("parquet", "arrow"):
        return Parquet(files) if form == "parquet" else Arrow(files)
    return Joined([open_file(file, form) for file in files])


def _of_split(file: Path, split: str) -> bool:
    pattern = re.compile(rf"(^|[^a-zA-Z0-9]){re.escape(split)}([^a-zA-Z0-9]|$)")
    return any(pattern.search(part) for part in file.with_suffix("").parts)


def _script(path: Path) -> CalibrationError:
    what = f"the dataset carries a loading script, {path.name}, which would have to be executed"
    return CalibrationError(what, where=str(path.parent), todo="give its data files themselves, or save it with save_to_disk")
