"""The process a job runs in: `python -m quantui.worker RUN_FOLDER`.

It says its first line before it imports anything slow, then forks. The child runs the station; the parent only waits for
it, and reports when it ends without having said how. Whatever ends the parent ends the child too, and what the parent can no
longer report, `quantui.jobs.launch.dispatch` does.
"""

from __future__ import annotations

import contextlib
import errno
import faulthandler
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

from quantui.errors import CancelledError, InputError, QuantUIError, unfit_torchvision
from quantui.events import Done, EventWriter, Failed, Log, Progress, ending, last_stage

STATIONS = {
    "quantize": "quantui.quantize.run:quantize",
    "convert": "quantui.checkpoint.convert.run:convert",
    "stats": "quantui.stats.run:collect",
    "sensitivity": "quantui.sensitivity.run:score",
    "compare": "quantui.compare.run:compare",
    "harness": "quantui.compare.harness:run",
    "export": "quantui.formats.run:export",
}
"""Kind of job -> the function that does it: (spec, events, run folder) -> what goes into result.json."""

GATED = "--gated"
"""Wait for a byte on stdin: process.json has to be written before anything happens."""
GARBAGE = (50_000, 20, 50)
"""When cycles are looked for: as often as by default costs an import of torch and transformers one second of ten."""

Station = Callable[[Any, EventWriter, Path], dict[str, Any]]
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LONGEST = 2000  # characters of an exception's message in an event; log.txt has the whole


def main(argv: Sequence[str] | None = None, stations: Mapping[str, str] = STATIONS) -> int:
    """Runs the job of one run folder; 0 if it is done, 1 if not."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    gc.set_threshold(*GARBAGE)
    if GATED in arguments and not os.read(0, 1):
        return 1  # whoever started this died before it could say so in process.json
    folder = Path(arguments[-1]).resolve()
    spec: dict[str, Any] = json.loads((folder / "spec.json").read_bytes())
    events = EventWriter(folder / "events.jsonl")
    events.write(Log("info", f"worker {os.getpid()} started on {spec.get('device')}: {spec.get('kind')}"))
    events.write(Progress("start", 0, 1))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    supervisor = os.getpid()
    child = os.fork()
    if child == 0:
        _be_child(supervisor, folder, events, stations)
    return _supervise(child, folder, spec.get("out"), reads=str(spec.get("source") or spec.get("model") or ""))


def _be_child(supervisor: int, folder: Path, events: EventWriter, stations: Mapping[str, str]) -> NoReturn:
    code = 1
    try:
        _die_with(supervisor)
        faulthandler.enable()  # a crash in native code leaves its Python stack in log.txt
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")  # out of memory, the kernel takes this one, not the page
        code = run_station(folder, events, stations)
    except BaseException:  # noqa: BLE001  (a full disk, say: the parent reports what has no word)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)  # no teardown: threads of an engine that linger must not hold the device


def _die_with(supervisor: int) -> None:
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != supervisor:
        os._exit(1)  # it died before the line above


def run_station(folder: Path, events: EventWriter, stations: Mapping[str, str]) -> int:
    """Runs the station the spec asks for, and says how that ended; 0 if it is done, 1 if not."""
    try:
        spec, station = _load(folder, stations)
        events.write(Progress("start", 1, 1))
        result = station(spec, events, folder)
        _write_result(folder, result)
    except (Exception, SystemExit) as error:  # noqa: BLE001  (the boundary: everything becomes a Failed)
        if not isinstance(error, QuantUIError):
            traceback.print_exc()
        events.write(failure(error, last_stage(folder / "events.jsonl")))
        return 1
    events.write(Done())
    return 0


def _load(folder: Path, stations: Mapping[str, str]) -> tuple[Any, Station]:
    from pydantic import TypeAdapter

    from quantui.spec import JobSpec

    spec: Any = TypeAdapter(JobSpec).validate_json((folder / "spec.json").read_bytes())
    module, _, name = stations[spec.kind].partition(":")
    station: Station = getattr(importlib.import_module(module), name)
    return spec, station


def _write_result(folder: Path, result: dict[str, Any]) -> None:
    from quantui.workspace import write_json

    write_json(folder / "result.json", result)


def failure(error: BaseException, stage: str) -> Failed:
    """What an exception becomes at the end of a job.

    Args:
        error: what ended the station.
        stage: the last stage it had reached.
    """
    if isinstance(error, QuantUIError):
        reason: Literal["input", "run", "cancelled"] = "input" if isinstance(error, InputError) else "run"
        if isinstance(error, CancelledError):
            reason = "cancelled"
        return Failed(error.what, error.where, error.todo, reason)
    from quantui.vanished import ran_out

    what = f"{type(error).__name__}: {error}".strip().removesuffix(":")[:_LONGEST]
    where = f"stage {stage}" if stage else ""
    if (memory := ran_out(error)) is not None:
        return Failed(memory[0], where, memory[1])
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failed("the disk is full", str(error.filename or where), "free some space there, or choose another folder")
    if (cause := unfit_torchvision(error)) is not None:
        return Failed(cause.what, where, cause.todo)
    return Failed(what, where, "the traceback is in log.txt of the run; change the recipe or report it")


def _supervise(child: int, folder: Path, out: str | None, *, reads: str) -> int:
    from quantui import memory
    from quantui.workspace import sweep_staging, write_json

    process_file = folder / "process.json"
    if process_file.exists():
        write_json(process_file, json.loads(process_file.read_bytes()) | {"child": child})
    kills = memory.oom_kills()
    _, status, usage = os.wait4(child, 0)
    _end_rest_of_group()
    if ending(folder / "events.jsonl") is None:
        from quantui.vanished import Death, report

        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
        code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        peak = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)  # getrusage(2): bytes there, KiB on Linux
        stage = last_stage(folder / "events.jsonl")
        death = Death(stage, number, code, peak, memory.limit(), memory.oom_kills() > kills, reads=reads)
        EventWriter(folder / "events.jsonl").write(report(death))
    if out:
        sweep_staging(Path(out))
    return 0 if status == 0 else 1


def _end_rest_of_group() -> None:
    """Ends what the child has left behind, so that the next job finds the device free."""
    from quantui.processes import members

    own = os.getpid()
    if os.getpgid(0) != own:
        return  # started by hand, in somebody else's group
    for pid in members(own):
        if pid != own:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
