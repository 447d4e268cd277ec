"""Rows of every kind as samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.calibration.fields import Folders, to_sample, wanted_columns
from quantui.calibration.sample import Sample, StoredPicture
from quantui.errors import CalibrationError


def made(row: Any, key: str | None = None, **columns: str) -> Sample:
    """The sample of a row."""
    base = Folders(Path("/nowhere"), "What?")
    stored = StoredPicture({}, 0, "image", "w")
    return to_sample(row, "w", key=key, columns=columns, base=base, stored=lambda _column: stored)


def said(sample: Sample) -> list[tuple[str, str]]:
    """Role and content of its messages."""
    return [(message["role"], message["content"]) for message in sample.messages]


ASKED = [("user", "q"), ("assistant", "a")]
CHATS: dict[str, tuple[Any, list[tuple[str, str]]]] = {
    "messages": ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, ASKED),
    "ShareGPT": ({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, ASKED),
    "gsm8k": ({"question": "q", "answer": "a"}, ASKED),
    "msModelSlim's mix": ({"prompt": "q", "ans": "a"}, ASKED),
    "humaneval_x": ({"prompt": "q", "task_id": "x"}, ASKED[:1]),
    "alpaca": ({"instruction": "q", "input": "", "output": "a"}, ASKED),
    "alpaca with input": ({"instruction": "q", "input": "more"}, [("user", "q\n\nmore")]),
}


@pytest.mark.parametrize(("row", "wanted"), CHATS.values(), ids=CHATS.keys())
def test_chats(row: Any, wanted: list[tuple[str, str]]) -> None:
    sample = made(row)
    assert said(sample) == wanted and sample.complete == (wanted[-1][0] == "assistant")


@pytest.mark.parametrize(
    "row",
    [
        {"text": "t"},
        "t",
        ["t"],
        {"inputs_pretokenized": "t", "label": 0},
        {"inputs_pretokenized": ["t"]},
        {"text": "t", "prompt": "p"},
    ],
)
def test_texts(row: Any) -> None:
    assert made(row).text == "t"


def test_ids_are_taken_as_they_are() -> None:
    assert made({"input_ids": [3, 1, 2]}).ids == (3, 1, 2)
    for ids in ([], [1.5], [-1], [True], "12", [[1]]):
        with pytest.raises(CalibrationError, match="not a list of token ids"):
            made({"input_ids": ids})


def test_named_columns_come_before_the_usual_ones() -> None:
    row = {"text": "t", "body": "b", "q": "?", "a": "!", "talk": [{"role": "user", "content": "q"}], "one": ["x"]}
    assert made(row, key="body").text == "b" and made(row, key="one").text == "x" and made(row, text="body").text == "b"
    assert said(made(row, key="talk")) == said(made(row, messages="talk")) == [("user", "q")]
    assert said(made({"q": "q", "a": "a"}, question="q", answer="a")) == ASKED
    for bad in ({"key": "nix"}, {"text": "nix"}):
        with pytest.raises(CalibrationError, match="there is no column nix; there are text, body, q"):
            made(row, **bad)
    for key in ("q", "a"):
        with pytest.raises(CalibrationError, match=f"{key} is not text"):
            made({"q": 5, "a": ""}, key=key)


def test_pictures_of_tables_stay_where_they_are() -> None:
    sample = made({"image": {"bytes": b"x", "path": "a.png"}, "question": "q", "answer": ["a", "b"]})
    assert isinstance(sample.image, StoredPicture) and said(sample) == [("user", "q"), ("assistant", "a b")]
    assert said(made({"image": {"bytes": b"x"}})) == [("user", "What?")]
    for image in (5, {}, {"bytes": None}, [1]):
        with pytest.raises(CalibrationError, match="image is no picture"):
            made({"image": image})
    with pytest.raises(CalibrationError, match=r"there is no picture gone\.png"):
        made({"image": {"bytes": None, "path": "gone.png"}})
    with pytest.raises(CalibrationError, match="must be text"):
        made({"image": {"bytes": b"x"}, "answer": 5})


def test_only_useful_columns_are_read() -> None:
    names = ["prompt_id", "messages", "prompt", "score"]
    assert wanted_columns(names, None, {}) == ["messages", "prompt"]
    assert wanted_columns(names, "score", {}) == ["score"] and wanted_columns(names, None, {"text": "score"})[-1] == "score"
    assert wanted_columns(names, "nix", {}) == names and wanted_columns(["a", "b"], None, {}) == ["a", "b"]


VALUES = (
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.lists(st.text(max_size=2) | st.integers(), max_size=2)
)
ROWS = st.dictionaries(
    st.sampled_from(["messages", "conversations", "image", "text", "prompt", "input_ids", "question", "x"]), VALUES
)


@given(row=ROWS | VALUES, key=st.none() | st.sampled_from(["text", "x"]))
def test_no_row_raises_anything_but_a_calibration_error(row: Any, key: str | None) -> None:
    try:
        assert isinstance(made(row, key), Sample)
    except CalibrationError as error:
        assert error.where == "w"
