"""What a job says while it runs: one JSON object a line in events.jsonl, numbered, flushed at once.

The writer lives in the worker, readers everywhere else. Seconds are since the epoch; sequence numbers start at 1 and have
no gaps, so a reader that knows the last number it saw can ask for what came after.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

Level = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True)
class Log:
    """One line of text. `source` is who said it: "quantui", "llmcompressor", "transformers" ..."""

    kind: ClassVar[str] = "log"
    level: Level
    text: str
    source: str = "quantui"


@dataclass(frozen=True)
class Progress:
    """Where a stage stands: `done` of `total` units, and inside the current one `part_done` of `part_total`.

    `seconds_left` is None while it cannot be told. A total of 0 means the amount is not known.
    """

    kind: ClassVar[str] = "progress"
    stage: str
    done: int
    total: int
    unit: str = ""
    part_done: int = 0
    part_total: int = 0
    part_unit: str = ""
    seconds_left: float | None = None


@dataclass(frozen=True)
class Metric:
    """One number with its unit ("B", "s", "layers", "nats/token", "" for a ratio or share)."""

    kind: ClassVar[str] = "metric"
    name: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Artifact:
    """A file or folder the job has finished writing."""

    kind: ClassVar[str] = "artifact"
    name: str
    path: str


@dataclass(frozen=True)
class Failed:
    """The job ended without a result. `reason` is "input" (exit code 2), "run" (1) or "cancelled"."""

    kind: ClassVar[str] = "failed"
    what: str
    where: str = ""
    todo: str = ""
    reason: Literal["input", "run", "cancelled"] = "run"


@dataclass(frozen=True)
class Done:
    """The job ended with its result, which stands in result.json beside the events."""

    kind: ClassVar[str] = "done"


Event = Log | Progress | Metric | Artifact | Failed | Done
KINDS: dict[str, type[Event]] = {cls.kind: cls for cls in (Log, Progress, Metric, Artifact, Failed, Done)}


@dataclass(frozen=True)
class Stamped:
    """An event with its number (1 ...) and the time it was written (seconds since the epoch)."""

    seq: int
    time: float
    event: Event


_FIELDS = {cls: frozenset(field.name for field in dataclasses.fields(cls)) for cls in KINDS.values()}
TAIL_BYTES = 1 << 16
"""How much of a file's end is searched for the ending: the last lines."""


def encode(stamped: Stamped) -> str:
    """One line of JSON, without the newline."""
    body = {"seq": stamped.seq, "time": round(stamped.time, 3), "kind": stamped.event.kind}
    return json.dumps(body | vars(stamped.event), ensure_ascii=False)


def decode(line: str) -> Stamped:
    """The reverse of `encode`.

    Raises:
        ValueError: the line is not an event (json.JSONDecodeError is a ValueError too).
    """
    body: Any = json.loads(line)
    if not isinstance(body, dict) or body.get("kind") not in KINDS:
        raise ValueError(f"not an event: {line[:80]}")
    cls = KINDS[body.pop("kind")]
    seq, stamp = body.pop("seq"), body.pop("time")
    known = _FIELDS[cls]
    return Stamped(int(seq), float(stamp), cls(**{key: value for key, value in body.items() if key in known}))


def ending(path: Path) -> Stamped | None:
    """The Done or Failed that ended the job, found from the end of the file; None while there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
            lines = file.read().splitlines()
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        if b'"kind": "done"' in line or b'"kind": "failed"' in line:  # decoding every line would cost a poll milliseconds
            stamped = _decode(line)
            if stamped and isinstance(stamped.event, Done | Failed):
                return stamped
    return None


def last_stage(path: Path) -> str:
    """The stage of the last Progress in the file; empty if there is none."""
    stages = (stamped.event.stage for stamped in reversed(EventReader(path).read()) if isinstance(stamped.event, Progress))
    return next(stages, "")


def _decode(line: bytes) -> Stamped | None:
    try:
        return decode(line.decode())
    except (ValueError, KeyError, TypeError):
        return None  # torn by the death of its writer


class EventWriter:
    """Appends events to one file, from any thread, a whole line at a time.

    Continues the numbering of what is already there, so that whoever has to report the death of a worker can append to
    the worker's own file. A line torn by that death is closed first.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._seq = 0
        torn = False
        if path.exists():
            data = path.read_bytes()
            torn = bool(data) and not data.endswith(b"\n")
            found = (stamped.seq for line in reversed(data.splitlines()) if (stamped := _decode(line)))
            self._seq = next(found, 0)  # they are written in order
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        if torn:
            os.write(self._file, b"\n")

    def write(self, event: Event) -> Stamped:
        """Appends one event and returns it with its number and time."""
        with self._lock:
            self._seq += 1
            stamped = Stamped(self._seq, time.time(), event)
            # a lone surrogate (an undecodable file name) becomes its JSON escape
            os.write(self._file, (encode(stamped) + "\n").encode("utf-8", "backslashreplace"))
            return stamped

    def close(self) -> None:
        """Closes the file; the writer cannot be used afterwards."""
        os.close(self._file)


class EventReader:
    """Reads a growing events file from where it last stopped; a half-written last line waits for its end."""

    def __init__(self, path: Path, after: int = 0) -> None:
        self._path, self._offset, self._after = path, 0, after

    def read(self) -> list[Stamped]:
        """The events written since the last call with a number above `after`; [] while the file is not there."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        end = data.rfind(b"\n") + 1
        self._offset += end
        fresh: list[Stamped] = []
        for line in data[:end].splitlines():
            stamped = _decode(line)
            if stamped and stamped.seq > self._after:
                fresh.append(stamped)
        return fresh
