"""A process that has imported what is slow, and forks others from itself: `python -m quantui.forkserver SOCKET`.

It is asked over a Unix socket whose number is its argument, a JSON line at a time, and ends when that is closed. What it starts
goes on without it. A fork is safe because nothing here starts a thread or touches a device: the engine, which does, is not
imported.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from quantui.worker import GARBAGE, STATIONS

SLOW = (
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "quantui.spec",
    *(place.partition(":")[0] for place in STATIONS.values()),
    "quantui.compare.conversation",
    "quantui.checkpoint.convert.native:warm_up",
)
"""What it imports, or calls. The engine is not among it: it binds the progress bars that a job has to replace first."""

READY = b"ready\n"


def main(argv: Sequence[str] | None = None, slow: Sequence[str] = SLOW) -> int:
    """Serves the socket until the other side closes it."""
    arguments = sys.argv[1:] if argv is None else argv
    asked = socket.socket(fileno=int(arguments[-1]))
    gc.set_threshold(*GARBAGE)
    for place in slow:
        name, _, call = place.partition(":")
        module = importlib.import_module(name)
        if call:
            getattr(module, call)()
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page they share
    asked.sendall(READY)
    while order := _receive(asked):
        message, streams = order
        answer = _fork(message, streams, asked) if "command" in message else _code(message["pid"])
        asked.sendall(json.dumps(answer).encode() + b"\n")
    return 0


def _receive(asked: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next order and the descriptors that came with it; None where the other side is gone."""
    line, streams = b"", list[int]()
    while not line.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(asked, 1 << 16, 3)
        if not part:
            return None
        line, streams = line + part, streams + descriptors
    return json.loads(line), streams


def _fork(order: dict[str, Any], streams: list[int], asked: socket.socket) -> dict[str, Any]:
    """Starts what is asked for; its pid, once it leads a group of its own, or the number of the error."""
    leads, led = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        for descriptor in (leads, led, *streams):
            os.close(descriptor)
        return {"errno": error.errno}
    if pid == 0:
        os.setsid()
        for descriptor in (leads, led, asked.detach()):
            os.close(descriptor)
        _become(order, streams)
    for descriptor in (led, *streams):
        os.close(descriptor)
    os.read(leads, 1)
    os.close(leads)
    return {"pid": pid}


def _become(order: dict[str, Any], streams: list[int]) -> NoReturn:
    """Goes on as the command would, and ends as it does."""
    code = 1
    try:
        for stream, descriptor in enumerate(streams):
            os.dup2(descriptor, stream)
            os.close(descriptor)
        os.chdir(order["folder"])
        os.environ.clear()
        os.environ.update(order["environment"])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        command: list[str] = order["command"]
        if _cannot_use_cuda():
            os.execv(command[0], command)
        _, _, name, *arguments = command
        code = importlib.import_module(name).main(arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001  (the end of a process: there is nobody left to tell but its stderr)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _cannot_use_cuda() -> bool:
    """Whether something imported has asked the CUDA driver a question, which a fork cannot do again."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda._is_in_bad_fork())


def _code(pid: int) -> dict[str, Any]:
    """How a process ended, as subprocess has it; None while it runs."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return {"code": os.waitstatus_to_exitcode(status) if done else None}


if __name__ == "__main__":
    sys.exit(main())
