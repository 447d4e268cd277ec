"""Telling processes apart, and ending groups of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from quantui import processes
from quantui.processes import boot_id, identity, members, signal_group, wait_gone


def test_a_process_keeps_its_identity_and_no_other_has_it() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        assert identity(os.getpid()) == identity(os.getpid()) != identity(other.pid)
        other.kill()


def test_one_that_has_ended_has_none() -> None:
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.pid_exists(ended.pid) and identity(ended.pid) is None  # a zombie
    ended.wait()
    assert identity(ended.pid) is None


def test_the_identity_names_the_boot() -> None:
    assert boot_id() == boot_id()
    assert (identity(os.getpid()) or "").startswith(boot_id())


def test_without_proc_psutil_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert boot_id() == ""
    assert float(identity(os.getpid()) or "") == pytest.approx(psutil.Process().create_time(), abs=0.01)
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert identity(ended.pid) is None
    ended.wait()
    assert identity(ended.pid) is None


def test_a_group_is_ended_whole() -> None:
    with subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], start_new_session=True) as leader:
        end = time.monotonic() + 5
        while len(members(leader.pid)) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert leader.pid in members(leader.pid) and not wait_gone(leader.pid, 0.05)
        signal_group(leader.pid, signal.SIGKILL)
        assert wait_gone(leader.pid, 2) and members(leader.pid) == []
    signal_group(leader.pid, signal.SIGKILL)  # nobody there: nothing happens


@pytest.mark.parametrize("group", [0, 1, -1])
def test_groups_that_are_not_ours_are_left_alone(group: int) -> None:
    with pytest.raises(ValueError, match="not a group of ours"):
        signal_group(group, signal.SIGTERM)
