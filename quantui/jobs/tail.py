"""Following a job: its events folded into what a page shows, its log, and a stream for the command line.

Readers are kept between calls, so that polling a run of 50 000 lines reads only what is new.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from quantui.events import Artifact, Failed, Level, Metric, Progress, Stamped
from quantui.jobs.store import JobStore, Run


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
    raise NotImplementedError


def read_logs(
    store: JobStore, run_id: str, after: int = 0, limit: int = 5000, levels: Collection[Level] | None = None
) -> list[Stamped]:
    """The first `limit` events for the log (Log, Failed, Done) numbered above `after`, oldest first.

    Args:
        levels: only log lines of these levels (the end of the job always comes).

    Raises:
        InputError: there is no such run.
    """
    raise NotImplementedError


def follow(store: JobStore, run_id: str) -> Iterator[Stamped]:
    """Yields every event from the first on until the job has ended; dispatches meanwhile, so no web process is needed."""
    raise NotImplementedError
