"""A store whose workers are gone after the test, and ways to wait for what they say."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quantui.events import EventReader, Stamped
from quantui.jobs import launch
from quantui.jobs.launch import dispatch
from quantui.jobs.store import JobStore, Run, Worker, read_worker
from quantui.processes import identity, signal_group, wait_gone
from quantui.spec import QuantizeSpec
from tests.jobs.stations import COMMAND


def make_spec(name: str, out: Path | str = "/nowhere/out", **changes: Any) -> QuantizeSpec:
    """A spec whose station in tests/jobs/stations.py is `name`."""
    fields = {
        "model": "/nowhere/model",
        "recipe": "",
        "recipe_path": "recipe.yaml",
        "calibration": None,
        "calibration_path": None,
        "evaluation": None,
        "device": "cpu",
    }
    return QuantizeSpec.model_validate(fields | {"name": name, "out": str(out)} | changes)


def until(look: Callable[[], Any], seconds: float = 15.0) -> Any:
    """What `look` gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)
    return found


def event(run: Run, kind: type, **fields: Any) -> Stamped:
    """Waits for the first event of this kind whose fields are these."""

    def look() -> Stamped | None:
        for stamped in EventReader(run.events).read():
            if isinstance(stamped.event, kind) and all(getattr(stamped.event, k) == v for k, v in fields.items()):
                return stamped
        return None

    found: Stamped = until(look)
    return found


def start(store: JobStore, name: str, **changes: Any) -> Run:
    """Submits a job and starts it."""
    run = store.submit(make_spec(name, **changes))
    dispatch(store, COMMAND)
    return run


def worker_of(run: Run) -> Worker:
    """Who works on a run, its child included."""

    def look() -> Worker | None:
        worker = read_worker(run.folder)
        return worker if worker and worker.child else None

    found: Worker = until(look)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[JobStore]:
    """An empty store."""
    store = JobStore(tmp_path / "runs")
    yield store
    for run in store.list():
        worker = read_worker(run.folder)
        if worker and identity(worker.pid) == worker.identity:
            signal_group(worker.pid, signal.SIGKILL)
            wait_gone(worker.pid, 2)
    launch._reap()
