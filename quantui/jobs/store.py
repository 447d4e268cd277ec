"""Run folders: where jobs are kept, and what state each of them is in.

runs/ID/
  spec.json      what is asked for, written once by `JobStore.submit`
  process.json   who works on it, written by `quantui.jobs.launch` (and the child's pid by the worker)
  cancel         somebody wants it stopped
  events.jsonl   what the worker says; its last line tells how the job ended
  log.txt        raw stdout and stderr of the worker
  result.json    on success

The state is derived from these files each time, so that any process may restart at any moment.
"""

from __future__ import annotations

import fcntl
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from quantui.devices import resolve_name
from quantui.errors import InputError
from quantui.events import Failed, Stamped, ending
from quantui.spec import JobSpec
from quantui.workspace import write_json

State = Literal["queued", "running", "done", "failed", "cancelled"]
SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
ID = re.compile(r"\d{8}-\d{6}-[a-z0-9][a-z0-9-]*")
STAMP = "%Y%m%d-%H%M%S"
"""How an id begins: the time of submission, UTC, moved on by a second where another run has that one already."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """Who works on a run: process.json.

    Attributes:
        pid: the supervisor, leader of the worker's process group.
        identity: what tells it from a later process with the same pid (`quantui.processes.identity`).
        child: the process that runs the station, once there is one.
        device: the device it was given.
        started: seconds since the epoch.
        oom_kills: how often the kernel had run out of memory before, to tell whether it did since.
    """

    pid: int
    identity: str
    child: int | None
    device: str
    started: float
    oom_kills: int = 0


@dataclass(frozen=True)
class Run:
    """One job as its folder tells it. Times are seconds since the epoch; `queue_position` 1 is next on its device."""

    id: str
    folder: Path
    spec: JobSpec
    state: State
    created: float
    started: float | None = None
    ended: float | None = None
    queue_position: int | None = None

    @property
    def events(self) -> Path:
        """Its events file, which may not be there yet."""
        return self.folder / "events.jsonl"


class JobStore:
    """The run folders of one workspace.

    Args:
        runs: the folder they are in (`Workspace.runs`).
    """

    def __init__(self, runs: Path) -> None:
        self.runs = runs
        self._ended: dict[str, Run] = {}  # how a run ended never changes, so it is read once

    def submit(self, spec: JobSpec) -> Run:
        """Puts a job at the end of its device's queue; `quantui.jobs.launch.dispatch` starts it.

        Raises:
            DeviceError: the device is unknown or not there.
        """
        spec = spec.model_copy(update={"device": resolve_name(spec.device)})
        with self.lock():
            newest = max((path.name[:15] for path in _folders(self.runs)), default="")
            stamp = max(datetime.now(UTC).strftime(STAMP), _second_after(newest))
            folder = self.runs / f"{stamp}-{slug(spec.name)}"
            folder.mkdir(parents=True)
            write_json(folder / "spec.json", spec.model_dump(mode="json"))
        return self.get(folder.name)

    def get(self, run_id: str) -> Run:
        """The run with this id.

        Raises:
            InputError: there is none, or its spec.json cannot be read.
        """
        if ID.fullmatch(run_id) is None or not (self.runs / run_id / "spec.json").is_file():
            raise InputError("there is no such run", where=run_id, todo="look for its id in the list of runs")
        run = self._read(self.runs / run_id)
        if run.state == "queued":
            return next((other for other in self.list() if other.id == run_id), run)
        return run

    def list(self) -> list[Run]:
        """Every run, newest first."""
        runs: list[Run] = []
        waiting: dict[str, int] = {}
        for folder in sorted(_folders(self.runs)):
            try:
                run = self._read(folder)
            except InputError as error:
                _log.warning("%s", error)
                continue
            if run.state == "queued":
                position = waiting[run.spec.device] = waiting.get(run.spec.device, 0) + 1
                run = replace(run, queue_position=position)
            runs.append(run)
        return runs[::-1]

    def result(self, run_id: str) -> dict[str, Any] | None:
        """What the station returned, or None while there is no result.

        Raises:
            InputError: there is no such run.
        """
        run = self.get(run_id)
        if run.state != "done":
            return None
        body: dict[str, Any] = json.loads((run.folder / "result.json").read_text(encoding="utf-8"))
        return body

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Only one process, and one thread of it, is inside at a time: the queue is changed in here."""
        self.runs.mkdir(parents=True, exist_ok=True)
        with (self.runs / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _read(self, folder: Path) -> Run:
        if folder.name in self._ended:
            return self._ended[folder.name]
        spec_file = folder / "spec.json"
        try:
            spec = SPEC.validate_json(spec_file.read_bytes())
            created = spec_file.stat().st_mtime
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else f"{error.error_count()} wrong entries"
            raise InputError(f"this run cannot be read ({reason})", where=str(spec_file), todo="delete its folder") from error
        worker = read_worker(folder)
        started = worker.started if worker else None
        end = ending(folder / "events.jsonl")
        if end is None:
            return Run(folder.name, folder, spec, "running" if worker else "queued", created, started)
        run = Run(folder.name, folder, spec, _end_state(end), created, started, end.time)
        self._ended[folder.name] = run
        return run


def _folders(runs: Path) -> list[Path]:
    if not runs.is_dir():
        return []
    return [p for p in runs.iterdir() if ID.fullmatch(p.name) and (p / "spec.json").is_file()]


def read_worker(folder: Path) -> Worker | None:
    """Who works, or worked, on the run in this folder; None while nobody has begun.

    Raises:
        InputError: process.json is damaged.
    """
    file = folder / "process.json"
    try:
        return Worker(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"this run cannot be read ({error})", where=str(file), todo="delete its folder") from error


def slug(name: str) -> str:
    """The name as it stands in ids: lower-case ASCII letters, digits and single dashes, at most 40 characters.

    >>> slug("chat · FP8 w8a8/kv8")
    'chat-fp8-w8a8-kv8'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].rstrip("-") or "job"


def _second_after(stamp: str) -> str:
    if not stamp:
        return ""
    return (datetime.strptime(stamp, STAMP).replace(tzinfo=UTC) + timedelta(seconds=1)).strftime(STAMP)


def _end_state(end: Stamped) -> State:
    if not isinstance(end.event, Failed):
        return "done"
    return "cancelled" if end.event.reason == "cancelled" else "failed"
