"""Starting, stopping and watching over workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from quantui.jobs.store import JobStore

WORKER = (sys.executable, "-m", "quantui.worker")


def dispatch(store: JobStore, command: Sequence[str] = WORKER) -> None:
    """Reports workers that vanished, then starts the oldest job of every device that has none running."""
    raise NotImplementedError


def cancel(store: JobStore, run_id: str) -> None:
    """Stops a job: withdrawn if it waits, its whole process group ended within 5 seconds if it runs; no-op if it has ended."""
    raise NotImplementedError


class Dispatcher:
    """A daemon thread that dispatches twice a second."""

    def __init__(self, store: JobStore, command: Sequence[str] = WORKER) -> None:
        self._store, self._command = store, command

    def start(self) -> None:
        """Begins."""

    def stop(self) -> None:
        """Ends the thread; running jobs go on."""
