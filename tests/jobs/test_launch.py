"""Real worker processes: started in order, stopped, killed, taken up again by another process."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from quantui.events import Done, EventReader, EventWriter, Failed, Log, Metric, Progress, ending
from quantui.jobs import launch
from quantui.jobs.launch import Dispatcher, cancel, dispatch
from quantui.jobs.spare import Spare, worker_environment
from quantui.jobs.spare import start as start_worker
from quantui.jobs.store import JobStore, Run, Worker, read_worker
from quantui.jobs.tail import follow
from quantui.processes import identity, members
from quantui.workspace import write_json
from tests.jobs import leaderless
from tests.jobs.conftest import event, make_spec, start, until, worker_of
from tests.jobs.stations import COMMAND, SPARE

ROOT = Path(__file__).resolve().parents[2]


def failed(run: Run) -> Failed:
    """How the run failed; it must have."""
    last = ending(run.events)
    assert last is not None and isinstance(last.event, Failed)
    return last.event


def elsewhere(code: str) -> str:
    """Runs code in another process, as another web process or a command line would; what it prints."""
    header = "import sys; from pathlib import Path; from quantui.jobs.store import JobStore\n"
    header += "from quantui.jobs.launch import *; from tests.jobs.stations import COMMAND\n"
    done = subprocess.run(
        [sys.executable, "-c", header + code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


def test_a_job_from_the_first_line_to_the_result(store: JobStore) -> None:
    run = store.submit(make_spec("finish"))
    events = list(follow(store, run.id, COMMAND))
    assert [stamped.seq for stamped in events] == list(range(1, len(events) + 1))
    assert isinstance(events[0].event, Log) and "started on cpu" in events[0].event.text
    imported = event(run, Metric, name="imported").event
    assert isinstance(imported, Metric) and events[0].time < imported.value  # nobody waits for imports to hear of a job
    assert events[-1].event == Done()
    assert store.result(run.id) == {"answer": 42}
    assert "raw output" in (run.folder / "log.txt").read_text()
    ended = store.get(run.id)
    assert ended.state == "done" and ended.started and ended.ended and ended.created <= ended.ended


def test_three_jobs_wait_their_turn(store: JobStore) -> None:
    runs = [store.submit(make_spec("finish")) for _ in range(3)]
    positions = []
    while any(store.get(run.id).state in ("queued", "running") for run in runs):
        dispatch(store, COMMAND)
        states = [store.get(run.id) for run in runs]
        assert sum(run.state == "running" for run in states) <= 1
        positions.append([run.queue_position for run in states])
        time.sleep(0.02)
    assert positions[0] == [None, 1, 2] and [None, None, 1] in positions
    started = [store.get(run.id).started or 0.0 for run in runs]
    assert started == sorted(started)


def test_devices_do_not_wait_for_each_other(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.store.resolve_name", lambda device: device)
    runs = [store.submit(make_spec("sleep", device=device)) for device in ("cpu", "cuda:0", "cpu")]
    dispatch(store, COMMAND)
    assert [store.get(run.id).state for run in runs] == ["running", "running", "queued"]


def test_many_dispatchers_start_a_job_once(store: JobStore) -> None:
    run = store.submit(make_spec("finish"))
    threads = [threading.Thread(target=dispatch, args=(store, COMMAND)) for _ in range(6)]
    for thread in threads:
        thread.start()
    elsewhere(f"dispatch(JobStore(Path({str(store.runs)!r})), COMMAND)")
    for thread in threads:
        thread.join()
    event(run, Done)
    said = [s.event for s in EventReader(run.events).read()]
    assert sum(isinstance(e, Log) and "started on" in e.text for e in said) == 1


def test_the_dispatcher_thread_runs_the_queue(store: JobStore) -> None:
    dispatcher = Dispatcher(store, COMMAND)
    dispatcher.start()
    event(store.submit(make_spec("finish")), Done)
    dispatcher.stop()


def test_the_dispatcher_thread_survives_an_error(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def broken(*given: object) -> None:
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch, "PERIOD", 0.01)
    monkeypatch.setattr(launch, "dispatch", broken)
    dispatcher = Dispatcher(store, COMMAND)
    dispatcher.start()
    until(lambda: len(calls) > 2)
    dispatcher.stop()


def test_a_killed_child_is_reported_by_its_supervisor(store: JobStore) -> None:
    run = start(store, "sleep")
    event(run, Progress, stage="load")
    killed = time.monotonic()
    os.kill(worker_of(run).child or 0, signal.SIGKILL)
    event(run, Failed)
    assert time.monotonic() - killed < 5.0
    report = failed(run)
    assert "SIGKILL" in report.what and "peak memory was" in report.what and "allowed" in report.what
    assert report.where == "stage load" and "fewer or shorter calibration samples" in report.todo
    assert store.get(run.id).state == "failed"


@pytest.mark.parametrize("whole_group", [False, True])
def test_a_killed_supervisor_is_reported_by_dispatch(store: JobStore, whole_group: bool) -> None:
    run = start(store, "sleep")
    event(run, Progress, stage="load")
    worker = worker_of(run)
    dispatch(store, COMMAND)  # sees how much memory it has
    (os.killpg if whole_group else os.kill)(worker.pid, signal.SIGKILL)
    until(lambda: identity(worker.pid) is None)
    dispatch(store, COMMAND)
    report = failed(run)
    assert "SIGKILL" in report.what and "peak memory was" in report.what and report.where == "stage load"
    assert members(worker.pid) == []
    assert not psutil.pid_exists(worker.pid)  # reaped


def test_a_death_nobody_saw_is_reported_by_another_process(store: JobStore) -> None:
    run = store.submit(make_spec("sleep"))
    elsewhere(f"dispatch(JobStore(Path({str(store.runs)!r})), COMMAND)")  # and that process is gone
    event(run, Progress, stage="load")
    worker = worker_of(run)
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: identity(worker.pid) is None)
    dispatch(store, COMMAND)
    assert "gone" in failed(run).what and failed(run).reason == "run"
    assert members(worker.pid) == []


def test_a_job_goes_on_when_the_process_that_started_it_ends(store: JobStore) -> None:
    run = store.submit(make_spec("sleep"))
    elsewhere(f"dispatch(JobStore(Path({str(store.runs)!r})), COMMAND)")
    event(run, Progress, stage="load")
    again = JobStore(store.runs)
    dispatch(again, COMMAND)
    assert again.get(run.id).state == "running"
    cancelled = time.monotonic()
    cancel(again, run.id)
    assert time.monotonic() - cancelled < 5.0
    assert again.get(run.id).state == "cancelled" and members(worker_of(run).pid) == []


def test_the_next_job_starts_after_a_death(store: JobStore) -> None:
    first = start(store, "sleep")
    second = store.submit(make_spec("finish"))
    event(first, Progress, stage="load")
    os.killpg(worker_of(first).pid, signal.SIGKILL)
    list(follow(store, second.id, COMMAND))
    assert store.get(second.id).state == "done"


def test_cancel_ends_those_that_do_not_listen_too(store: JobStore) -> None:
    run = start(store, "deaf")
    grandchild = event(run, Metric, name="grandchild").event
    assert isinstance(grandchild, Metric)
    cancelled = time.monotonic()
    cancel(store, run.id)
    assert time.monotonic() - cancelled < 5.0
    assert members(worker_of(run).pid) == [] and identity(int(grandchild.value)) is None
    assert failed(run).reason == "cancelled"


def test_cancel_of_a_waiting_job_withdraws_it(store: JobStore) -> None:
    first = start(store, "sleep")
    waiting = store.submit(make_spec("finish"))
    cancel(store, waiting.id)
    cancelled = store.get(waiting.id)
    assert (cancelled.state, cancelled.started) == ("cancelled", None)
    cancel(store, first.id)
    dispatch(store, COMMAND)
    assert store.get(waiting.id) == cancelled


def test_cancel_of_an_ended_job_changes_nothing(store: JobStore) -> None:
    run = start(store, "finish")
    event(run, Done)
    before = run.events.read_bytes()
    cancel(store, run.id)
    assert run.events.read_bytes() == before and store.get(run.id).state == "done"


def test_dispatch_ends_what_a_dead_canceller_has_begun(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "GRACE", 0.0)
    monkeypatch.setattr(launch, "LAST", 0.3)
    run = start(store, "sleep")
    (run.folder / "cancel").touch()
    assert isinstance([stamped.event for stamped in follow(store, run.id, COMMAND)][-1], Failed)
    assert failed(run).reason == "cancelled"


def test_the_staging_folder_is_swept(store: JobStore, tmp_path: Path) -> None:
    run = start(store, "stage_output", out=tmp_path / "out")
    event(run, Progress, stage="load")
    assert list(tmp_path.glob(".out.partial-*"))
    cancel(store, run.id)
    assert not list(tmp_path.glob("*out*"))


def test_a_reused_pid_is_not_our_worker(store: JobStore) -> None:
    run = store.submit(make_spec("sleep"))
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as stranger:
        mine = identity(stranger.pid)
        assert mine is not None
        earlier = Worker(stranger.pid, mine[:-1] + "x", None, "cpu", time.time())
        write_json(run.folder / "process.json", dataclasses.asdict(earlier))
        dispatch(store, COMMAND)
        assert failed(run).what.startswith("the worker is gone")
        assert identity(stranger.pid) == mine  # and is left alone
        stranger.kill()


def test_a_restart_of_the_machine_is_named(store: JobStore) -> None:
    run = store.submit(make_spec("sleep"))
    earlier = Worker(os.getpid(), "another-boot:1234", None, "cpu", time.time())
    write_json(run.folder / "process.json", dataclasses.asdict(earlier))
    dispatch(store, COMMAND)
    assert "started again" in failed(run).what


def test_a_worker_does_nothing_before_process_json_is_written(store: JobStore) -> None:
    run = store.submit(make_spec("finish"))
    process = subprocess.run([*COMMAND, str(run.folder)], cwd=ROOT, stdin=subprocess.DEVNULL, timeout=20, check=False)
    assert process.returncode == 1  # whoever started it died: end of file at the gate
    assert not run.events.exists() and store.get(run.id).state == "queued"


def test_a_worker_that_finished_meanwhile_is_not_reported(store: JobStore) -> None:
    run = start(store, "sleep")
    event(run, Progress, stage="load")
    stale = store.get(run.id)
    os.killpg(worker_of(run).pid, signal.SIGKILL)
    writer = EventWriter(run.events)
    writer.write(Done())
    writer.close()
    assert stale.state == "running" and launch._bury(stale) is False
    assert store.get(run.id).state == "done"


def test_a_worker_that_cannot_start_is_reported(store: JobStore) -> None:
    run = store.submit(make_spec("finish"))
    dispatch(store, ("/no/such/python",))
    assert "cannot be started" in failed(run).what


def test_a_worker_that_dies_at_once_is_reported(store: JobStore) -> None:
    run = store.submit(make_spec("finish"))
    dispatch(store, ("false",))
    list(follow(store, run.id, COMMAND))
    assert "exited with code 1" in failed(run).what
    assert read_worker(run.folder) is not None


@pytest.fixture
def spare() -> Iterator[Spare]:
    """One that is ready."""
    spare = Spare("cpu", SPARE)
    until(spare.is_ready)
    yield spare
    spare.end()


def test_threads_of_a_worker_sleep_soon_unless_somebody_says_otherwise() -> None:
    assert int(worker_environment("cpu", {})["GOMP_SPINCOUNT"]) < 300_000  # libgomp's own
    assert worker_environment("cpu", {"GOMP_SPINCOUNT": "7"})["GOMP_SPINCOUNT"] == "7"


def test_workers_are_forked_one_after_another(store: JobStore, spare: Spare) -> None:
    for _ in range(2):
        run = store.submit(make_spec("finish"))
        dispatch(store, COMMAND, spare)
        event(run, Done)
        worker = worker_of(run)
        assert worker.pid != spare.pid and until(lambda: identity(worker.pid) is None)  # noqa: B023
        numbers = [stamped.seq for stamped in EventReader(run.events).read()]
        assert numbers == list(range(1, len(numbers) + 1))
        assert "raw output" in (run.folder / "log.txt").read_text()


def test_a_forked_worker_has_what_a_started_one_has(store: JobStore, spare: Spare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.store.resolve_name", lambda device: device)
    monkeypatch.setenv("SAID_LATER", "to the web process")
    seen = []
    for one in (None, spare):
        run = store.submit(make_spec("look_around", device="cuda:3"))
        dispatch(store, COMMAND, one)
        event(run, Done)
        seen.append(store.result(run.id) | {"folder": Path(store.result(run.id)["folder"]).name == run.id})
    assert seen[0] == seen[1]
    assert seen[1]["environment"]["CUDA_VISIBLE_DEVICES"] == "3" and "SAID_LATER" in seen[1]["environment"]


@pytest.mark.parametrize("victim", ["child", "worker"])
def test_a_forked_worker_is_killed_and_reported_like_any_other(store: JobStore, spare: Spare, victim: str) -> None:
    run = store.submit(make_spec("sleep"))
    dispatch(store, COMMAND, spare)
    event(run, Progress, stage="load")
    worker = worker_of(run)
    os.kill(worker.pid if victim == "worker" else worker.child or 0, signal.SIGKILL)
    until(lambda: dispatch(store, COMMAND, spare) or ending(run.events))
    assert "SIGKILL" in failed(run).what
    until(lambda: not members(worker.pid))


def test_a_forked_worker_outlives_what_it_was_forked_from(store: JobStore, spare: Spare) -> None:
    run = store.submit(make_spec("sleep"))
    dispatch(store, COMMAND, spare)
    event(run, Progress, stage="load")
    spare.end()
    dispatch(store, COMMAND)
    assert store.get(run.id).state == "running"
    cancel(store, run.id)
    assert failed(run).reason == "cancelled"


def test_a_spare_ends_with_whoever_keeps_it() -> None:
    code = "import os, time; from quantui.jobs.spare import Spare; from tests.jobs.stations import SPARE\n"
    code += "spare = Spare('cpu', SPARE)\nwhile not spare.is_ready(): time.sleep(0.01)\nprint(spare.pid)"
    pid = int(elsewhere(code))
    until(lambda: identity(pid) is None)


def test_a_spare_that_has_died_is_not_used(store: JobStore, spare: Spare) -> None:
    os.killpg(spare.pid, signal.SIGKILL)
    run = store.submit(make_spec("finish"))
    dispatch(store, COMMAND, spare)
    event(run, Done)
    until(lambda: not spare.is_alive)


def test_how_a_fork_ended_may_be_asked_by_many_at_once(store: JobStore, spare: Spare, tmp_path: Path) -> None:
    run = store.submit(make_spec("finish"))
    with (tmp_path / "log").open("wb") as log:
        child = start_worker([*COMMAND, str(run.folder)], "cpu", spare, output=log, errors=log, folder=tmp_path)
    assert child.stdin is not None
    child.stdin.close()  # its gate: it ends with 1
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: child.wait(), range(8))) == [1] * 8
    with pytest.raises(ChildProcessError):
        spare.code(child.pid)
    assert spare.is_alive


def test_a_fork_whose_first_thread_ends_before_others_is_reaped(spare: Spare, tmp_path: Path) -> None:
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, "-m", "tests.jobs.leaderless"]
        child = start_worker(command, "cpu", spare, output=log, errors=log, folder=Path.cwd())
    until(lambda: identity(child.pid) is None)
    assert child.poll() is None  # it looks gone, and cannot be asked about
    assert child.wait() == leaderless.CODE
    assert not psutil.pid_exists(child.pid)


def test_a_spare_that_does_not_answer_is_given_up(store: JobStore, spare: Spare, monkeypatch: pytest.MonkeyPatch) -> None:
    os.kill(spare.pid, signal.SIGSTOP)
    spare._socket.settimeout(0.2)
    run = store.submit(make_spec("finish"))
    dispatch(store, COMMAND, spare)
    event(run, Done)
    until(lambda: not spare.is_alive)


def test_the_dispatcher_keeps_one_spare(store: JobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PERIOD", 0.02)
    monkeypatch.setattr(launch, "SPARE_DELAY", 0.0)
    dispatcher = Dispatcher(store, COMMAND, SPARE)
    dispatcher.start()
    first = until(lambda: dispatcher.spare and dispatcher.spare.is_ready() and dispatcher.spare)
    for _ in range(2):
        event(store.submit(make_spec("finish")), Done)
    assert dispatcher.spare is first
    os.kill(first.pid, signal.SIGKILL)
    second = until(lambda: dispatcher.spare is not first and dispatcher.spare)
    dispatcher.stop()
    until(lambda: not members(second.pid))
