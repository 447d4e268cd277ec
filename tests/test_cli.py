"""The command line: exit codes, one sentence for what is wrong, one JSON object where that is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from quantui import cli, devices
from quantui.errors import RunError
from quantui.events import Done, Event, EventReader, EventWriter, Failed, Log, Progress, Stamped
from quantui.jobs.store import JobStore
from quantui.workspace import ASSETS, RECIPES, write_json
from tests.models.tiny import write_chats
from tests.test_preflight import BAD, Toy

ROOT = Path(__file__).parents[1]
RESULT = {
    "out": "/results/名",
    "bytes_before": 2_000_000,
    "bytes_after": 1_000_000,
    "layers_quantized": 14,
    "layers_left": 1,
    "seconds_total": 3.21,
    "peak_memory_bytes": 900_000_000,
    "exact_match_before": 0.98,
    "exact_match_after": 0.5,
    "perplexity_before": None,
    "perplexity_after": None,
    "stats": "/runs/1/stats",
}


class Said(NamedTuple):
    """What a command has left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    """A job that can work; the current folder is an empty one."""
    for name in ("toy", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("QUANTUI_WORKSPACE", raising=False)
    return Toy(tmp_path / "toy")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command line in this process."""

    def command(*arguments: object) -> Said:
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Said(int(caught.value.code or 0), said.out, said.err)

    return command


def options(toy: Toy, **choices: object) -> list[str]:
    """The options of a quantize command; None leaves one out, True gives it without a value."""
    given: dict[str, Any] = {"model": toy.model, "recipe": toy.recipe, "calibration": toy.calibration, "out": toy.out} | choices
    flags = [f"--{key.replace('_', '-')}" for key, value in given.items() if value is True]
    return ["quantize", *(t for k, v in given.items() if v not in (None, True, False) for t in (f"--{k}", str(v))), *flags]


def worker(*events: Event, result: dict[str, Any] | None = None) -> Callable[[JobStore, str], Iterator[Stamped]]:
    """Stands in for `follow` and the worker it follows: writes these events, and the result before the last of them."""

    def follow(store: JobStore, run_id: str) -> Iterator[Stamped]:
        folder = store.get(run_id)
        writer = EventWriter(folder.events)
        for event in events[:-1]:
            writer.write(event)
        if result is not None:
            write_json(folder.folder / "result.json", result)
        writer.write(events[-1])
        writer.close()
        yield from EventReader(folder.events).read()

    return follow


# --- what is wrong


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_exit_code_2_and_one_sentence(
    toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, name: str, as_json: bool
) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != "/proc" and access(path, mode))
    kind, what, spoiled = BAD[name]
    said = run(*options(toy, json=as_json, **{"device": "cpu"} | spoiled(toy)))
    assert said.code == 2
    assert said.err.startswith("error: ") and said.err.count("\n") == 1 and said.err.endswith(".\n")
    assert what in said.err and "Traceback" not in said.err
    if as_json:
        body = json.loads(said.out)
        assert body["exit_code"] == 2 and set(body["error"]) == {"what", "where", "todo"}
        assert said.err == f"error: {kind(**body['error'])}\n"
        assert said.out.count("\n") == 1
    else:
        assert said.out == ""
    assert not toy.out.exists()
    assert not Path("workspace").exists()  # nothing was begun


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["quantize"], "Missing option"),
        (["quantize", "--model", "x"], "Missing option"),
        (["quantize", "--nope"], "No such option: --nope"),
        (["quantize", "--model"], "requires an argument"),
        (["quantize", "--json=1"], "does not take a value"),
        (["quantise"], "No such command"),
        (["--nope"], "No such option"),
        (["demo", "--json"], "No such option: --json"),
    ],
)
def test_a_command_that_is_not_one_is_a_sentence_too(run: Callable[..., Said], arguments: list[str], what: str) -> None:
    said = run(*arguments)
    assert said.code == 2
    assert (
        said.err.startswith("error: ")
        and said.err.count("\n") == 1
        and what in said.err
        and said.err.endswith("; see --help.\n")
    )
    if "--json" not in arguments:
        assert said.out == ""
        assert json.loads(run(*arguments, "--json").out)["exit_code"] == 2 or "--json=1" in arguments


def test_help_is_whole(run: Callable[..., Said]) -> None:
    said = run("quantize", "--help")
    assert said.code == 0 and said.err == ""
    assert "./workspace" in said.out and "--trust-remote-code" in said.out and "npu[:n]" in said.out
    assert run().out == run("--help").out and run().code == 0


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("cuda", ["cuda:0: there is no such device", "auto, cpu"]),
        ("npu", ["torch_npu is not installed", "pip install -r requirements-npu.txt", "ASCEND_RT_VISIBLE_DEVICES",
                 "PYTORCH_NPU_ALLOC_CONF"]),
        ("foo", ["unknown device 'foo'", "use auto, cpu, cuda, cuda:N, npu or npu:N"]),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_on_a_machine_without_any(
    toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, device: str, words: list[str]
) -> None:
    monkeypatch.setattr(devices, "_cuda_devices", list)
    monkeypatch.setattr(devices, "npus", list)
    said = run(*options(toy, device=device))
    assert said.code == 2 and all(word in said.err for word in words)


def test_the_workspace_may_be_no_file(toy: Toy, run: Callable[..., Said]) -> None:
    said = run(*options(toy, device="cpu", workspace=toy.recipe))
    assert said.code == 2 and "the workspace cannot be made" in said.err and said.err.count("\n") == 1


def test_a_name_that_no_terminal_shows_is_a_sentence(tmp_path: Path) -> None:
    bad = bytes(tmp_path) + b"/\xff\xfe"
    command = [
        os.fsencode(part) for part in (sys.executable, "-m", "quantui", "quantize", "--json", "--recipe", "r", "--out", "o")
    ]
    done = subprocess.run(
        [*command, b"--model", bad], capture_output=True, cwd=ROOT, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    assert json.loads(done.stdout)["error"]["what"].startswith("this path cannot be used")


# --- what is done


def test_a_job_that_is_done_is_told_as_a_table(toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    events = (
        Progress("load", 0, 0),
        Progress("load", 1, 2),
        Log("info", "reading [bold]", "quantui"),
        Log("info", "x", "torch"),
    )
    monkeypatch.setattr(cli, "follow", worker(*events, Log("debug", "y", "quantui"), Done(), result=RESULT))
    said = run(*options(toy, device="cpu"))
    assert said.code == 0
    rows = dict(
        line.split(maxsplit=1) if line[:3] == "run" else (line[:18].strip(), line[19:]) for line in said.out.splitlines()
    )
    assert rows["exact match"] == "98.0% -> 50.0%" and rows["perplexity"] == "not measured"
    assert rows["size (MB)"] == "2.00 -> 1.00" and rows["layers"] == "14 of 15" and rows["written to"] == "/results/名"
    assert rows["statistics"] == "/runs/1/stats"
    forecast, *told = said.err.splitlines()
    assert forecast.startswith(
        "14 layers quantized, 1 left in float; 0.2 MB -> about 0.1 MB; 6 samples, about 18 tokens; about 0.5 GB"
    )
    assert told == ["load", "  reading [bold]"]


def test_json_is_one_object_and_nothing_else(toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "follow", worker(Progress("load", 0, 0), Done(), result=RESULT))
    said = run(*options(toy, device="cpu", json=True))
    assert (said.code, json.loads(said.out)) == (0, RESULT)
    assert said.out.count("\n") == 1 and said.out.isascii()
    assert "load" in said.err


def test_the_job_is_kept_in_the_workspace_that_was_named(
    toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "follow", worker(Done(), result=RESULT))
    run(*options(toy, device="cpu", workspace=toy.folder / "space"))
    assert [job.state for job in JobStore(toy.folder / "space" / "runs").list()] == ["done"]
    assert not Path("workspace").exists()
    run(*options(toy, device="cpu"))
    assert len(JobStore(Path("workspace/runs")).list()) == 1
    monkeypatch.setenv("QUANTUI_WORKSPACE", str(toy.folder / "other"))
    run(*options(toy, device="cpu", calibration=toy.calibration))
    (job,) = JobStore(toy.folder / "other" / "runs").list()
    assert (job.spec.model, job.spec.roots, job.spec.device) == (str(toy.model), (), "cpu")


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(
    ("failed", "code"),
    [
        (Failed("the shard is truncated", "m/x", "copy it again", "input"), 2),
        (Failed("the engine stopped", "quantize", "report it", "run"), 1),
        (Failed("somebody cancelled it", "", "run it again", "cancelled"), 1),
    ],
)
def test_a_job_that_failed_says_why(
    toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, failed: Failed, code: int, as_json: bool
) -> None:
    monkeypatch.setattr(cli, "follow", worker(Progress("load", 0, 0), failed))
    said = run(*options(toy, device="cpu", json=as_json))
    assert said.code == code
    where = f"{failed.where}: " if failed.where else ""
    assert said.err.splitlines()[-1] == f"error: {where}{failed.what}; {failed.todo}."
    body = {"error": {"what": failed.what, "where": failed.where, "todo": failed.todo}, "exit_code": code}
    assert (json.loads(said.out) if as_json else said.out) == (body if as_json else "")


def test_a_job_without_a_result_is_a_failure(toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "follow", lambda store, run_id: iter(()))
    said = run(*options(toy, device="cpu"))
    assert said.code == 1 and "ended without a result" in said.err


def test_ctrl_c_cancels_the_job(toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(store: JobStore, run_id: str) -> Iterator[Stamped]:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "follow", interrupted)
    said = run(*options(toy, device="cpu", json=True))
    assert said.code == 1 and json.loads(said.out)["error"]["what"] == "cancelled"
    assert [job.state for job in JobStore(Path("workspace/runs")).list()] == ["cancelled"]


def test_what_nobody_foresaw_is_exit_code_1_with_its_traceback(
    toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("by zero\nindeed")

    monkeypatch.setattr(cli, "run_job", broken)
    said = run(*options(toy, device="cpu", json=True))
    assert said.code == 1 and "Traceback" in said.err
    assert said.err.splitlines()[-1] == "error: ZeroDivisionError: by zero indeed; please report this."
    assert json.loads(said.out)["exit_code"] == 1


def test_a_job_that_waits_says_at_which_place(toy: Toy, run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch) -> None:
    store = JobStore(Path("workspace/runs"))
    store.submit(toy.prepare())
    monkeypatch.setattr(cli, "follow", worker(Done(), result=RESULT))
    assert "waiting in the queue at place 2" in run(*options(toy, device="cpu")).err


def test_demo_runs_the_embedded_models(run: Callable[..., Said], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assets = tmp_path / "assets" / "demo"
    for name in {model for model, _ in cli.DEMO}:
        (tmp_path / f"made-{name}").mkdir()
        made = Toy(tmp_path / f"made-{name}")
        assets.mkdir(parents=True, exist_ok=True)
        made.model.rename(assets / name)
        made.data.rename(assets / f"{name}-data")
    monkeypatch.setattr("quantui.workspace.ASSETS", tmp_path / "assets")
    monkeypatch.setattr(cli, "follow", worker(Done(), result=RESULT))
    said = run("demo", "--workspace", tmp_path / "space")
    assert said.code == 0
    for model, recipe in cli.DEMO:
        assert f"{model} · {recipe}" in said.out
        assert (RECIPES / f"{recipe}.yaml").is_file()
    assert said.out.count("98.0% -> 50.0%") == len(cli.DEMO)
    monkeypatch.setattr(cli, "follow", worker(Failed("it broke", "load", "mend it")))
    with pytest.raises(RunError, match="it broke"):
        cli.app(["demo"], standalone_mode=False)


# --- in a process of its own


def command(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    """`python -m quantui` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "quantui", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore", **env},
    )


def test_a_process_that_is_given_nonsense_ends_with_2(toy: Toy) -> None:
    done = command(*options(toy, model="/nowhere", device="cpu", json=True))
    assert done.returncode == 2 and done.stderr == "error: /nowhere: there is no such folder; check the path of the model.\n"
    assert json.loads(done.stdout)["error"]["where"] == "/nowhere"


def test_a_model_is_quantized_from_the_command_line(tmp_path: Path, run: Callable[..., Said]) -> None:
    model, data = ASSETS / "demo" / "chat", write_chats(tmp_path / "data")
    recipe = tmp_path / "r.yaml"
    recipe.write_text((RECIPES / "int8-w8a8-static.yaml").read_text(encoding="utf-8"))
    given = [
        "--model",
        model,
        "--recipe",
        recipe,
        "--calibration",
        data,
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
        "--json",
    ]
    done = command("quantize", *given, "--workspace", tmp_path / "space", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert (result["layers_quantized"], result["layers_left"]) == (28, 1)
    assert done.stderr.startswith("28 layers quantized, 1 left in float")
    weights = tmp_path / "out" / "model.safetensors"
    assert result["bytes_after"] == weights.stat().st_size < result["bytes_before"]
    again = run("quantize", *given, "--workspace", tmp_path / "space")
    assert again.code == 2 and "the output folder exists already" in again.err
