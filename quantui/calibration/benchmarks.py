"""Rows of the benchmark files that msModelSlim mixes its calibrations from: boolq, gsm8k, ceval and mmlu."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from quantui.calibration.lines import JsonLines, parse
from quantui.calibration.sample import Sample, chat_sample
from quantui.calibration.schema import read_text
from quantui.calibration.tables import Rows, Table
from quantui.errors import CalibrationError
from quantui.workspace import check_inside

SHOTS = 5
"""Solved questions of the same subject that stand before a question of ceval or mmlu."""

CHOICES = ("A", "B", "C", "D")


def open_benchmark(kind: str, path: Path, roots: Sequence[Path] = ()) -> Table:
    """The questions of a benchmark: a jsonl of boolq or gsm8k, or the folder of ceval or mmlu.

    Raises:
        CalibrationError: a file is missing or of another form.
    """
    if kind in ("boolq", "gsm8k"):
        return JsonLines(path)
    if not path.is_dir():
        what = f"{kind} is a folder with subject_mapping.json, dev/ and {'val/' if kind == 'ceval' else 'test/'}"
        raise CalibrationError(what, where=str(path), todo="give that folder")
    return Rows(list(_subjects(kind, path, roots)), str(path))


def to_sample(kind: str, row: Any, where: str) -> Sample:
    """A question with its answer as a chat.

    Raises:
        CalibrationError: a column is missing; those that are there are named.
    """
    if kind in ("ceval", "mmlu"):
        return chat_sample(row["where"], row["question"], row["answer"])
    if not isinstance(row, dict):
        raise CalibrationError("the line is not a JSON object", where=where, todo=f"give the jsonl of {kind}")
    needed = ("question", "passage", "answer") if kind == "boolq" else ("question", "answer")
    for name in needed:
        if not isinstance(row.get(name), bool if kind == "boolq" and name == "answer" else str):
            what = f"there is no column {name} as {kind} has it; there are {', '.join(map(str, row)) or 'none'}"
            raise CalibrationError(what, where=where, todo=f"give the jsonl of {kind}")
    if kind == "gsm8k":
        return chat_sample(where, row["question"], row["answer"])
    title = f"{row['title']} -- " if isinstance(row.get("title"), str) else ""
    asked = f"{title}{row['passage']}\nQuestion: {row['question'].rstrip('?')}?\nAnswer:"
    return chat_sample(where, asked, "yes" if row["answer"] else "no")


def _subjects(kind: str, path: Path, roots: Sequence[Path]) -> Iterator[dict[str, str]]:
    file = check_inside(path / "subject_mapping.json", roots)
    mapping = parse(read_text(file), str(file))
    subjects = mapping.get("mmlu_all_sets", mapping) if isinstance(mapping, dict) else mapping
    names = list(subjects) if isinstance(subjects, dict | list) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise CalibrationError("it names no subjects", where=str(file), todo=f"give the file that comes with {kind}")
    for name in names:
        shots = _cells(check_inside(path / "dev" / f"{name}_dev.csv", roots), kind)[:SHOTS]
        held = "val" if kind == "ceval" else "test"
        file = check_inside(path / held / f"{name}_{held}.csv", roots)
        before = "".join(f"{_asked(cells)} {cells[5]}\n\n" for cells in shots)
        title = subjects[name] if isinstance(subjects, dict) else name
        subject = str(title[1] if kind == "ceval" and isinstance(title, list) and len(title) > 1 else name).replace("_", " ")
        for number, cells in enumerate(_cells(file, kind), 1):
            yield {
                "question": _head(kind, subject) + before + _asked(cells), "answer": cells[5], "where": f"{file}[{number}]"
            }  # fmt: skip


def _head(kind: str, subject: str) -> str:
    if kind == "ceval":
        return f"以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n\n"
    return f"The following are multiple choice questions (with answers) about {subject}.\n\n"


def _asked(cells: list[str]) -> str:
    choices = "\n".join(f"{letter}. {text}" for letter, text in zip(CHOICES, cells[1:5], strict=True))
    return f"{cells[0]}\n{choices}\nAnswer:"


def _cells(file: Path, kind: str) -> list[list[str]]:
    """Question, four choices and the answer's letter of each row; ceval has a first row of names and a column of numbers."""
    rows = [row for row in csv.reader(io.StringIO(read_text(file), newline="")) if row]
    if kind == "ceval" and rows:
        names = rows[0]
        missing = [name for name in ("question", *CHOICES, "answer") if name not in names]
        if missing:
            what = f"there is no column {missing[0]}; there are {', '.join(names)}"
            raise CalibrationError(what, where=str(file), todo="give the csv files of ceval")
        rows = [
            [row[names.index(name)] for name in ("question", *CHOICES, "answer")] for row in rows[1:] if len(row) == len(names)
        ]
    if not rows or any(len(row) != 6 for row in rows):
        what = "a row is not a question, four choices and the answer"
        raise CalibrationError(what, where=str(file), todo=f"give the csv files of {kind}")
    return rows
