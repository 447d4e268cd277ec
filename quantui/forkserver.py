"""A process that has imported what is slow, and forks others from itself: `python -m quantui.forkserver DEVICE SOCKET`.

It is asked over a Unix socket whose number is its last argument, a JSON line at a time, and ends when that is closed. What it
starts goes on without it. A fork finds everything as a process of its own would, because nothing here leaves a thread of
torch's or has used a device; whether that is so for an accelerator, it tries once, with a fork that uses it.
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

from quantui.devices import torch_device
from quantui.worker import GARBAGE, STATIONS

SLOW = (
    "transformers.models.auto.modeling_auto",
    "transformers.modeling_utils",
    "quantui.spec",
    *(place.partition(":")[0] for place in STATIONS.values()),
    "quantui.compare.conversation",
    "quantui.checkpoint.convert.native:warm_up",
)
"""What it imports, or calls."""
ENGINE = "quantui.quantize.modifiers:warm_up"
"""What it calls beside that where there is no accelerator: it looks for one, after which a fork could not use it."""
PROBE = 60
"""Seconds that a fork may take to use an accelerator."""


def main(argv: Sequence[str] | None = None, slow: Sequence[str] = SLOW, engine: str = ENGINE) -> int:
    """Serves the socket until the other side closes it; its first line says whether forks may use accelerators."""
    *_, device, number = sys.argv[1:] if argv is None else argv
    asked = socket.socket(fileno=int(number))
    gc.set_threshold(*GARBAGE)
    threads = _import(slow, engine if device == "cpu" else "")
    gc.collect()
    gc.freeze()  # a collection in a child would write to, and so copy, every page they share
    _answer(asked, {"everywhere": device == "cpu" or _can_use(device)})
    while order := _receive(asked):
        message, streams = order
        _answer(asked, _fork(message, streams, asked, threads) if "command" in message else _code(message["pid"]))
    return 0


def _import(slow: Sequence[str], engine: str) -> int:
    """Imports everything; how many threads torch would use in a fork, 0 without torch."""
    threads = 0
    for place in (*slow, *filter(None, [engine])):
        name, _, call = place.partition(":")
        module = importlib.import_module(name)
        if call:
            getattr(module, call)()
        if not threads and "torch" in sys.modules:
            threads = sys.modules["torch"].get_num_threads()
            sys.modules["torch"].set_num_threads(1)  # a fork would wait for ever for the others
    return threads


def _can_use(device: str) -> bool:
    """Whether a fork of this process can use an accelerator."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(PROBE)
        try:
            import torch

            torch.zeros(1, device=torch_device(device)).add_(1).item()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _answer(asked: socket.socket, answer: dict[str, Any]) -> None:
    asked.sendall(json.dumps(answer).encode() + b"\n")


def _receive(asked: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next order and the descriptors that came with it; None where the other side is gone."""
    line, streams = b"", list[int]()
    while not line.endswith(b"\n"):
        part, descriptors, _, _ = socket.recv_fds(asked, 1 << 16, 3)
        if not part:
            return None
        line, streams = line + part, streams + descriptors
    return json.loads(line), streams


def _fork(order: dict[str, Any], streams: list[int], asked: socket.socket, threads: int) -> dict[str, Any]:
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
        _become(order, streams, threads)
    for descriptor in (led, *streams):
        os.close(descriptor)
    os.read(leads, 1)
    os.close(leads)
    return {"pid": pid}


def _become(order: dict[str, Any], streams: list[int], threads: int) -> NoReturn:
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
        if threads:
            sys.modules["torch"].set_num_threads(threads)
        _, _, name, *arguments = order["command"]
        code = importlib.import_module(name).main(arguments)
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:  # noqa: BLE001  (the end of a process: there is nobody left to tell but its stderr)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _code(pid: int) -> dict[str, Any]:
    """How a process ended, as subprocess has it; None while it runs, the number of the error once that was told."""
    try:
        done, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError as error:
        return {"errno": error.errno}
    return {"code": os.waitstatus_to_exitcode(status) if done else None}


if __name__ == "__main__":
    sys.exit(main())
