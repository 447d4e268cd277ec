"""What every test may use."""

from __future__ import annotations

import functools
import gc
import os
import sys
from pathlib import Path

import pytest
import typer.main
from hypothesis import Phase, settings

from quantui.worker import GARBAGE
from quantui.workspace import Workspace

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # several processes with several threads each would wait for one another
gc.set_threshold(*GARBAGE)  # as in a worker; as often as by default, looking for cycles is a tenth of all the tests take
FOUND = tuple(phase for phase in Phase if phase is not Phase.explain)  # which runs every failure's code line by line
settings.register_profile("house", deadline=None, max_examples=25, derandomize=True, phases=FOUND)  # slow is not a failure
settings.register_profile("thorough", deadline=None, max_examples=1000)  # by hand: HYPOTHESIS_PROFILE=thorough
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "house"))


typer.main.get_command = functools.cache(typer.main.get_command)  # two dozen commands, made anew for each line otherwise


def pytest_runtest_setup() -> None:
    """transformers spells out every config for messages that nobody reads: a fifth of the time that loading a model takes."""
    if configs := sys.modules.get("transformers.configuration_utils"):
        configs.PreTrainedConfig.__repr__ = object.__repr__


def pytest_collection_finish() -> None:
    """What has been imported stays: no search for garbage has to go through it again."""
    gc.freeze()


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path / "workspace")
