"""Processes of this machine: telling one from a later one with the same pid, and ending whole groups."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil

PROC = Path("/proc")
POLL = 0.02
"""Seconds between two looks at a group that is being ended."""


def identity(pid: int) -> str | None:
    """What tells this process from any other that ever had its pid; None if it is gone or only waits to be reaped.

    On Linux the boot's id and the start in clock ticks since boot, which unlike a time of day do not move when the clock
    is set; elsewhere psutil's start time.
    """
    try:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()  # the name may hold anything but the last )
    except (FileNotFoundError, ProcessLookupError):
        return None if PROC.joinpath("self", "stat").exists() else _portable_identity(pid)
    if fields[0] in "ZX":  # proc(5): 3rd field state, 22nd starttime
        return None
    return f"{boot_id()}:{fields[19]}"


def boot_id() -> str:
    """Changes with every start of the machine; empty where it cannot be told."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def members(group: int) -> list[int]:
    """The pids of a process group that still run; one that only waits to be reaped does not."""
    return [pid for pid in psutil.pids() if _group_of(pid) == group and identity(pid) is not None]


def signal_group(group: int, number: signal.Signals) -> None:
    """Sends a signal to every process of a group; none may be left."""
    if group <= 1:
        raise ValueError(f"{group} is not a group of ours")
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says PermissionError of a group of zombies
        return


def wait_gone(group: int, seconds: float) -> bool:
    """Waits until no process of the group runs any more, at most so long; whether that is so."""
    end = time.monotonic() + seconds
    while members(group):
        if time.monotonic() >= end:
            return False
        time.sleep(POLL)
    return True


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _portable_identity(pid: int) -> str | None:
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time():.2f}"
    except psutil.NoSuchProcess:
        return None
