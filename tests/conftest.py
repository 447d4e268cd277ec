"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from quantui.workspace import Workspace

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", GRADIO_ANALYTICS_ENABLED="False")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two processes with two threads each would wait for one another
settings.register_profile("house", deadline=None, max_examples=100, derandomize=True)  # a slow machine is not a failure
settings.load_profile("house")


def pytest_itemcollected(item: pytest.Item) -> None:
    """All browser tests go to one process, where they run one behind the other; of the others each file to one."""
    item.add_marker(pytest.mark.xdist_group("browser" if "e2e" in item.path.parts else item.nodeid.split("::")[0]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Browser tests first: they take longest, and the other files fill the time of the other processes."""
    items.sort(key=lambda item: "e2e" not in item.path.parts)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path / "workspace")
