"""Stations for the tests, in real worker processes: what the name of a spec says happens.

`python -m tests.jobs.stations --gated RUN_FOLDER` is a worker that knows them.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui import forkserver, worker
from quantui.errors import CancelledError, RecipeError, ResultError
from quantui.events import Artifact, EventWriter, Log, Metric, Progress

if TYPE_CHECKING:
    from quantui.spec import QuantizeSpec

COMMAND = (sys.executable, "-m", "tests.jobs.stations", "--gated")
SPARE = (sys.executable, "-m", "tests.jobs.stations", "--spare")

IMPORTED = time.time()
"""When a worker imported its stations, which are another module than the one it was started with."""


def finish(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Goes through a few stages and ends well."""
    for stage in ("load", "quantize"):
        for done in range(3):
            events.write(Progress(stage, done, 2))
    print("raw output")
    events.write(Log("warning", "one thing"))
    events.write(Metric("imported", IMPORTED, "s"))
    events.write(Artifact("model", str(folder)))
    return {"answer": 42}


def sleep(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Works until somebody stops it."""
    events.write(Progress("load", 0, 1))
    time.sleep(60)
    return {}


def deaf(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Ignores SIGTERM, and so does the process it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as grandchild:
        assert grandchild.stdout is not None
        grandchild.stdout.readline()
        events.write(Metric("grandchild", grandchild.pid))
        return sleep(events, folder)


def stage_output(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Is stopped while it writes its output folder."""
    from quantui.workspace import staged_folder

    with staged_folder(folder.parent.parent / "out") as staging:
        (staging / "half").write_text("half")
        return sleep(events, folder)


def leave_orphan(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Ends well, but leaves a process behind."""
    orphan = subprocess.Popen(["sleep", "60"])
    events.write(Metric("grandchild", orphan.pid))
    return {}


def allocate(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Asks for more memory than it may have."""
    events.write(Progress("load", 0, 1))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    return {"size": len(bytearray(1 << 31))}


def crash(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Reads memory that is not there."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)
    return {}


def read_on(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Reads a mapped file that somebody else has cut short meanwhile."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    events.write(Progress("load", 0, 1))
    file = folder / "weights"
    file.write_bytes(bytes(1 << 16))
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        os.truncate(file, 0)
        return {"sum": sum(mapped[:])}


def leave(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Exits without a word."""
    events.write(Progress("load", 0, 1))
    os._exit(3)


def refuse(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Does not like its input."""
    raise RecipeError("targets match no layer", where="recipe.yaml", todo="use Linear")


def spoil(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Makes a result that is wrong."""
    raise ResultError("a scale is not finite", where="layers.0", todo="choose another observer")


def give_up(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Was told to stop."""
    raise CancelledError("stopped", todo="run it again")


def stumble(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Meets something nobody thought of."""
    events.write(Progress("load", 0, 1))
    raise KeyError("model.layers.0")


def look_around(events: EventWriter, folder: Path) -> dict[str, Any]:
    """Says what a process can know of itself."""
    opened = {int(one.name): one.resolve().name for one in Path("/proc/self/fd").iterdir() if one.exists()}
    handled = [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)]
    leads = os.getpgid(0) == os.getppid() == os.getsid(0)
    given = {key: text for key, text in os.environ.items() if key not in ("PWD", "OLDPWD", "_", "SHLVL")}
    return {"opened": opened, "signals": handled, "folder": str(Path.cwd()), "leads": leads, "environment": given}


def run(spec: QuantizeSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """The station the name asks for."""
    result: dict[str, Any] = globals()[spec.name](events, folder)
    return result


def main(arguments: Sequence[str]) -> int:
    """A worker that knows these stations, or what such are forked from."""
    if "--spare" in arguments:
        return forkserver.main(arguments, slow=(), engine="")
    return worker.main(arguments, stations={"quantize": "tests.jobs.stations:run"})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
