"""Held-out questions with the answers expected of a model. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.calibration.sources import Sample, check_messages, image_row, read_rows
from quantui.errors import CalibrationError
from quantui.workspace import check_inside

CATEGORIES = ("category", "task", "subject", "type")
"""What a row may name its kind by, the first that is there."""


@dataclass(frozen=True)
class Question:
    """A prompt and the answer expected of it; `category` is what the row calls its kind, if it does."""

    prompt: Sample
    full: Sample
    answer: str
    category: str = ""


def read_questions(path: Path, roots: Sequence[Path] = ()) -> list[Question]:
    """The questions of an evaluation file: rows {messages} that end in the expected answer, or {image, question, answer}.

    Raises:
        CalibrationError: it cannot be read, a row is malformed (the line is named), there are no rows, or only some of them
            have pictures.
        AccessError: it lies outside the roots.
    """
    check_inside(path, roots)
    found = [_question(where, row, path.parent, roots) for where, row in read_rows(path)]
    if not found:
        raise CalibrationError("it holds no questions", where=str(path), todo="give it rows, or evaluate without it")
    pictured = found[0].full.image is not None
    if odd := next((question for question in found if (question.full.image is not None) != pictured), None):
        what = "pictures and plain text stand in one evaluation file"
        raise CalibrationError(what, where=odd.full.where, todo="use one file for each")
    return found


def _question(where: str, row: dict[str, Any], base: Path, roots: Sequence[Path]) -> Question:
    if "image" in row:
        full = image_row(where, row, base, "What does the image show?")
        assert isinstance(full.image, Path)
        check_inside(full.image, roots)
        messages = full.messages
    else:
        messages = check_messages(row.get("messages"), where)
        full = Sample(where, messages=messages)
    if messages[-1]["role"] != "assistant" or not isinstance(messages[-1]["content"], str) or len(messages) < 2:
        raise CalibrationError("the row does not end in the expected answer", where=where, todo="add it as the last message")
    prompt = Sample(where, messages=messages[:-1], image=full.image, complete=False)
    named = next((str(row[key]) for key in CATEGORIES if row.get(key)), "")
    return Question(prompt, full, messages[-1]["content"], named)
