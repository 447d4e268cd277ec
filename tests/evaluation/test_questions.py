"""Held-out questions, and the rows that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quantui.errors import AccessError, CalibrationError
from quantui.evaluation.questions import read_questions

USER, ANSWER = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}


def write(folder: Path, *rows: Any) -> Path:
    """An evaluation file of these rows; text stands as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.png").write_bytes(b"x")
    file = folder / "evaluation.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return file


def test_a_chat_is_a_question_and_its_last_message_the_answer(tmp_path: Path) -> None:
    system = {"role": "system", "content": "be brief"}
    (question,) = read_questions(write(tmp_path, "", {"messages": [system, USER, ANSWER]}))
    assert question.answer == "4"
    assert question.prompt.messages == (system, USER) and not question.prompt.complete
    assert question.full.messages == (system, USER, ANSWER) and question.full.complete
    assert question.prompt.where == question.full.where == f"{tmp_path}/evaluation.jsonl:2"


def test_a_picture_with_question_and_answer_is_a_question(tmp_path: Path) -> None:
    (question,) = read_questions(write(tmp_path, {"image": "a.png", "question": "what?", "answer": "a fox"}))
    assert (question.answer, question.prompt.image, question.full.image) == ("a fox", tmp_path / "a.png", tmp_path / "a.png")
    assert question.prompt.messages == ({"role": "user", "content": "what?"},) and not question.prompt.complete
    assert [message["content"] for message in question.full.messages] == ["what?", "a fox"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("{", "not valid JSON"),
        ([1], "not a JSON object"),
        ({}, "messages is not a list"),
        ({"text": "a"}, "messages is not a list"),
        ({"messages": []}, "messages is not a list"),
        ({"messages": [USER]}, "does not end in the expected answer"),
        ({"messages": [ANSWER]}, "does not end in the expected answer"),
        ({"messages": [USER, ANSWER, USER]}, "does not end in the expected answer"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "text", "text": "4"}]}]}, "does not end in"),
        ({"image": "gone.png", "answer": "a"}, "no picture gone.png"),
        ({"image": "a.png", "question": "what?"}, "does not end in the expected answer"),
        ({"image": "a.png", "answer": 4}, "must be text"),
        ({"image": None, "answer": "4"}, "has no image"),
    ],
)
def test_a_row_that_is_no_question_is_refused_with_its_line(tmp_path: Path, row: Any, what: str) -> None:
    file = write(tmp_path, {"messages": [USER, ANSWER]}, row)
    with pytest.raises(CalibrationError) as caught:
        read_questions(file)
    assert what in caught.value.what and caught.value.where == f"{file}:2" and caught.value.todo


def test_a_file_without_questions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no questions"):
        read_questions(write(tmp_path, "", ""))
    with pytest.raises(CalibrationError, match="No such file"):
        read_questions(tmp_path / "gone.jsonl")


def test_pictures_and_plain_text_do_not_stand_in_one_file(tmp_path: Path) -> None:
    file = write(tmp_path, {"image": "a.png", "answer": "a"}, {"image": "a.png", "answer": "b"}, {"messages": [USER, ANSWER]})
    with pytest.raises(CalibrationError, match="use one file for each") as caught:
        read_questions(file)
    assert caught.value.where == f"{file}:3"


def test_questions_and_pictures_must_lie_in_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    write(outside, {"messages": [USER, ANSWER]})
    assert read_questions(write(inside, {"image": "a.png", "answer": "a"}), (inside,))
    with pytest.raises(AccessError):
        read_questions(outside / "evaluation.jsonl", (inside,))
    with pytest.raises(AccessError):
        read_questions(write(inside, {"image": "../out/a.png", "answer": "a"}), (inside,))
    (inside / "link.jsonl").symlink_to(outside / "evaluation.jsonl")
    with pytest.raises(AccessError):
        read_questions(inside / "link.jsonl", (inside,))
