"""Memory limits of cgroup v1 and v2, and the peak of a process."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from quantui import memory

TOTAL = psutil.virtual_memory().total


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose /proc and /sys/fs/cgroup are empty folders."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "SYS", tmp_path / "cgroup")
    write(tmp_path, "proc/vmstat", "pgpgin 5\noom_kill 9\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_without_cgroups_it_is_the_machine(fake: Path) -> None:
    assert memory.limit() == TOTAL and memory.oom_kills() == 9


def test_version_2_takes_the_lowest_on_the_way_up(fake: Path) -> None:
    write(fake, "proc/self/cgroup", "0::/user.slice/app.service\n")
    write(fake, "cgroup/user.slice/app.service/memory.max", "max\n")
    write(fake, "cgroup/user.slice/app.service/memory.events", "low 0\noom 2\noom_kill 3\noom_group_kill 0\n")
    write(fake, "cgroup/user.slice/memory.max", "1000000\n")
    write(fake, "cgroup/memory.max", "2000000\n")
    assert memory.limit() == 1_000_000 and memory.oom_kills() == 3


def test_version_1(fake: Path) -> None:
    write(fake, "proc/self/cgroup", "5:cpu,cpuacct:/\n4:memory:/docker/abc\n0::/\n")
    write(fake, "cgroup/memory/docker/abc/memory.limit_in_bytes", "500000\n")
    write(fake, "cgroup/memory/docker/abc/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n")
    write(fake, "cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    assert memory.limit() == 500_000 and memory.oom_kills() == 4


def test_in_a_container_its_own_folder_may_be_the_mount(fake: Path) -> None:
    write(fake, "proc/self/cgroup", "4:memory:/outside/of/this/container\n")
    write(fake, "cgroup/memory/memory.limit_in_bytes", "700000\n")
    assert memory.limit() == 700_000


def test_this_machine() -> None:
    assert 0 < memory.limit() <= TOTAL and memory.oom_kills() >= 0


def test_the_peak_of_a_process(fake: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.peak(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)  # no /proc: what it has now
    assert memory.peak(2**22 + 1) == 0
    write(fake, "proc/77/status", "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  123 kB\n")
    assert memory.peak(77) == 123 * 1024
