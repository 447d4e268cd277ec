"""A process that stands by with torch and transformers imported, so that whatever is forked from it begins seconds earlier."""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from quantui.devices import environment
from quantui.processes import identity, signal_group

SPARE = (sys.executable, "-m", "quantui.forkserver")
CAUTION = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
"""Has torch look for GPUs without the driver, and load no accelerator's package by itself: forks could not use it then."""
WAITING = {"GOMP_SPINCOUNT": "10000"}
"""How long torch's threads spin before they sleep while they wait for one another, some 0.1 ms and not 10: where somebody else
uses a core, a spinning one keeps from it the very thread it waits for, and jobs beside each other take ten times as long."""
PATIENCE = 10.0
"""Seconds that it may take to answer, which it does in a tenth of one."""
POLL = 0.01
"""Seconds between two questions whether a process has ended."""

_PROJECT = Path(__file__).resolve().parents[2]


class Spare:
    """A process of `quantui.forkserver`.

    Args:
        device: the resolved name of the device that most jobs will use.
        command: what starts it, less the device and the number of its socket.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, device: str = "cpu", command: Sequence[str] = SPARE) -> None:
        self._socket, other = socket.socketpair()
        self._socket.settimeout(PATIENCE)
        self._lock = threading.Lock()
        self._everywhere: bool | None = None  # whether what it forks may use accelerators; None until it is ready
        with other:
            self._process = subprocess.Popen(
                [*command, device, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**worker_environment(device, os.environ), **CAUTION},
                pass_fds=[other.fileno()],
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that others are forked from."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still stands by."""
        return self._process.poll() is None

    def is_ready(self, device: str = "cpu") -> bool:
        """Whether it has imported everything, still stands by, and can fork what uses a device."""
        with self._lock:
            if self._everywhere is None and self.is_alive and select.select([self._socket], [], [], 0)[0]:
                self._everywhere = self._hear().get("everywhere")
        return self.is_alive and (self._everywhere or (device == "cpu" and self._everywhere is not None))

    def fork(
        self, command: Sequence[str], output: IO[Any] | None, errors: IO[Any], folder: Path, environment: Mapping[str, str]
    ) -> Forked:
        """Forks what a command of the form `python -m MODULE ARGUMENTS` would start; for the rest as `start`.

        Raises:
            OSError: it cannot be started.
        """
        order = {"command": list(command), "folder": str(folder), "environment": dict(environment)}
        taken, given = map(os.fdopen, os.pipe(), ("rb", "wb"))
        heard, said = (None, output) if output else map(os.fdopen, os.pipe(), ("rb", "wb"))
        try:
            pid = self._ask(order, [taken.fileno(), said.fileno(), errors.fileno()])["pid"]
        except OSError:
            given.close()
            if heard:
                heard.close()
            raise
        finally:
            taken.close()
            if heard:
                said.close()
        return Forked(pid, self, given, heard)

    def code(self, pid: int) -> int | None:
        """How a process it has forked has ended, as subprocess has it; None while that runs.

        Raises:
            OSError: nobody can tell any more.
        """
        found: int | None = self._ask({"pid": pid}, [])["code"]
        return found

    def end(self) -> None:
        """Ends it; what it has forked goes on."""
        signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._socket.close()

    def _ask(self, order: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
        """One order and its answer.

        Raises:
            OSError: it is gone, or could not do it.
        """
        line = json.dumps(order).encode() + b"\n"
        with self._lock:
            try:
                sent = socket.send_fds(self._socket, [line], descriptors)
                self._socket.sendall(line[sent:])
                found = self._hear()
            except TimeoutError:
                signal_group(self.pid, signal.SIGKILL)  # an answer that came later would be taken for the next one
                raise
        if not found:
            raise BrokenPipeError("the process that forks workers is gone")
        if "errno" in found:
            raise OSError(found["errno"], os.strerror(found["errno"]))
        return found

    def _hear(self) -> dict[str, Any]:
        """Its next line; empty where it is gone."""
        answer = b""
        while not answer.endswith(b"\n"):
            part = self._socket.recv(1 << 12)
            if not part:
                return {}
            answer += part
        found: dict[str, Any] = json.loads(answer)
        return found


class Forked:
    """A process that a spare has forked, with what is used here of `subprocess.Popen`.

    Attributes:
        pid: its own, and that of the group it leads.
        stdin: a pipe to it.
        stdout: a pipe from it; None where its output goes elsewhere.
    """

    def __init__(self, pid: int, spare: Spare, stdin: IO[bytes], stdout: IO[bytes] | None) -> None:
        self.pid, self.stdin, self.stdout = pid, stdin, stdout
        self._spare = spare
        self._code: int | None = None
        self._untold = False
        self._lock = threading.Lock()  # how it ended can be asked once

    def poll(self) -> int | None:
        """How it has ended, as subprocess has it; None while it runs, or where nobody can tell any more."""
        with self._lock:
            if self._code is None and not self._untold:
                try:
                    self._code = self._spare.code(self.pid)
                except ChildProcessError:
                    self._untold = True
                except OSError:  # no answer: the spare is ended by then, and so found to be gone
                    pass
            return self._code

    @property
    def is_over(self) -> bool:
        """Whether no more will be heard of it: how it ended is known, or it is gone and so is the spare, who could tell.

        One whose first thread has ended before the others looks gone, and cannot be asked about yet.
        """
        return self.poll() is not None or self._untold or (not self._spare.is_alive and identity(self.pid) is None)

    def wait(self, timeout: float | None = None) -> int | None:
        """The same when it has ended.

        Args:
            timeout: seconds.

        Raises:
            subprocess.TimeoutExpired: it has not by then.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self.is_over:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            time.sleep(POLL)
        return self._code


Child = subprocess.Popen[bytes] | Forked


def start(
    command: Sequence[str], device: str, spare: Spare | None, *, output: IO[Any] | None, errors: IO[Any], folder: Path
) -> Child:
    """Starts a worker at the head of a group of its own, with a pipe to its stdin: forked from the spare where one is ready.

    Args:
        command: what starts it: an interpreter, "-m", a module that has a `main(arguments)`, and its arguments.
        device: the resolved name of the only device it will see.
        spare: what it may be forked from.
        output: where its stdout goes; None for a pipe.
        errors: where its stderr goes.
        folder: where it works.

    Raises:
        OSError: it cannot be started.
    """
    environment = worker_environment(device, os.environ)
    if spare and spare.is_ready(device):
        with contextlib.suppress(OSError):  # it has died meanwhile, or has no memory left for another: the long way, then
            return spare.fork(command, output, errors, folder, environment)
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=output or subprocess.PIPE,
        stderr=errors,
        cwd=folder,
        env=environment,
        start_new_session=True,
    )


def worker_environment(device: str, outer: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: it sees its device only, finds this package, and never goes on the network."""
    path = os.pathsep.join(filter(None, (str(_PROJECT), outer.get("PYTHONPATH"))))
    fixed = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    return {**WAITING, **outer, **environment(device), **fixed}
