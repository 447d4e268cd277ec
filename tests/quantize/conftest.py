"""Tiny models made once a session, and jobs run as the page runs them: in a worker process over a run folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quantui.events import EventReader, Failed, Log, Metric, Progress, Stamped
from quantui.spec import QuantizeSpec
from tests.models import tiny

PROJECT = Path(__file__).resolve().parents[2]


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

NURSERY = """
import os, sys
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM, InternVLForConditionalGeneration
import datasets
import quantui.worker, quantui.quantize.run
import json
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.setsid()
        log = os.open(order["folder"] + "/log.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        exec(order["before"])
        from quantui.worker import main
        os._exit(main([order["folder"]]))
    os.waitpid(child, 0)
    print("done", flush=True)
"""
"""A process that has imported torch, transformers and datasets, and has a child run each job as the worker's own process would:
their import takes ten seconds, and there are three dozen jobs here. The engine itself is left to the child, as a job expects.
The worker from its first line on is in tests/test_cli.py and tests/e2e."""


@pytest.fixture(scope="session")
def nursery() -> Iterator[subprocess.Popen[str]]:
    """The process that jobs are forked from."""
    more = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NURSERY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | more) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()


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
def run_job(tmp_path_factory: pytest.TempPathFactory, nursery: subprocess.Popen[str]) -> RunJob:
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
            device="cpu",
            statistics=statistics,
        )
        (folder / "spec.json").write_text(spec.model_dump_json())
        assert nursery.stdin is not None and nursery.stdout is not None
        print(json.dumps({"folder": str(folder), "before": before}), file=nursery.stdin, flush=True)
        assert nursery.stdout.readline() == "done\n"
        result = folder / "result.json"
        return Outcome(
            folder / "out",
            json.loads(result.read_text()) if result.exists() else None,
            EventReader(folder / "events.jsonl").read(),
        )

    return run


__all__ = ["Log", "Metric", "Outcome", "Progress", "RunJob"]
