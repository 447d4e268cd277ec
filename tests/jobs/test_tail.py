"""Events folded into a snapshot, the log a page shows, and what that costs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from quantui.events import (
    Artifact,
    Done,
    Event,
    EventReader,
    EventWriter,
    Failed,
    Level,
    Log,
    Metric,
    Progress,
    Stamped,
    encode,
)
from quantui.jobs.launch import cancel
from quantui.jobs.store import JobStore, Run
from quantui.jobs.tail import StageState, follow, read_logs, snapshot
from tests.jobs.conftest import event, make_spec, start
from tests.jobs.stations import COMMAND


def write_at(run: Run, *timed: tuple[float, Event]) -> None:
    lines = [encode(Stamped(number, at, what)) + "\n" for number, (at, what) in enumerate(timed, 1)]
    run.events.write_text("".join(lines))


def test_a_snapshot_of_nothing(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    seen = snapshot(store, run.id)
    assert seen.run.queue_position == 1 and seen.last_seq == 0 and seen.failed is None
    assert [stage.name for stage in seen.stages] == list(run.spec.stages())
    assert {stage.state for stage in seen.stages} == {"waiting"}


def test_stages_metrics_and_artifacts_are_folded(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    latest = Progress("quantize", 1, 4, "layers", seconds_left=9.0)
    write_at(
        run,
        (100.0, Progress("start", 0, 1)),
        (102.0, Progress("load", 0, 1)),  # `start` never said it was done
        (105.0, Progress("load", 1, 1)),
        (106.0, Metric("bytes", 1.0, "B")),
        (107.0, Metric("bytes", 2.0, "B")),
        (108.0, Artifact("model", "/out")),
        (109.0, Progress("quantize", 0, 4, "layers")),
        (110.0, latest),
        (111.0, Progress("extra", 0, 0)),
    )
    seen = snapshot(store, run.id)
    stages = {stage.name: stage for stage in seen.stages}
    assert (stages["start"].state, stages["start"].seconds) == ("done", 2.0)
    assert (stages["load"].state, stages["load"].seconds) == ("done", 3.0)
    assert (stages["quantize"].state, stages["quantize"].progress) == ("done", latest)
    assert seen.stages[-1].name == "extra" and stages["extra"].state == "running"
    assert seen.metrics == {"bytes": Metric("bytes", 2.0, "B")} and seen.artifacts == {"model": Artifact("model", "/out")}
    assert seen.last_seq == 9


def test_a_running_stage_counts_on_and_a_failed_one_stops(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    now = time.time()
    write_at(run, (now - 5, Progress("start", 0, 1)))
    running = snapshot(store, run.id).stages[0]
    assert running.state == "running" and running.seconds is not None and 4.9 < running.seconds < 9
    with run.events.open("a") as file:
        file.write(encode(Stamped(2, now - 3, Failed("broken"))) + "\n")
    seen = snapshot(store, run.id)
    seconds = seen.stages[0].seconds
    assert seen.stages[0] == StageState("start", "failed", Progress("start", 0, 1), seconds) and seconds == pytest.approx(
        2.0, abs=0.01
    )
    assert seen.failed == Failed("broken") and seen.run.state == "failed"


def test_logs_come_in_order_after_a_number(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    levels: tuple[Level, ...] = ("debug", "info", "warning", "error")
    writer = EventWriter(run.events)
    for i in range(8):
        writer.write(Log(levels[i % 4], str(i)))
        writer.write(Progress("load", i, 8))
    writer.write(Done())
    writer.close()

    def texts(logs: list[Stamped]) -> list[str]:
        return [s.event.text if isinstance(s.event, Log) else s.event.kind for s in logs]

    assert texts(read_logs(store, run.id)) == [*"01234567", "done"]
    assert texts(read_logs(store, run.id, after=3, limit=2)) == ["2", "3"]
    assert texts(read_logs(store, run.id, after=16)) == ["done"]
    assert read_logs(store, run.id, after=17) == []
    assert texts(read_logs(store, run.id, levels=("warning", "error"))) == ["2", "3", "6", "7", "done"]


def test_a_half_written_line_waits_and_a_torn_one_is_passed_over(store: JobStore) -> None:
    run = store.submit(make_spec("a"))
    first, second = (encode(Stamped(n, 1.0, Log("info", f"line {n}"))) for n in (1, 2))
    run.events.write_text(f"{first}\n{second[:20]}")
    assert [s.seq for s in read_logs(store, run.id)] == [1]
    with run.events.open("a") as file:
        file.write(second[20:] + "\n" + second[:30])  # whole now; the next is torn by a kill
    assert [s.seq for s in read_logs(store, run.id)] == [1, 2]
    writer = EventWriter(run.events)  # whoever reports the death
    writer.write(Failed("gone"))
    writer.close()
    assert [s.seq for s in read_logs(store, run.id)] == [1, 2, 3]
    assert snapshot(store, run.id).failed == Failed("gone")


def test_five_thousand_lines_are_read_once(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a poll costs, bench/page.py measures."""
    told: list[Stamped] = []
    reads = EventReader.read

    def read(reader: EventReader) -> list[Stamped]:
        found = list(reads(reader))
        told.extend(found)
        return found

    monkeypatch.setattr(EventReader, "read", read)
    run = store.submit(make_spec("a"))
    lines = [encode(Stamped(n, 1.0, Log("info", "a line of ordinary length"))) for n in range(1, 5001)]
    run.events.write_text("\n".join(lines) + "\n")
    for _ in range(5):
        assert snapshot(store, run.id).last_seq == 5000
        assert len(read_logs(store, run.id, after=4990)) == 10
        assert len(read_logs(store, run.id, after=1000, limit=100)) == 100
    assert len(told) == 5000


def test_follow_tells_of_a_cancel(store: JobStore) -> None:
    run = start(store, "sleep")
    event(run, Progress, stage="load")
    seen: list[Event] = []
    for stamped in follow(store, run.id, COMMAND):
        seen.append(stamped.event)
        if isinstance(stamped.event, Progress) and stamped.event.stage == "load":
            cancel(store, run.id)
    assert isinstance(seen[-1], Failed) and seen[-1].reason == "cancelled"


def test_a_log_line_may_hold_anything(store: JobStore, tmp_path: Path) -> None:
    run = store.submit(make_spec("a"))
    nasty = 'tab\t newline\n quote" 中文 \u2028 ' + os.fsdecode(b"bad \xff name")
    writer = EventWriter(run.events)
    writer.write(Log("info", nasty))
    writer.close()
    assert read_logs(store, run.id)[0].event == Log("info", nasty)
