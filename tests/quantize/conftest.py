"""Tiny models made once a session, and jobs run as the page runs them: in a worker process over a run folder."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quantui.events import EventReader, Failed, Log, Metric, Progress, Stamped
from quantui.jobs.spare import Spare, start
from quantui.spec import QuantizeSpec
from tests.device import DEVICE
from tests.models import tiny


@dataclass(frozen=True)
class Outcome:
    """What a job left behind."""

    out: Path
    result: dict[str, Any] | None
    events: list[Stamped]

    @property
    def failed(self) -> Failed | None:
        """How it failed, if it did."""
        last = self.events[-1].event
        return last if isinstance(last, Failed) else None

    def of(self, kind: type[Any]) -> list[Any]:
        """Its events of one kind."""
        return [stamped.event for stamped in self.events if isinstance(stamped.event, kind)]


RunJob = Callable[..., Outcome]


@pytest.fixture(scope="session")
def spare() -> Iterator[Spare]:
    """What jobs are forked from, as the page's are: imports take ten seconds, and there are three dozen jobs here.

    It may have as many threads as it likes, so that test_spare.py sees whether it leaves any; jobs have the one of all tests.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OMP_NUM_THREADS")
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # numpy's threads end before a fork and come again after it, and so does
        spare = Spare()
    while not spare.is_ready():
        assert spare.is_alive
        time.sleep(0.05)
    yield spare
    spare.end()


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama folder."""
    return tiny.save_llama(tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture(scope="session")
def internvl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny native InternVL folder."""
    return tiny.save_internvl(tmp_path_factory.mktemp("internvl") / "model")


@pytest.fixture(scope="session")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration file of chats, evaluation.jsonl beside it."""
    return tiny.write_chats(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration file of pictures, evaluation.jsonl beside it."""
    return tiny.write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def run_job(tmp_path_factory: pytest.TempPathFactory, spare: Spare) -> RunJob:
    """Runs one quantize job to its end in a worker process."""

    def run(
        model: Path,
        recipe: str,
        calibration: Path | None,
        *,
        evaluate: bool = False,
        before: str = "",
        statistics: bool = False,
    ) -> Outcome:
        folder = tmp_path_factory.mktemp("run")
        spec = QuantizeSpec(
            name="test",
            model=str(model),
            recipe=recipe,
            recipe_path="recipe.yaml",
            calibration=calibration.read_text() if calibration else None,
            calibration_path=str(calibration) if calibration else None,
            evaluation=str(calibration.parent / "evaluation.jsonl") if evaluate and calibration else None,
            out=str(folder / "out"),
            device=DEVICE,
            statistics=statistics,
        )
        (folder / "spec.json").write_text(spec.model_dump_json())
        command = [sys.executable, "-m", "tests.quantize.changed", before, str(folder)]
        with (folder / "log.txt").open("wb") as log:
            start(command, "cpu", spare, output=log, errors=log, folder=folder).wait()
        result = folder / "result.json"
        return Outcome(
            folder / "out",
            json.loads(result.read_text()) if result.exists() else None,
            EventReader(folder / "events.jsonl").read(),
        )

    return run


__all__ = ["Log", "Metric", "Outcome", "Progress", "RunJob"]
