"""How much memory a process may use, has used, and whether the kernel had to end one for it. Sizes in bytes."""

from __future__ import annotations

from pathlib import Path

import psutil

SYS = Path("/sys/fs/cgroup")
PROC = Path("/proc")


def limit() -> int:
    """What a process here may use: the machine's memory, or less where its cgroup or one above it says so."""
    limits = [psutil.virtual_memory().total]
    for folder in _cgroups():
        for name in ("memory.max", "memory.limit_in_bytes"):  # cgroup v2, v1
            text = _read(folder / name).strip()
            if text.isdigit():  # "max" is none
                limits.append(int(text))
    return min(limits)


def oom_kills() -> int:
    """How many processes of this cgroup (of the machine, where that is not counted) the kernel has ended for memory."""
    for folder in _cgroups():
        for name in ("memory.events", "memory.oom_control"):  # cgroup v2, v1
            if (count := _field(folder / name, "oom_kill")) is not None:
                return count
    return _field(PROC / "vmstat", "oom_kill") or 0


def peak(pid: int) -> int:
    """The most resident memory a running process has had (on other systems than Linux: has now); 0 if it is gone."""
    if (kibibytes := _field(PROC / str(pid) / "status", "VmHWM:")) is not None:
        return kibibytes * 1024
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def _cgroups() -> list[Path]:
    """The memory cgroup folders of this process, its own first, then those above it."""
    found: list[Path] = []
    for line in _read(PROC / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mount = SYS / "memory" if controllers else SYS
        own = mount / path.lstrip("/")
        chain = [own, *own.parents]
        found += [folder for folder in chain if mount in (folder, *folder.parents) and folder.is_dir()]
    return found


def _field(file: Path, name: str) -> int | None:
    for line in _read(file).splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == name and words[1].isdigit():
            return int(words[1])
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""  # another system, another cgroup version, or the process is gone
