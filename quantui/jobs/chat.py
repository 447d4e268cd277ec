"""The web process' side of the conversation with two models: one child process, its requests, and what it has said of each.

The child is started by the first request, ended when nobody has talked for a while or a job wants its device, and started again
by the next request, whatever ended it. Conversations are kept by whoever asks: every request brings its own.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantui.errors import RunError
from quantui.jobs.spare import Child, Spare, start
from quantui.processes import signal_group, wait_gone

COMMAND = (sys.executable, "-m", "quantui.chat_worker")
IDLE = 600.0
"""Seconds without a request after which the models are let go."""
KEPT = 900.0
"""Seconds that what was said of a finished request is kept."""
LOOK = 1.0


@dataclass
class _Said:
    """What was said of one request."""

    events: list[dict[str, Any]] = field(default_factory=list)
    over: float | None = None


class ChatProcess:
    """The one process that talks, for everybody.

    Args:
        log: file its stderr goes to.
        is_wanted: whether a job wants this device now.
        command: what starts it.
        idle: seconds after which it is ended where nobody talks.
        spare: what it may be forked from, when there is one.
    """

    def __init__(
        self,
        log: Path,
        is_wanted: Callable[[str], bool],
        command: Sequence[str] = COMMAND,
        idle: float = IDLE,
        spare: Callable[[], Spare | None] = lambda: None,
    ) -> None:
        self._log, self._is_wanted, self._command, self._idle, self._spare = log, is_wanted, command, idle, spare
        self._lock = threading.Condition()
        self._child: Child | None = None
        self._device = ""
        self._said: dict[str, _Said] = {}
        self._last = time.monotonic()
        self._ending = False
        self._watcher: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """The process, while there is one."""
        with self._lock:
            return self._child.pid if self._child is not None and self._child.poll() is None else None

    def ask(self, request: Mapping[str, Any], device: str) -> str:
        """Sends a request, starting the process if need be; the id to follow it by.

        Raises:
            RunError: the process cannot be started.
        """
        made = uuid.uuid4().hex
        with self._lock:
            self._forget()
            child = self._running(device)
            self._said[made] = _Said()
            self._last = time.monotonic()
            try:
                assert child.stdin is not None
                child.stdin.write(json.dumps({**request, "id": made, "device": device}).encode() + b"\n")
                child.stdin.flush()
            except (BrokenPipeError, OSError):
                self._said[made].events += [_death(child)]
                self._said[made].over = time.monotonic()
        return made

    def stop(self, request: str) -> None:
        """Makes a request end at the next token."""
        with self._lock:
            child = self._child
            if child is not None and child.stdin is not None and child.poll() is None and request in self._said:
                try:
                    child.stdin.write(json.dumps({"do": "stop", "id": request}).encode() + b"\n")
                    child.stdin.flush()
                except OSError:
                    return  # it has died, which its reader will say

    def events(self, request: str, after: int, wait: float) -> tuple[list[dict[str, Any]], bool]:
        """What was said of a request after the first so many events, waited for a little, and whether that is all."""
        end = time.monotonic() + wait
        with self._lock:
            while True:
                said = self._said.get(request)
                if said is None:
                    lost = {
                        "event": "failed",
                        "what": "nothing is known of this request any more",
                        "where": "",
                        "todo": "ask again",
                    }
                    return [lost], True
                left = end - time.monotonic()
                if len(said.events) > after or said.over is not None or left <= 0:
                    return said.events[after:], said.over is not None
                self._lock.wait(left)

    def end(self) -> None:
        """Ends the process, if there is one; what it was answering fails."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            _kill(child)

    def _running(self, device: str) -> Child:
        if self._child is not None and self._child.poll() is None and device == self._device:
            return self._child
        if self._child is not None:
            _kill(self._child)
        self._log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._log.open("wb") as log:
                child = start(self._command, device, self._spare(), output=None, errors=log, folder=Path.cwd())
        except OSError as error:
            what = f"the process that talks cannot be started ({error.strerror})"
            raise RunError(what, todo="free some memory and try again") from error
        self._child, self._device = child, device
        threading.Thread(target=self._read, args=(child,), name="chat", daemon=True).start()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="chat-idle", daemon=True)
            self._watcher.start()
        return child

    def _read(self, child: Child) -> None:
        assert child.stdout is not None
        for line in child.stdout:
            if not line.endswith(b"\n"):
                break  # it was ended in the middle of a word
            event = json.loads(line)
            with self._lock:
                said = self._said.get(str(event.pop("id", "")))
                if said is None:
                    continue
                said.events.append(event)
                if event["event"] in ("done", "failed"):
                    said.over = self._last = time.monotonic()
                self._lock.notify_all()
        child.wait()
        with self._lock:
            if self._child is child:
                self._child = None
            if self._child is None:
                for said in self._said.values():
                    if said.over is None:
                        said.events.append(_death(child))
                        said.over = time.monotonic()
            self._lock.notify_all()

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK)
            with self._lock:
                busy = any(said.over is None for said in self._said.values())
                rested = time.monotonic() - self._last
                device = self._device if self._child is not None else ""
            if device and not busy and (rested > self._idle or (rested > LOOK and self._is_wanted(device))):
                self.end()

    def _forget(self) -> None:
        now = time.monotonic()
        self._said = {name: said for name, said in self._said.items() if said.over is None or now - said.over < KEPT}


def _kill(child: Child) -> None:
    if child.poll() is None:
        signal_group(child.pid, signal.SIGKILL)
        wait_gone(child.pid, 2)
    child.wait()


def _death(child: Child) -> dict[str, Any]:
    code = child.poll()
    how = "gone" if code is None else f"ended by {signal.Signals(-code).name}" if code < 0 else f"gone with code {code}"
    return {
        "event": "failed",
        "died": True,
        "what": f"the process that talks was {how} while it answered",
        "where": "",
        "todo": "send the message again: the models are loaded anew, and the conversation is kept",
    }
