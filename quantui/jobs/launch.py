"""Starting, stopping and watching over workers.

What is true stands in the run folders; any process may do this at any time, the page and the command line together. Whoever
holds the store's lock may change the queue.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path

from quantui import memory
from quantui.devices import resolve_name
from quantui.events import Event, EventWriter, Failed, ending, last_stage
from quantui.jobs.spare import Child, Forked, Spare, start
from quantui.jobs.store import JobStore, Run, Worker, read_worker
from quantui.processes import boot_id, identity, signal_group, wait_gone
from quantui.vanished import Death, report
from quantui.workspace import sweep_staging, write_json

WORKER = (sys.executable, "-m", "quantui.worker", "--gated")
PERIOD = 0.5
"""Seconds between two rounds of dispatching."""
GRACE = 3.0
"""Seconds a cancelled worker has between SIGTERM and SIGKILL."""
LAST = 1.5
"""Seconds to wait for a group to be gone after SIGKILL."""
ENDED = 1.0
"""Seconds that how a process ended may keep one waiting once its first thread has."""
CANCELLED = Failed("somebody cancelled it", todo="run it again when you want it", reason="cancelled")

SPARE_DELAY = 5.0
"""Seconds from the start until a worker stands by: the first page comes before it."""
SPARE_ROOM = 6_000_000_000
"""Bytes this machine has to allow for one to: it takes half a gigabyte."""

_log = logging.getLogger(__name__)
_children: dict[int, Child] = {}  # started by this process, to be reaped by it
_peaks: dict[str, int] = {}  # the memory running jobs were last seen to have had at most, bytes


def dispatch(store: JobStore, command: Sequence[str] = WORKER, spare: Spare | None = None) -> None:
    """Reports workers that vanished, then starts the oldest job of every device that has none running.

    Args:
        store: the jobs.
        command: what starts a worker, less the run folder.
        spare: what workers are forked from, where it is ready.
    """
    vanished: list[Run] = []
    with store.lock():
        runs = store.list()
        running = [run for run in runs if run.state == "running"]
        busy: set[str] = set()
        for run in running:
            if _is_alive(run):
                busy.add(run.spec.device)
            elif _bury(run):
                vanished.append(run)
        _reap(besides={worker.pid for run in running if (worker := read_worker(run.folder))})
        for run in reversed(runs):
            if run.state == "queued" and run.spec.device not in busy:
                busy.add(run.spec.device)
                _start(run, command, spare)
    for run in vanished:
        _sweep(run)


def cancel(store: JobStore, run_id: str) -> None:
    """Stops a job: withdrawn if it waits; if it runs, its whole process group is ended. Does nothing if it has ended.

    Returns within 5 seconds, when the group is gone. A process may ignore SIGTERM; GRACE seconds later it gets SIGKILL.

    Raises:
        InputError: there is no such run.
    """
    with store.lock():
        run = store.get(run_id)
        if run.state not in ("queued", "running"):
            return
        (run.folder / "cancel").touch()  # should this process die now, dispatch ends the job
        if run.state == "queued":
            _end(run, CANCELLED)
            return
    worker = read_worker(run.folder)
    if worker and identity(worker.pid) == worker.identity:
        _stop(worker.pid)
    with store.lock():
        _end(run, CANCELLED)
    _sweep(run)


class Dispatcher:
    """A daemon thread that dispatches every PERIOD.

    Args:
        store: the jobs.
        command: what starts a worker, less the run folder.
        spare: what starts the process that workers are forked from; none if this is empty.

    Attributes:
        spare: that process.
    """

    def __init__(self, store: JobStore, command: Sequence[str] = WORKER, spare: Sequence[str] = ()) -> None:
        self._store, self._command, self._spare_command = store, command, spare
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="dispatcher", daemon=True)
        self.spare: Spare | None = None
        self._spare_from = time.monotonic() + SPARE_DELAY

    def start(self) -> None:
        """Begins to dispatch."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; running jobs go on."""
        self._stopped.set()
        self._thread.join()
        self._drop_spare()

    def _work(self) -> None:
        while not self._stopped.wait(PERIOD):
            try:
                dispatch(self._store, self._command, self.spare)
                self._keep_spare()
            except Exception:  # noqa: BLE001  a full disk must not end the thread that would report it
                _log.exception("dispatching failed; it is tried again")

    def _keep_spare(self) -> None:
        """A process to fork from stands by; a job that has started without it shares no core with its imports."""
        if not self._spare_command or time.monotonic() < self._spare_from or memory.limit() < SPARE_ROOM:
            return
        idle = not any(run.state in ("queued", "running") for run in self._store.list())
        if self.spare and not (self.spare.is_ready() or (idle and self.spare.is_alive)):
            self._drop_spare()
        if idle and self.spare is None:
            self.spare = Spare(resolve_name("auto"), self._spare_command)

    def _drop_spare(self) -> None:
        if self.spare:
            self.spare.end()
        self.spare = None


def _sweep(run: Run) -> None:
    """Takes away what a dead worker left of a result under its staging name."""
    if run.spec.out:
        sweep_staging(Path(run.spec.out))


def _reap(besides: Collection[int] = ()) -> None:
    """Takes the ended children of this process off the process table, or they would stay there as zombies.

    Args:
        besides: pids to leave, since how those ended has not been reported yet.
    """
    ended = [pid for pid, child in _children.items() if _is_over(child)]
    for pid in ended:
        if pid not in besides:
            del _children[pid]


def _is_over(child: Child) -> bool:
    return child.is_over if isinstance(child, Forked) else child.poll() is not None


def _is_alive(run: Run) -> bool:
    worker = read_worker(run.folder)
    if worker is None or identity(worker.pid) != worker.identity:
        return False
    if worker.child:
        _peaks[run.id] = max(_peaks.get(run.id, 0), memory.peak(worker.child))
    with contextlib.suppress(FileNotFoundError):
        if time.time() - (run.folder / "cancel").stat().st_mtime > GRACE + LAST:
            signal_group(worker.pid, signal.SIGKILL)  # whoever cancelled it died on the way
    return True


def _bury(run: Run) -> bool:
    """Reports the death of a run's worker and ends what is left of its group; False if it had ended well meanwhile."""
    worker = read_worker(run.folder)
    if worker is None:
        return False
    if _is_of_this_boot(worker) and identity(worker.pid) is None:  # else the pid is somebody else's, and the group with it
        signal_group(worker.pid, signal.SIGKILL)
        wait_gone(worker.pid, LAST)
    return _end(run, CANCELLED if (run.folder / "cancel").exists() else report(_death(run, worker)))


def _is_of_this_boot(worker: Worker) -> bool:
    return not worker.identity or worker.identity.startswith(boot_id())


def _death(run: Run, worker: Worker) -> Death:
    child, code = _children.get(worker.pid), None
    if child is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):  # its first thread may have ended before others
            code = child.wait(ENDED)
    return Death(
        stage=last_stage(run.events),
        signal=-code if code is not None and code < 0 else None,
        exit_code=code if code is not None and code >= 0 else None,
        peak=_peaks.get(run.id, 0),
        limit=memory.limit(),
        oom_killed=memory.oom_kills() > worker.oom_kills,
        rebooted=not _is_of_this_boot(worker),
        reads=str(getattr(run.spec, "source", "") or getattr(run.spec, "model", "")),
    )


def _end(run: Run, last: Event) -> bool:
    """Writes how a job ended, if that does not stand there yet; whether it wrote. Under the lock, with the worker gone."""
    _peaks.pop(run.id, None)
    if ending(run.events):
        return False
    events = EventWriter(run.events)
    events.write(last)
    events.close()
    return True


def _stop(group: int) -> None:
    signal_group(group, signal.SIGTERM)
    if not wait_gone(group, GRACE):
        signal_group(group, signal.SIGKILL)
        wait_gone(group, LAST)


def _start(run: Run, command: Sequence[str], spare: Spare | None) -> None:
    """Starts the worker of a run. It waits at its gate until process.json says who it is, so it cannot go unnoticed."""
    kills = memory.oom_kills()
    with (run.folder / "log.txt").open("ab") as log:
        try:
            child = start([*command, str(run.folder)], run.spec.device, spare, output=log, errors=log, folder=run.folder)
        except OSError as error:
            what = f"the worker cannot be started ({error.strerror})"
            _end(run, Failed(what, str(command[0]), "free some memory and try again"))
            return
    _children[child.pid] = child
    worker = Worker(child.pid, identity(child.pid) or "", None, run.spec.device, time.time(), kills)
    write_json(run.folder / "process.json", asdict(worker))
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has died already, and will be reported
        child.stdin.write(b"\n")
        child.stdin.close()
