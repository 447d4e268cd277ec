"""Rows of text files by number: where each line begins is found once, and only the rows asked for are parsed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from quantui.errors import CalibrationError

CHUNK = 4 << 20
"""Bytes looked at in one go; a memory map would count as resident memory in full."""

MARK = b"\xef\xbb\xbf"
LONGEST_ROW = 64_000_000
"""Bytes of one row; more is no sample but a file without line ends."""

AHEAD = 1 << 16
"""Bytes read at once where the line asked for has fewer, since most are asked for in the order of the file."""

Places = npt.NDArray[np.int64]


class Lines:
    """The lines of a UTF-8 file that are not blank; the file stays on disk."""

    def __init__(self, path: Path, *, quoted: bool = False) -> None:
        """Finds where lines begin.

        Args:
            quoted: whether a line end inside double quotes is part of the line, as in csv.

        Raises:
            CalibrationError: it cannot be read.
        """
        self.path = path
        try:
            if path.exists() and not path.is_file():
                raise CalibrationError("it is a folder or device, not a file", where=str(path), todo="check the path")
            with path.open("rb") as file:
                self.starts, self.ends, self.numbers = _find(file, quoted)
            self._ahead = (0, b"")
        except OSError as error:
            what = f"the file cannot be read ({error.strerror})"
            raise CalibrationError(what, where=str(path), todo="check the path") from error

    def __len__(self) -> int:
        return len(self.starts)

    def where(self, index: int) -> str:
        """file:line."""
        return f"{self.path}:{int(self.numbers[index])}"

    def text(self, index: int) -> str:
        """One line without its end.

        Raises:
            CalibrationError: it is not UTF-8, too long, or the file has changed meanwhile.
        """
        start, end = int(self.starts[index]), int(self.ends[index])
        if end - start > LONGEST_ROW:
            what = f"the line has more than {LONGEST_ROW // 10**6} MB"
            raise CalibrationError(what, where=self.where(index), todo="write one row a line")
        begin, block = self._ahead
        if start < begin or end > begin + len(block):
            begin, block = start, self._read_at(start, max(end - start, AHEAD))
            self._ahead = (begin, block) if len(block) <= AHEAD else (0, b"")
        body = block[start - begin : end - begin]
        try:
            return body.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            line = int(self.numbers[index]) + error.object[: error.start].count(b"\n")
            where = f"{self.path}:{line}"
            raise CalibrationError("the file is not UTF-8 text", where=where, todo="save it as UTF-8") from error

    def _read_at(self, start: int, count: int) -> bytes:
        try:
            with self.path.open("rb", buffering=0) as file:
                file.seek(start)
                return file.read(count)
        except OSError as error:
            what = f"the file cannot be read ({error.strerror})"
            raise CalibrationError(what, where=str(self.path), todo="check the path") from error


class JsonLines:
    """Rows of a file with one JSON value a line."""

    def __init__(self, path: Path) -> None:
        self.lines = Lines(path)

    def __len__(self) -> int:
        return len(self.lines)

    def where(self, index: int) -> str:
        """file:line."""
        return self.lines.where(index)

    def __getitem__(self, index: int) -> Any:
        """The value of one line.

        Raises:
            CalibrationError: it is not JSON.
        """
        return parse(self.lines.text(index), self.where(index))


class CsvLines:
    """Rows of a csv or tsv file as mappings by the names in its first row."""

    def __init__(self, path: Path) -> None:
        """Reads the names.

        Raises:
            CalibrationError: it cannot be read.
        """
        self.lines = Lines(path, quoted=True)
        self.delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        self.names = self._cells(0) if len(self.lines) else []

    def __len__(self) -> int:
        return max(len(self.lines) - 1, 0)

    def where(self, index: int) -> str:
        """file:line."""
        return self.lines.where(index + 1)

    def __getitem__(self, index: int) -> dict[str, str]:
        """One row by name.

        Raises:
            CalibrationError: it has more or fewer cells than there are names.
        """
        cells = self._cells(index + 1)
        if len(cells) != len(self.names):
            what = f"the row has {len(cells)} cells, the first row names {len(self.names)}"
            raise CalibrationError(what, where=self.where(index), todo="mend its quotes and commas")
        return dict(zip(self.names, cells, strict=True))

    def _cells(self, line: int) -> list[str]:
        found = []
        try:
            found = list(csv.reader(io.StringIO(self.lines.text(line), newline=""), delimiter=self.delimiter))
        except csv.Error as error:
            raise CalibrationError(
                f"the row is not csv ({error})", where=self.lines.where(line), todo="mend its quotes"
            ) from error
        if len(found) != 1:
            what = f"a double quote is opened or closed wrongly, so that {len(found)} rows look like one"
            raise CalibrationError(what, where=self.lines.where(line), todo="mend its quotes")
        return found[0]


def parse(text: str, where: str) -> Any:
    """JSON text.

    Raises:
        CalibrationError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"the line is not valid JSON ({error})"
        raise CalibrationError(what, where=where, todo="mend or delete that line") from error


def _find(file: BinaryIO, quoted: bool) -> tuple[Places, Places, Places]:
    """Start, end (behind the line end) and number of each line that is not blank."""
    skipped = len(MARK) if file.read(len(MARK)) == MARK else 0
    ends, size = _line_ends(file, b"\n", quoted)
    if not len(ends) and size > skipped:  # as on very old machines
        ends, size = _line_ends(file, b"\r", quoted)
    if not len(ends) or ends[-1] != size:
        ends = np.append(ends, size)
    starts = np.concatenate(([skipped], ends[:-1]))
    kept = np.flatnonzero(ends > starts)
    blank = [place for place in _maybe_blank(file, starts, kept) if _is_blank(file, int(starts[place]), int(ends[place]))]
    kept = np.setdiff1d(kept, np.array(blank, dtype=np.int64), assume_unique=True)
    numbers = kept + 1 if not quoted else _numbers(file, starts, kept)
    return starts[kept].copy(), ends[kept].copy(), numbers


def _chunks(file: BinaryIO) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    file.seek(0)
    place = 0
    while body := file.read(CHUNK):
        yield place, np.frombuffer(body, dtype=np.uint8)
        place += len(body)


def _line_ends(file: BinaryIO, end: bytes, quoted: bool) -> tuple[Places, int]:
    """The places behind each line end, and the size of the file."""
    found: list[Places] = []
    size, inside = 0, 0
    for place, body in _chunks(file):
        ends = np.flatnonzero(body == end[0])
        if quoted:
            quotes = np.flatnonzero(body == ord('"'))
            ends_outside = (np.searchsorted(quotes, ends) + inside) % 2 == 0
            ends, inside = ends[ends_outside], (inside + len(quotes)) % 2
        found.append(ends + (place + 1))
        size = place + len(body)
    return (np.concatenate(found) if found else np.zeros(0, dtype=np.int64)), size


def _maybe_blank(file: BinaryIO, starts: Places, kept: Places) -> list[int]:
    """Lines whose first byte is white."""
    white: list[int] = []
    first = starts[kept]
    for place, body in _chunks(file):
        low, high = np.searchsorted(first, (place, place + len(body)))
        bytes_ = body[first[low:high] - place]
        white += [int(kept[low + i]) for i in np.flatnonzero((bytes_ == 32) | ((bytes_ >= 9) & (bytes_ <= 13)))]
    return white


def _is_blank(file: BinaryIO, start: int, end: int) -> bool:
    file.seek(start)
    return not file.read(min(end - start, 256)).strip() and not file.read(max(min(end - start, LONGEST_ROW) - 256, 0)).strip()


def _numbers(file: BinaryIO, starts: Places, kept: Places) -> Places:
    """Line numbers where a row may stretch over several lines."""
    every, _ = _line_ends(file, b"\n", quoted=False)
    return np.asarray(np.searchsorted(every, starts[kept], side="right") + 1, dtype=np.int64)
