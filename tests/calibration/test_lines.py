"""Rows of text files by number."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.calibration import lines
from quantui.calibration.lines import CsvLines, JsonLines, Lines
from quantui.errors import CalibrationError


@given(body=st.text(alphabet='ab"\n\r \té\ufeff,{}', max_size=60), chunk=st.integers(1, 9))
def test_lines_are_those_that_python_finds(tmp_path_factory: pytest.TempPathFactory, body: str, chunk: int) -> None:
    file = tmp_path_factory.getbasetemp() / "lines.txt"
    file.write_bytes(body.encode())
    body = body.removeprefix("\ufeff")
    parts = body.split("\n") if "\n" in body else body.split("\r")
    wanted = [(number, part.rstrip("\r\n")) for number, part in enumerate(parts, 1) if part.encode().strip()]
    before, lines.CHUNK = lines.CHUNK, chunk
    try:
        found = Lines(file)
        assert [(int(found.numbers[i]), found.text(i)) for i in range(len(found))] == wanted
    finally:
        lines.CHUNK = before


@given(
    rows=st.lists(st.lists(st.text(alphabet='ab",\n\r é', min_size=1, max_size=6), min_size=2, max_size=2), max_size=5),
    chunk=st.integers(1, 9),
)
def test_csv_rows_are_those_that_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[str]], chunk: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "rows.csv"
    body = io.StringIO(newline="")
    csv.writer(body).writerows([["x", "y"], *rows])
    file.write_bytes(body.getvalue().encode())
    before, lines.CHUNK = lines.CHUNK, chunk
    try:
        found = CsvLines(file)
        assert [found[i] for i in range(len(found))] == [dict(zip("xy", row, strict=True)) for row in rows]
    finally:
        lines.CHUNK = before


def test_a_csv_row_that_does_not_fit_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('x,y\n1,"a\nb"\n2\n3,5" disk\n4,6" disk\n')
    rows = CsvLines(file)
    assert rows[0] == {"x": "1", "y": "a\nb"}
    with pytest.raises(CalibrationError, match=r"a.csv:4: the row has 1 cells, the first row names 2"):
        rows[1]
    with pytest.raises(CalibrationError, match=r"a.csv:5: a double quote is opened or closed wrongly"):
        rows[2]


def test_only_the_rows_asked_for_are_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantui.calibration.schema import Calibration, Source
    from quantui.calibration.sources import choose_samples

    file = tmp_path / "a.jsonl"
    file.write_text("".join(f'{{"text": "{i}"}}\n' for i in range(20_000)))
    parsed: list[str] = []

    def counting(text: str) -> object:
        parsed.append(text)
        return json.JSONDecoder().decode(text)

    monkeypatch.setattr(lines.json, "loads", counting)
    chosen = choose_samples(Calibration(sources=(Source(kind="jsonl", path=file),)), limit=20)
    assert len(chosen.samples) == len(parsed) == 20


def test_text_that_is_no_utf8_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n\n{"a": "\xff"}\n')
    with pytest.raises(CalibrationError, match=r"a.jsonl:3: the file is not UTF-8"):
        JsonLines(tmp_path / "a.jsonl")[1]


def test_a_file_without_line_ends_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_ROW", 100)
    (tmp_path / "a.jsonl").write_text("x" * 101)
    with pytest.raises(CalibrationError, match="more than 0 MB"):
        JsonLines(tmp_path / "a.jsonl")[0]
