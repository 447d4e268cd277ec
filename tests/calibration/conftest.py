"""What tests of calibration share."""

from __future__ import annotations

import contextlib
import io
import runpy
import subprocess
import sys
from typing import Any

import pytest


@pytest.fixture
def answered_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the module that asks transformers in this process, which has imported it: a process of its own takes ten seconds.

    `test_a_tokenizer_that_transformers_builds_anew_is_asked_of_it_once` starts that process.
    """

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        printed = io.StringIO()
        monkeypatch.setattr(sys, "argv", command[2:])
        import torch  # the process that is stood in for may do without

        with contextlib.redirect_stdout(printed):
            sys.modules.pop(command[2], None)
            runpy.run_module(command[2], run_name="__main__")
        sys.modules["torch"] = torch
        return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")

    monkeypatch.setattr("quantui.calibration.words.subprocess.run", run)
