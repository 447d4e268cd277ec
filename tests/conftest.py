"""What every test may use."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from quantui.worker import GARBAGE
from quantui.workspace import Workspace

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with several threads each would wait for one another
gc.set_threshold(*GARBAGE)  # as in a worker; as often as by default, looking for cycles is a tenth of all the tests take
settings.register_profile("house", deadline=None, max_examples=50, derandomize=True)  # a slow machine is not a failure
settings.register_profile("thorough", deadline=None, max_examples=1000)  # by hand: HYPOTHESIS_PROFILE=thorough
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


def pytest_collection_finish() -> None:
    """What has been imported stays: no search for garbage has to go through it again."""
    gc.freeze()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path / "workspace")
