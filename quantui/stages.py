"""The stages of a job: which one runs, how far it is, how long each took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from quantui.events import EventWriter, Progress


class Stages:
    """Says on the events file when a stage begins and ends; `seconds` keeps how long each took."""

    def __init__(self, events: EventWriter) -> None:
        self._events = events
        self._began = 0.0
        self.current = "start"
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The stage that runs inside the block; an exception leaves it unfinished."""
        self.current, self._began = name, time.monotonic()
        self._events.write(Progress(name, 0, 0))
        yield
        self.seconds[name] = round(time.monotonic() - self._began, 3)
        self._events.write(Progress(name, 1, 1))

    def told(self, done: int, total: int, unit: str) -> None:
        """Reports where the current stage stands."""
        spent = time.monotonic() - self._began
        left = round(spent * (total - done) / done, 1) if done else None
        self._events.write(Progress(self.current, min(done, total - 1) if total > 1 else 0, total, unit, seconds_left=left))


class Part(Stages):
    """The stages of a job within one stage of another: how far they are is how far that one is."""

    def __init__(self, whole: Stages) -> None:
        self._whole = whole
        self.current = whole.current
        self.seconds = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """The stage that runs inside the block."""
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 3)

    def told(self, done: int, total: int, unit: str) -> None:
        """Reports where the current stage stands."""
        self._whole.told(done, total, unit)
