"""How a worker ends, and what it says then."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest

from quantui.errors import CancelledError, RecipeError
from quantui.events import Done, Failed, Metric, ending
from quantui.jobs.store import JobStore
from quantui.processes import identity
from quantui.worker import STATIONS, failure
from tests.jobs.conftest import event, make_spec, start, until
from tests.jobs.stations import COMMAND

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "what", "where", "todo", "reason"),
    [
        ("refuse", "targets match no layer", "recipe.yaml", "use Linear", "input"),
        ("spoil", "a scale is not finite", "layers.0", "choose another", "run"),
        ("give_up", "stopped", "", "run it again", "cancelled"),
        ("stumble", "KeyError: 'model.layers.0'", "stage load", "log.txt", "run"),
        ("allocate", "memory ran out", "stage load", "fewer or shorter calibration samples", "run"),
        ("leave", "exited with code 3", "stage load", "log.txt", "run"),
        ("crash", "SIGSEGV, a crash in native code", "stage start", "log.txt", "run"),
        ("read_on", "SIGBUS: a file in /nowhere/model was cut short", "stage load", "leave the files of a model", "run"),
    ],
)
def test_every_end_is_said(store: JobStore, name: str, what: str, where: str, todo: str, reason: str) -> None:
    run = start(store, name)
    failed = event(run, Failed).event
    assert isinstance(failed, Failed)
    assert what in failed.what and failed.where == where and todo in failed.todo and failed.reason == reason
    assert not (run.folder / "result.json").exists()
    log = (run.folder / "log.txt").read_text()
    assert ("Traceback" in log) == (name in ("stumble", "allocate"))
    assert ("Fatal Python error" in log) == (name in ("crash", "read_on"))


def test_what_the_station_leaves_behind_is_ended(store: JobStore) -> None:
    run = start(store, "leave_orphan")
    event(run, Done)
    orphan = event(run, Metric, name="grandchild").event
    assert isinstance(orphan, Metric)
    until(lambda: identity(int(orphan.value)) is None, 2)


def test_a_worker_can_be_run_by_hand(store: JobStore) -> None:
    run = store.submit(make_spec("finish"))
    by_hand = [part for part in COMMAND if part != "--gated"]
    code = subprocess.run([*by_hand, str(run.folder)], cwd=ROOT, capture_output=True, timeout=20, check=False).returncode
    last = ending(run.events)
    assert code == 0 and last is not None and last.event == Done()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RecipeError("a", where="b", todo="c"), Failed("a", "b", "c", "input")),
        (CancelledError("a"), Failed("a", "", "", "cancelled")),
        (OSError(errno.ENOSPC, "No space left on device", "/data/out"), "the disk is full"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "memory ran out"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
            "the memory of the device ran out",
        ),
        (MemoryError(), "memory ran out (MemoryError)"),
        (SystemExit(3), "SystemExit: 3"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 10_000), "ValueError: xxx"),
    ],
)
def test_an_exception_becomes_an_ending(error: BaseException, expected: Failed | str) -> None:
    failed = failure(error, "load")
    if isinstance(expected, Failed):
        assert failed == expected
    else:
        assert failed.what.startswith(expected) and len(failed.what) <= 2100 and failed.todo and failed.where


def test_memory_of_a_device_that_ran_out_is_said_in_its_own_words() -> None:
    own = "NPU out of memory. Tried to allocate 2.00 GiB. NPU 0 has 1.20 GiB free."
    try:
        try:
            raise RuntimeError(f"{own} If reserved memory is large try setting max_split_size_mb.")
        except RuntimeError as error:  # as the engine does with what it was running
            raise RuntimeError("--- Autowrapped forward:12 ---\n" + "  source\n" * 200 + str(error)) from error
    except RuntimeError as error:
        failed = failure(error, "quantize")
    assert failed.what == f"the memory of the device ran out (RuntimeError: {own})"
    assert failed.where == "stage quantize" and "choose cpu" in failed.todo


def test_a_torchvision_for_another_torch_is_named() -> None:
    try:
        try:
            raise RuntimeError("operator torchvision::nms does not exist")
        except RuntimeError as error:  # as transformers' lazy modules do
            raise ModuleNotFoundError("Could not import module 'PreTrainedModel'.") from error
    except ModuleNotFoundError as error:
        failed = failure(error, "start")
    assert failed.what == "the installed torchvision does not fit this torch (operator torchvision::nms does not exist)"
    assert failed.where == "stage start" and "uninstall it" in failed.todo


def test_the_supervisor_stays_light() -> None:
    code = "import sys, quantui.worker; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "pydantic", "psutil", "numpy", "yaml"} & set(loaded)


def test_every_station_is_a_place_in_this_package() -> None:
    assert all(place.startswith("quantui.") and place.count(":") == 1 for place in STATIONS.values())
