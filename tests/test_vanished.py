"""What is said of a worker that ended without a word."""

from __future__ import annotations

import signal
from dataclasses import replace

import pytest

from quantui.vanished import MEMORY_ADVICE, Death, report, size

GB = 10**9
KILLED = Death(stage="quantize", signal=signal.SIGKILL, exit_code=None, peak=2 * GB, limit=16 * GB, oom_killed=False)


@pytest.mark.parametrize(
    ("death", "what", "todo"),
    [
        (
            replace(KILLED, signal=signal.SIGBUS, peak=0, reads="/models/m"),
            "SIGBUS: a file in /models/m was cut short or overwritten while it was read, or the disk failed",
            "leave the files of a model as they are",
        ),
        (
            replace(KILLED, signal=signal.SIGBUS, peak=0),
            "SIGBUS: a file that it was reading was cut short",
            "look whether the disk",
        ),
        (
            replace(KILLED, oom_killed=True),
            "SIGKILL from the kernel, because memory ran out; its peak memory was 2.0 GB of",
            "use fewer",
        ),
        (
            replace(KILLED, peak=15 * GB),
            "SIGKILL, most likely because memory ran out; its peak memory was 15.0 GB of the 16.0 GB",
            "use fewer",
        ),
        (KILLED, "SIGKILL from outside; its peak memory was 2.0 GB", "run it again; if nobody stopped it on purpose, memory"),
        (replace(KILLED, signal=signal.SIGTERM), "SIGTERM from outside", "run it again"),
        (replace(KILLED, signal=signal.SIGSEGV), "SIGSEGV, a crash in native code", "log.txt"),
        (replace(KILLED, signal=60), "signal 60 from outside", "run it again"),
        (replace(KILLED, signal=None, exit_code=3), "exited with code 3 before its work was done", "log.txt"),
        (replace(KILLED, signal=None, peak=0), "the worker is gone and left no word", "run it again"),
        (replace(KILLED, signal=None, oom_killed=True), "left no word, and the kernel has run out of memory", "use fewer"),
        (replace(KILLED, signal=None, rebooted=True), "the machine was started again", "run it again"),
    ],
)
def test_the_likely_cause_and_what_to_try(death: Death, what: str, todo: str) -> None:
    failed = report(death)
    assert (
        what in failed.what
        and failed.todo.startswith((todo, "leave the files", "look at the end of log.txt"))
        and todo in failed.todo
    )
    assert failed.where == "stage quantize" and failed.reason == "run"
    assert ("peak memory" in failed.what) == bool(death.peak)
    assert MEMORY_ADVICE in failed.todo or death.rebooted or death.signal == signal.SIGBUS


def test_a_death_before_the_first_stage_has_no_place() -> None:
    assert report(replace(KILLED, stage="")).where == ""


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_600_000, "2.6 MB"), (123_456_789, "123 MB"), (5 * 10**15, "5000 TB")],
)
def test_sizes_for_people(count: int, text: str) -> None:
    assert size(count) == text
