"""The statistics job and its commands, from model folder to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from quantui.cli import main
from quantui.errors import CalibrationError, CheckpointError, InputError, OutputError
from quantui.events import EventReader, EventWriter, Progress
from quantui.jobs.preflight_stats import prepare_stats
from quantui.stats.run import collect
from quantui.stats.table import StatsTable
from tests.device import DEVICE
from tests.models import tiny

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("stats")
    return tiny.save_llama(root / "model"), tiny.write_chats(root / "data")


@pytest.fixture(scope="module")
def collected(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], Path]:
    run = tmp_path_factory.mktemp("run")
    model, data = folders
    spec = prepare_stats(
        None, model=str(model), calibration=str(data), out=str(run / "out"), detail=True, lmdeploy=True, device=DEVICE
    )
    return run / "out", collect(spec, EventWriter(run / "events.jsonl"), run), run


def test_the_job_leaves_a_table_and_says_what_it_did(collected: tuple[Path, dict[str, Any], Path]) -> None:
    out, result, run = collected
    table = StatsTable.load(out)
    assert result["layers"] == len(table.layers) == 15 and result["kv_layers"] == 2 and result["samples"] == 6
    assert result["tokens"] == table.tokens("model.layers.0.mlp.down_proj", "input")
    assert (result["peak_device_memory_bytes"] is None) == (DEVICE == "cpu")
    assert set(result["seconds"]) == {"start", "load", "observe", "weights", "save"}
    assert table.meta["dtype"] == "bfloat16" and len(table.meta["model_hash"]) == len(table.meta["calibration_hash"]) == 64
    cause = table.cause("model.layers.0.mlp.down_proj", "input")
    assert cause.word and cause.where.startswith(str(run.parent)) and cause.word == table.words(cause.sample)[cause.token]
    assert "the fox" in "".join(table.words(0))
    assert table.histogram("lm_head") is not None and len(table.weight_errors(table.layers[0])) == 9
    assert {path.name for path in out.glob("*.pth")} == {
        "key_stats.pth",
        "value_stats.pth",
        "inputs_stats.pth",
        "outputs_stats.pth",
    }
    stages = {
        stamped.event.stage for stamped in EventReader(run / "events.jsonl").read() if isinstance(stamped.event, Progress)
    }
    assert {"observe", "weights"} <= stages


@pytest.mark.parametrize("source", ["table", "lmdeploy"])
def test_cache_scales_on_the_command_line(
    collected: tuple[Path, dict[str, Any], Path], tmp_path: Path, source: str, capsys: Any
) -> None:
    folder = collected[0]
    if source == "lmdeploy":
        folder = tmp_path / "work_dir"
        folder.mkdir()
        for path in collected[0].glob("*.pth"):
            (folder / path.name).write_bytes(path.read_bytes())
    assert run("kv-qparams", str(folder), "--out", str(tmp_path / "q"), "--tp", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and lines[3].startswith("Layer 1 MP 1 qparam: \t")
    stored = np.fromfile(tmp_path / "q" / "layers.1.past_kv_scale.1.weight", "<f4")
    shown = [float(number) for number in lines[3].partition(": ")[2].split()]
    np.testing.assert_array_equal(stored, np.array(shown, np.float32))


def test_the_other_formats_and_the_note(collected: tuple[Path, dict[str, Any], Path], tmp_path: Path, capsys: Any) -> None:
    out = str(tmp_path / "q")
    assert run("kv-qparams", str(collected[0]), "--out", out, "--sym") == 0
    assert "exactly four" in capsys.readouterr().err
    assert run("kv-qparams", str(collected[0]), "--out", out, "--sym", "--engine-safe") == 0
    assert "exactly four" not in capsys.readouterr().err
    assert run("kv-qparams", str(collected[0]), "--out", out, "--format", "json", "--grain", "head", "--json") == 0
    assert "kv_scales.json" in json.loads(capsys.readouterr().out)["files"]
    assert run("kv-qparams", str(collected[0]), "--out", out, "--format", "msmodelslim") == 0
    assert (tmp_path / "q" / "kv_cache.safetensors").exists()


def test_the_four_files_become_a_table_of_ours(
    collected: tuple[Path, dict[str, Any], Path], folders: tuple[Path, Path], tmp_path: Path, capsys: Any
) -> None:
    work_dir, out = tmp_path / "work_dir", tmp_path / "table"
    work_dir.mkdir()
    for name in ("key_stats.pth", "value_stats.pth", "inputs_stats.pth"):  # a search for scales leaves no outputs
        (work_dir / name).write_bytes((collected[0] / name).read_bytes())
    assert run("stats-import", str(work_dir), "--out", str(out), "--model", str(folders[0]), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out), "layers": 14, "kv_layers": 2}
    before, after = StatsTable.load(collected[0]), StatsTable.load(out)
    assert after.meta["model"] == str(folders[0]) and after.meta["source"] == "lmdeploy"
    for layer in after.layers:
        np.testing.assert_array_equal(after.stat(layer.name, "input", "max"), before.stat(layer.name, "input", "max"))
    assert after.cause(after.layers[0].name, "input").sample == -1
    assert run("stats-import", str(work_dir), "--out", str(out)) == 2
    assert run("stats-import", str(tmp_path), "--out", str(tmp_path / "other")) == 2
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "arguments", [("--format", "other"), ("--grain", "row"), ("--tp", "3"), ("--format", "msmodelslim", "--tp", "2")]
)
def test_what_cannot_be_is_one_sentence(
    collected: tuple[Path, dict[str, Any], Path], tmp_path: Path, arguments: tuple[str, ...], capsys: Any
) -> None:
    assert run("kv-qparams", str(collected[0]), "--out", str(tmp_path / "q"), *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1


def test_bad_input_is_found_before_the_job(folders: tuple[Path, Path], tmp_path: Path) -> None:
    model, data = map(str, folders)
    good = {"model": model, "calibration": data, "out": str(tmp_path / "out"), "device": DEVICE}
    for change, error in (
        ({"model": ""}, CheckpointError),
        ({"model": str(tmp_path)}, CheckpointError),
        ({"calibration": str(tmp_path / "nothing.yaml")}, CalibrationError),
        ({"calibration": ""}, CalibrationError),
        ({"out": ""}, OutputError),
        ({"out": model}, OutputError),
        ({"not_finite": "carry on"}, InputError),
    ):
        with pytest.raises(error):
            prepare_stats(None, **(good | change))
    assert prepare_stats(None, **good).stages() == ("start", "load", "observe", "weights", "save")
    assert "weights" not in prepare_stats(None, **good, weights=False).stages()


def run(*arguments: str) -> int:
    """The command line's exit code."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return int(caught.value.code or 0)


def test_the_memory_of_a_cache_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = {"model_type": "llama", "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"lm_head.weight": np.zeros((2, 2), np.float32)}, tmp_path / "model.safetensors")
    assert run("kv-memory", "--model", str(tmp_path), "--batch", "8", "--context", "2048", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["memory"] == [
        {"batch": 8, "tokens": 2048, "bytes": {"fp16": 2**33, "fp8": 2**32, "int8": 2**32, "int4": 2**31}}
    ]
    assert run("kv-memory", "--model", str(tmp_path), "--batch", "1,x") == 2
    assert "--batch" in capsys.readouterr().err
