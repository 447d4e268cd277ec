"""The lines of events.jsonl: what is written is what is read, whatever dies in between."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.events import (
    KINDS,
    TAIL_BYTES,
    Artifact,
    Done,
    Event,
    EventReader,
    EventWriter,
    Failed,
    Log,
    Metric,
    Progress,
    Stamped,
    decode,
    encode,
    ending,
    last_stage,
)

texts = st.text('aZ09 "\\/{}:,\n\r\t\0\x85\u2028é模😀\udc80', max_size=30)  # \udc80: a byte of a file name that is no UTF-8
counts = st.integers(0, 2**53)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Log, st.sampled_from(["debug", "info", "warning", "error"]), texts, texts),
    st.builds(Progress, texts, counts, counts, texts, counts, counts, texts, st.none() | st.floats(allow_nan=False)),
    st.builds(Metric, texts, st.floats(allow_nan=False), texts),
    st.builds(Artifact, texts, texts),
    st.builds(Failed, texts, texts, texts, st.sampled_from(["input", "run", "cancelled"])),
    st.builds(Done),
)


@given(st.builds(Stamped, counts, st.integers(0, 2**31).map(lambda n: n / 8), events))
def test_decode_reverses_encode(stamped: Stamped) -> None:
    line = encode(stamped)
    assert "\n" not in line and decode(line) == stamped


@given(st.lists(events, max_size=8), st.integers(0, 200))
def test_any_cut_loses_no_whole_line(tmp_path_factory: pytest.TempPathFactory, said: list[Event], cut: int) -> None:
    path = tmp_path_factory.mktemp("run") / "events.jsonl"
    writer = EventWriter(path)
    for event in said:
        writer.write(event)
    writer.close()
    data = path.read_bytes()
    path.write_bytes(data[: max(len(data) - cut, 0)])  # killed while it wrote
    whole = path.read_bytes().count(b"\n")
    survivor = EventWriter(path)
    last = survivor.write(Failed("gone"))
    survivor.close()
    read = EventReader(path).read()
    assert len(read) in (whole + 1, whole + 2)  # a cut of the newline alone leaves a whole event
    assert [s.event for s in read[:-1]] == said[: len(read) - 1] and read[-1].event == last.event
    assert [s.seq for s in read] == list(range(1, len(read) + 1))
    assert ending(path) == read[-1]


@pytest.mark.parametrize(
    "line", ["", "null", "[]", '{"kind": "log"}', '{"seq": 1, "time": 1, "kind": "unknown"}', '{"seq": 1, "time"', "\x00" * 40]
)
def test_what_is_no_event_is_refused_and_passed_over(tmp_path: Path, line: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        decode(line)
    path = tmp_path / "events.jsonl"
    path.write_text(f"{line}\n{encode(Stamped(7, 1.0, Done()))}\n")
    assert [s.seq for s in EventReader(path).read()] == [7]


def test_a_field_of_a_later_version_is_ignored() -> None:
    body = json.loads(encode(Stamped(1, 2.0, Metric("a", 1.0)))) | {"colour": "red"}
    assert decode(json.dumps(body)) == Stamped(1, 2.0, Metric("a", 1.0))


def test_every_kind_has_its_own_name() -> None:
    assert sorted(KINDS) == ["artifact", "done", "failed", "log", "metric", "progress"]


def test_a_reader_waits_for_the_end_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read() == []
    line = encode(Stamped(1, 1.0, Log("info", "中文"))).encode() + b"\n"
    for end in range(len(line)):
        path.write_bytes(line[:end])
        assert reader.read() == []
    path.write_bytes(line)
    assert [s.event for s in reader.read()] == [Log("info", "中文")]
    assert reader.read() == []


def test_a_reader_may_start_after_a_number(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)
    for i in range(5):
        writer.write(Log("info", str(i)))
    assert [s.seq for s in EventReader(path, after=3).read()] == [4, 5]
    writer.close()


def test_many_threads_write_whole_lines_in_order(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path)

    def talk() -> None:
        for _ in range(100):
            writer.write(Log("info", "x" * 500))

    threads = [threading.Thread(target=talk) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert [s.seq for s in EventReader(path).read()] == list(range(1, 501))


def test_a_writer_goes_on_where_another_stopped(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for _ in range(2):
        writer = EventWriter(path)
        writer.write(Log("info", "a"))
        writer.close()
    assert [s.seq for s in EventReader(path).read()] == [1, 2]


@pytest.mark.parametrize("last", [Done(), Failed("x", "y", "z")])
@pytest.mark.parametrize("after", [0, 3])
def test_the_ending_is_found_at_the_end_of_a_long_file(tmp_path: Path, last: Any, after: int) -> None:
    path = tmp_path / "events.jsonl"
    assert ending(path) is None
    writer = EventWriter(path)
    for _ in range(TAIL_BYTES // 500):
        writer.write(Log("info", 'x"kind": "done"' * 50))
    assert ending(path) is None
    writer.write(last)
    for _ in range(after):
        writer.write(Log("info", "a thread that has not noticed"))
    writer.close()
    found = ending(path)
    assert found is not None and found.event == last


def test_the_last_stage(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert last_stage(path) == ""
    writer = EventWriter(path)
    for event in (Progress("load", 0, 1), Progress("save", 0, 1), Log("info", "x")):
        writer.write(event)
    writer.close()
    assert last_stage(path) == "save"
