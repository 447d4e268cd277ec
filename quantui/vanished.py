"""What to say of a worker that ended without saying so itself: how it ended, the likely cause, what to try."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass

from quantui.events import Failed

MEMORY_ADVICE = "use fewer or shorter calibration samples, a smaller shard size, or another device"
DEVICE_ADVICE = "use fewer or shorter calibration samples, end what else uses the device, or choose cpu"
NEAR = 0.85
"""From this share of the memory limit on, memory is taken for the cause of a SIGKILL."""

_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}


def ran_out(error: BaseException) -> tuple[str, str] | None:
    """What to say of an exception if memory ran out, and what to do next; None for any other.

    Libraries put what they were doing around it, so that the first cause says it shortest.
    """
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    first = next((one for one in reversed(chain) if _is_memory(one)), None)
    if first is None:
        return None
    sentences = re.split(r"(?<=\.)\s+", " ".join(str(first).split()))
    said = " ".join(sentences[:3])[:300]  # how much, and of how much; torch goes on with advice
    name = type(first).__name__
    if re.search(r"\b(CUDA|HIP|NPU) out of memory", said):
        return f"the memory of the device ran out ({name}: {said})", DEVICE_ADVICE
    return f"memory ran out ({f'{name}: {said}'.removesuffix(': ')})", MEMORY_ADVICE


def _is_memory(error: BaseException) -> bool:
    text = str(error).lower()
    said = "out of memory" in text or "can't allocate memory" in text
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and said)


@dataclass(frozen=True)
class Death:
    """What is known of the end of a worker.

    Attributes:
        stage: the last stage it had reached; empty if none.
        signal: the signal that ended it; None if it exited, or nobody saw it end.
        exit_code: what it exited with; None if a signal ended it, or nobody saw it end.
        peak: the most memory it had, in bytes; 0 if nobody knows.
        limit: what it was allowed, in bytes.
        oom_killed: the kernel has ended a process for memory meanwhile.
        rebooted: the machine has been started again since.
        reads: the folder whose files it maps into memory; empty if none is known.
    """

    stage: str
    signal: int | None
    exit_code: int | None
    peak: int
    limit: int
    oom_killed: bool
    rebooted: bool = False
    reads: str = ""


def report(death: Death) -> Failed:
    """The Failed event for it."""
    what, todo = _what(death), _todo(death)
    if death.peak and death.signal != signal.SIGBUS:
        what += f"; its peak memory was {size(death.peak)} of the {size(death.limit)} allowed"
    return Failed(what=what, where=death.stage and f"stage {death.stage}", todo=todo)


def size(count: int) -> str:
    """A number of bytes for people, in powers of 1000.

    >>> size(2_600_000)
    '2.6 MB'
    """
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def _what(death: Death) -> str:
    if death.rebooted:
        return "the machine was started again while the worker ran"
    if death.signal is None:
        if death.exit_code is None:
            return "the worker is gone and left no word" + (", and the kernel has run out of memory" * death.oom_killed)
        return f"the worker exited with code {death.exit_code} before its work was done"
    ended = f"the worker was ended by {_name(death.signal)}"
    if death.signal == signal.SIGBUS:
        if not death.reads:
            return f"{ended}: a file that it was reading was cut short or overwritten meanwhile, or the disk failed"
        return f"{ended}: a file in {death.reads} was cut short or overwritten while it was read, or the disk failed"
    if death.signal in _CRASHES:
        return f"{ended}, a crash in native code"
    if death.signal == signal.SIGKILL and death.oom_killed:
        return f"{ended} from the kernel, because memory ran out"
    if death.signal == signal.SIGKILL and death.peak > NEAR * death.limit:
        return f"{ended}, most likely because memory ran out"
    return f"{ended} from outside"


def _todo(death: Death) -> str:
    if death.rebooted:
        return "run it again"
    if death.signal == signal.SIGBUS:
        return (
            "leave the files of a model as they are while a job reads them, and look whether the disk is in order; "
            "then run it again"
        )
    if death.signal in _CRASHES or death.exit_code is not None:
        return "look at the end of log.txt for the cause; if it is memory, " + MEMORY_ADVICE
    if death.oom_killed or death.peak > NEAR * death.limit:
        return MEMORY_ADVICE
    return f"run it again; if nobody stopped it on purpose, memory is the usual cause: {MEMORY_ADVICE}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
