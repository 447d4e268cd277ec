"""Samples changed by hand and saved."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantui.calibration import schema
from quantui.calibration.edits import Choice, save
from quantui.calibration.preview import many_ids, open_seer
from quantui.calibration.sample import Sample, image_sample
from quantui.calibration.schema import Calibration, Source
from quantui.calibration.sources import read_samples
from quantui.errors import AccessError, CalibrationError, OutputError
from quantui.workspace import ASSETS

CHAT = ({"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"})
TEXTS = tuple(Sample(f"w:{i}", text=str(i)) for i in range(5))
CALIBRATION = Calibration(sources=(Source(kind="texts", texts=("x",)),), max_tokens=64)


def read(choice: Choice) -> str:
    """The texts in one line."""
    return "".join(str(sample.text) for sample in choice.samples)


def test_samples_are_moved_dropped_pinned_and_edited() -> None:
    choice = Choice(TEXTS)
    assert read(choice.move(0, 3)) == "12304" and read(choice.move(4, 0)) == "40123" and read(choice.move(1, 99)) == "02341"
    assert read(choice.drop(2)) == "0134" and read(choice) == "01234"
    edited = choice.pin(1).edit(1, text="new")
    assert read(edited) == "0new234" and edited.is_pinned(1) and edited.samples[1].where == "w:1 (edited)"
    fresh = [Sample("w", text=text) for text in ("7", "3", "8", "9")]
    assert read(choice.pin(3).pin(1).redraw(fresh, 4)) == "1378"
    assert read(choice.pin(3).pin(3, pinned=False).redraw(fresh, 2)) == "73"
    assert not choice.pin(3).drop(3).pinned
    changed = Choice((Sample("w", messages=CHAT),)).edit(0, messages=list(CHAT[:1]))
    assert changed.samples[0].messages == CHAT[:1] and not changed.samples[0].complete


def test_what_cannot_be_done_is_refused() -> None:
    choice = Choice(TEXTS)
    for change in (choice.drop, choice.pin, choice.is_pinned):
        with pytest.raises(CalibrationError, match="there is no sample 5; choose one from 0 to 4"):
            change(5)
    with pytest.raises(CalibrationError, match="the last sample"):
        Choice(TEXTS[:1]).drop(0)
    with pytest.raises(CalibrationError, match="the text is empty"):
        choice.edit(0, text=" ")
    with pytest.raises(CalibrationError, match="this sample has text"):
        choice.edit(0, messages=list(CHAT))
    with pytest.raises(CalibrationError, match="messages is not a list"):
        Choice((Sample("w", messages=CHAT),)).edit(0, messages=[])


@given(moves=st.lists(st.tuples(st.integers(0, 4), st.integers(-2, 7)), max_size=8))
def test_moving_loses_nothing(moves: list[tuple[int, int]]) -> None:
    choice = Choice(TEXTS)
    for index, to in moves:
        choice = choice.move(index, to)
    assert sorted(read(choice)) == list("01234")


def test_what_is_saved_gives_the_same_samples(tmp_path: Path) -> None:
    body = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(body, "PNG")
    pq.write_table(pa.Table.from_pylist([{"image": {"bytes": body.getvalue(), "path": None}}]), tmp_path / "a.parquet")
    (tmp_path / "b.png").write_bytes(body.getvalue())
    stored = read_samples(Calibration(sources=(Source(kind="dataset", path=tmp_path / "a.parquet"),)))
    samples = (
        Sample("w", text="plain 狐狸"), Sample("w", messages=CHAT), Sample("w", messages=CHAT[:1], complete=False),
        Sample("w", ids=(5, 6, 7)), image_sample("w", tmp_path / "b.png", "what?", "red"), *stored,
    )  # fmt: skip
    file = save(Choice(samples), CALIBRATION, tmp_path / "mine", (tmp_path,))
    again = schema.load(file)
    assert (again.samples, again.max_tokens, again.shuffle) == (6, 64, False)
    seer = open_seer(ASSETS / "demo" / "vision")
    assert list(many_ids(seer, read_samples(again, (tmp_path,)))) == list(many_ids(seer, samples))
    (tmp_path / "in").mkdir()
    away = save(
        Choice(samples), CALIBRATION, tmp_path / "in" / "mine", (tmp_path / "in",)
    )  # b.png lies outside, as the hub's do
    kept = read_samples(schema.load(away), (tmp_path / "in",))
    assert list(many_ids(seer, kept)) == list(many_ids(seer, samples))
    with pytest.raises(OutputError, match="exists already"):
        save(Choice(samples), CALIBRATION, tmp_path / "mine")
    with pytest.raises(AccessError):
        save(Choice(samples), CALIBRATION, tmp_path / "other", (tmp_path / "mine",))
    with pytest.raises(OutputError, match="no name"):
        save(Choice(samples), CALIBRATION, tmp_path / "a\nb")
