"""Run folders and the state they tell."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.errors import DeviceError, InputError
from quantui.events import Done, EventWriter, Failed, Log
from quantui.jobs.store import ID, JobStore, slug
from tests.jobs.conftest import make_spec


def say(folder: Path, *events: Log | Done | Failed) -> None:
    writer = EventWriter(folder / "events.jsonl")
    for event in events:
        writer.write(event)
    writer.close()


def pretend_started(folder: Path, pid: int = 1) -> None:
    body = {"pid": pid, "identity": "gone", "child": None, "device": "cpu", "started": 12.0}
    (folder / "process.json").write_text(json.dumps(body))


def test_ids_are_readable_and_rise_within_a_second(store: JobStore) -> None:
    runs = [store.submit(make_spec(name)) for name in ("zebra", "chat · FP8 w8a8/kv8", "模型", "zebra")]
    names = [run.id for run in runs]
    assert names == sorted(set(names))
    assert [name[16:] for name in names] == ["zebra", "chat-fp8-w8a8-kv8", "job", "zebra"]
    assert [run.id for run in store.list()] == names[::-1]


@given(st.text("aZ09 -_./·\\é模\n"))  # a short alphabet: hypothesis takes seconds to tabulate the whole of Unicode
def test_every_name_makes_an_id(name: str) -> None:
    assert ID.fullmatch(f"20261121-081530-{slug(name)}")


def test_many_submit_at_once(store: JobStore) -> None:
    threads = [threading.Thread(target=lambda: store.submit(make_spec("same"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({run.id for run in store.list()}) == 8


def test_the_queue_is_counted_per_device(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.store.resolve_name", lambda device: device)
    runs = [store.submit(make_spec("a", device=device)) for device in ("cpu", "cuda:0", "cpu", "cpu")]
    pretend_started(runs[0].folder)
    assert [store.get(run.id).queue_position for run in runs] == [None, 1, 1, 2]
    assert [run.queue_position for run in store.list()] == [2, 1, 1, None]


def test_a_device_that_is_not_there_is_refused_before_queueing(store: JobStore) -> None:
    with pytest.raises(DeviceError):
        store.submit(make_spec("a", device="cuda:99"))
    assert store.list() == []


def test_auto_is_resolved_when_queued(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.store.resolve_name", {"auto": "npu:0"}.get)
    assert store.submit(make_spec("a", device="auto")).spec.device == "npu:0"


@pytest.mark.parametrize(
    ("last", "state"),
    [
        (Done(), "done"),
        (Failed("x"), "failed"),
        (Failed("x", reason="input"), "failed"),
        (Failed("x", reason="cancelled"), "cancelled"),
    ],
)
def test_the_last_event_tells_the_state(store: JobStore, last: Done | Failed, state: str) -> None:
    run = store.submit(make_spec("a"))
    assert (run.state, run.started, run.ended) == ("queued", None, None)
    pretend_started(run.folder)
    say(run.folder, Log("info", "hello"))
    assert (store.get(run.id).state, store.get(run.id).started) == ("running", 12.0)
    say(run.folder, last)
    ended = store.get(run.id)
    assert ended.state == state and ended.ended is not None and ended.ended >= ended.created - 1
    assert JobStore(store.runs).get(run.id) == ended  # another process sees the same


@pytest.mark.parametrize("name", ["20261121-081530-none", "..", "../runs", "", "20261121-081530-a/..", "x" * 300])
def test_an_unknown_id_is_named(store: JobStore, name: str) -> None:
    with pytest.raises(InputError, match="no such run") as caught:
        store.get(name)
    assert caught.value.where == name


def test_a_broken_spec_hides_its_run_only(store: JobStore) -> None:
    good, bad = store.submit(make_spec("good")), store.submit(make_spec("bad"))
    (bad.folder / "spec.json").write_text('{"kind": "quantize", "colour": "red"}')
    assert [run.id for run in store.list()] == [good.id]
    with pytest.raises(InputError, match=r"spec\.json.*cannot be read"):
        store.get(bad.id)


@pytest.mark.parametrize("text", ["{", "[]", '{"pid": 1}'])
def test_a_run_whose_worker_cannot_be_told_stops_no_other(store: JobStore, text: str) -> None:
    bad, good = store.submit(make_spec("bad")), store.submit(make_spec("good"))
    (bad.folder / "process.json").write_text(text)
    assert [run.id for run in store.list()] == [good.id]


def test_strange_things_in_the_folder_are_no_runs(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    (store.runs / "notes.txt").write_text("mine")
    (store.runs / "20261121-081530-half").mkdir()
    assert [r.id for r in store.list()] == [run.id]


def test_no_folder_no_runs(tmp_path: Path) -> None:
    assert JobStore(tmp_path / "none").list() == []


def test_the_result_is_there_once_it_is_done(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    (run.folder / "result.json").write_text('{"answer": 42}')
    assert store.result(run.id) is None
    say(run.folder, Done())
    assert store.result(run.id) == {"answer": 42}
