"""Rows of parquet and arrow files by number; only what holds them is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantui.errors import CalibrationError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

AT_ONCE = 64
"""Rows decoded together; enough to be quick, few enough to stay small where rows are pictures."""


class Parquet:
    """Rows of parquet files, one after the other. A row costs its row group up to it; rising numbers cost least."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Reads the footers.

        Raises:
            CalibrationError: a file is none.
        """
        self._paths = list(paths)
        self._columns: list[str] | None = None
        self._files: dict[int, pq.ParquetFile] = {}
        groups: list[tuple[int, int, int]] = []  # file, group, rows
        for index in range(len(self._paths)):
            footer = self._file(index).metadata
            groups += [(index, group, footer.row_group(group).num_rows) for group in range(footer.num_row_groups)]
            if index == 0:
                self.names = list(footer.schema.to_arrow_schema().names)
            if len(self._paths) > 64:
                self._files.clear()
        self._groups = groups
        self._begins = np.concatenate(([0], np.cumsum([rows for *_, rows in groups]))).astype(np.int64)
        self._open: _Cursor | None = None

    def __len__(self) -> int:
        return int(self._begins[-1])

    def where(self, index: int) -> str:
        """file[row]."""
        group = self._group(index)
        file = self._groups[group][0]
        first = next(i for i, (other, *_) in enumerate(self._groups) if other == file)
        return f"{self._paths[file]}[{index - int(self._begins[first])}]"

    def choose(self, columns: Sequence[str]) -> None:
        """Reads only these columns from here on."""
        self._columns, self._open = list(columns), None

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row.

        Raises:
            CalibrationError: the file is broken there.
        """
        group = self._group(index)
        file, number, _ = self._groups[group]
        begin = index - int(self._begins[group])
        try:
            if self._open is None or self._open.group != group or begin < self._open.begin:
                batches = self._file(file).iter_batches(AT_ONCE, row_groups=[number], columns=self._columns, use_threads=False)
                self._open = _Cursor(group, batches)
            return self._open.row(begin)
        except (OSError, ValueError) as error:  # what pyarrow raises are these
            raise _broken(self._paths[file], error) from error

    def _group(self, index: int) -> int:
        return int(np.searchsorted(self._begins, index, side="right")) - 1

    def _file(self, index: int) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        if index not in self._files:
            try:
                self._files[index] = pq.ParquetFile(self._paths[index], buffer_size=1 << 20, pre_buffer=False)
            except (OSError, ValueError) as error:
                raise _broken(self._paths[index], error) from error
        return self._files[index]


class _Cursor:
    """A row group read from its beginning on, batch after batch."""

    def __init__(self, group: int, batches: Iterator[pa.RecordBatch]) -> None:
        self.group, self.begin = group, 0
        self._batches, self._batch = batches, next(batches)

    def row(self, number: int) -> dict[str, Any]:
        while number >= self.begin + len(self._batch):
            self.begin += len(self._batch)
            self._batch = next(self._batches)
        found: dict[str, Any] = self._batch.slice(number - self.begin, 1).to_pylist()[0]
        return found


class Arrow:
    """Rows of arrow files, mapped into memory and touched where they are read."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Maps the files.

        Raises:
            CalibrationError: a file is no arrow file.
        """
        import pyarrow as pa

        tables = [_mapped(path) for path in paths]
        self._names_of, self._begins = list(paths), np.concatenate(([0], np.cumsum([len(table) for table in tables])))
        try:
            self._table = pa.concat_tables(tables) if tables else pa.table({})
        except pa.ArrowInvalid as error:
            raise CalibrationError(
                "its files have different columns", where=str(paths[0].parent), todo="keep those of one dataset in a folder"
            ) from error
        self.names = list(self._table.column_names)

    def __len__(self) -> int:
        return int(self._begins[-1])

    def where(self, index: int) -> str:
        """file[row]."""
        file = int(np.searchsorted(self._begins, index, side="right")) - 1
        return f"{self._names_of[file]}[{index - int(self._begins[file])}]"

    def choose(self, columns: Sequence[str]) -> None:
        """Reads only these columns from here on."""
        self._table = self._table.select(list(columns))

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One row."""
        found: dict[str, Any] = self._table.slice(index, 1).to_pylist()[0]
        return found


def _mapped(path: Path) -> pa.Table:
    import pyarrow as pa

    try:
        file = pa.memory_map(str(path))
        try:
            return pa.ipc.open_stream(file).read_all()  # what datasets writes; nothing is read before it is asked for
        except pa.ArrowInvalid:
            file.seek(0)
            return pa.ipc.open_file(file).read_all()
    except (OSError, ValueError) as error:
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> CalibrationError:
    reason = " ".join(str(error).split())[:200]
    return CalibrationError(f"the file cannot be read ({reason})", where=str(path), todo="copy it again, or check the path")
