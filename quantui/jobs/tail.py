"""Following a job: its events folded into what a page shows, its log, and a stream for the command line.

Readers are kept between calls, so that polling a run of 50 000 lines reads only what is new.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from quantui.events import Artifact, Done, EventReader, Failed, Level, Log, Metric, Progress, Stamped
from quantui.jobs.launch import PERIOD, WORKER, dispatch
from quantui.jobs.store import JobStore, Run

POLL = 0.1
"""Seconds between two looks at a job that is followed."""
KEPT = 16
"""How many runs' readers are kept."""


@dataclass(frozen=True)
class StageState:
    """One stage: `progress` is its latest, `seconds` how long it took or has taken so far."""

    name: str
    state: Literal["waiting", "running", "done", "failed"]
    progress: Progress | None
    seconds: float | None


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment."""

    run: Run
    stages: tuple[StageState, ...]
    metrics: dict[str, Metric]
    artifacts: dict[str, Artifact]
    failed: Failed | None
    last_seq: int


def snapshot(store: JobStore, run_id: str) -> Snapshot:
    """The job as its events tell it so far.

    Raises:
        InputError: there is no such run.
    """
    run = store.get(run_id)
    fold = _fold(run)
    with fold.lock:
        fold.update()
        if fold.end and run.ended is None:
            run = store.get(run_id)  # it has ended since
        return Snapshot(
            run, fold.stages(run, time.time()), dict(fold.metrics), dict(fold.artifacts), fold.failed, fold.last_seq
        )


def read_logs(
    store: JobStore, run_id: str, after: int = 0, limit: int = 5000, levels: Collection[Level] | None = None
) -> list[Stamped]:
    """The first `limit` events for the log (Log, Failed, Done) numbered above `after`, oldest first.

    Args:
        store: the jobs.
        run_id: which of them.
        after: the last number the caller has seen.
        limit: how many to give at most.
        levels: only log lines of these levels; the end of the job always comes.

    Raises:
        InputError: there is no such run.
    """
    fold = _fold(store.get(run_id))
    with fold.lock:
        fold.update()
        fresh = islice(fold.log, bisect_right(fold.log, after, key=lambda stamped: stamped.seq), None)
        wanted = (s for s in fresh if levels is None or not isinstance(s.event, Log) or s.event.level in levels)
        return list(islice(wanted, limit))


def follow(store: JobStore, run_id: str, command: Sequence[str] = WORKER) -> Iterator[Stamped]:
    """Yields every event from the first on until the job has ended; dispatches meanwhile, so no web process is needed.

    Raises:
        InputError: there is no such run.
    """
    reader = EventReader(store.get(run_id).events)
    next_dispatch = 0.0
    while True:
        if time.monotonic() >= next_dispatch:
            dispatch(store, command)
            next_dispatch = time.monotonic() + PERIOD
        for stamped in reader.read():
            yield stamped
            if isinstance(stamped.event, Done | Failed):
                return
        time.sleep(POLL)


class _Fold:
    """What the events of one run add up to, so far as they have been read."""

    def __init__(self, events: Path) -> None:
        self.lock = threading.Lock()
        self.log: list[Stamped] = []
        self.metrics: dict[str, Metric] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.end: Stamped | None = None
        self.last_seq = 0
        self._reader = EventReader(events)
        self._progress: dict[str, Progress] = {}
        self._began: dict[str, float] = {}
        self._ended: dict[str, float] = {}

    @property
    def failed(self) -> Failed | None:
        """How it failed; None where it did not, or goes on."""
        return self.end.event if self.end and isinstance(self.end.event, Failed) else None

    def update(self) -> None:
        """Takes in what was written since the last time."""
        for stamped in self._reader.read():
            self.last_seq = stamped.seq
            match stamped.event:
                case Progress() as progress:
                    self._advance(progress, stamped.time)
                case Metric() as metric:
                    self.metrics[metric.name] = metric
                case Artifact() as artifact:
                    self.artifacts[artifact.name] = artifact
                case Log():
                    self.log.append(stamped)
                case Done() | Failed():
                    self.log.append(stamped)
                    self.end = stamped

    def stages(self, run: Run, now: float) -> tuple[StageState, ...]:
        """Every stage of the run in order, then any it did not announce."""
        names = [*run.spec.stages(), *(name for name in self._began if name not in run.spec.stages())]
        return tuple(self._stage(name, now) for name in names)

    def _advance(self, progress: Progress, at: float) -> None:
        name = progress.stage
        if name not in self._began:
            for earlier in self._began:
                self._ended.setdefault(earlier, at)  # a stage ends at the latest when the next begins
            self._began[name] = at
        if 0 < progress.total <= progress.done:
            self._ended[name] = at
        self._progress[name] = progress

    def _stage(self, name: str, now: float) -> StageState:
        if name not in self._began:
            return StageState(name, "waiting", None, None)
        end = self._ended.get(name)
        if end is not None or (self.end and not self.failed):
            seconds = (end or (self.end.time if self.end else now)) - self._began[name]
            return StageState(name, "done", self._progress[name], seconds)
        if self.end:
            return StageState(name, "failed", self._progress[name], self.end.time - self._began[name])
        return StageState(name, "running", self._progress[name], max(now - self._began[name], 0.0))


_folds: OrderedDict[Path, _Fold] = OrderedDict()
_folds_lock = threading.Lock()


def _fold(run: Run) -> _Fold:
    """The kept reader of a run; the KEPT runs that were asked for last are kept."""
    with _folds_lock:
        fold = _folds.pop(run.folder, None) or _Fold(run.events)
        _folds[run.folder] = fold
        while len(_folds) > KEPT:
            _folds.popitem(last=False)
        return fold
