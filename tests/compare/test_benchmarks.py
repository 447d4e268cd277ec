"""Benchmarks of lm-evaluation-harness: the table, and what is refused; the harness itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantui.compare.benchmarks import columns, shown, table
from quantui.errors import CheckpointError, InputError
from quantui.events import EventWriter
from quantui.jobs.preflight_compare import prepare_harness
from quantui.workspace import ASSETS
from tests.device import DEVICE

CHAT = ASSETS / "demo" / "chat"
TASK = """task: two-answers
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


def test_the_table_has_what_both_reached() -> None:
    one = {"boolq": {"alias": "boolq", "acc,none": 0.75, "acc_stderr,none": 0.01, "f1,strict": 0.5, "only,none": 1.0}}
    two = {"boolq": {"alias": "boolq", "acc,none": 0.5, "acc_stderr,none": "N/A", "f1,strict": 0.625}}
    rows = table(one, two)
    assert [(row["metric"], row["original"], row["quantized"], row["diff"]) for row in rows] == [
        ("acc", 0.75, 0.5, -0.25), ("f1 (strict)", 0.5, 0.625, 0.125),
    ]  # fmt: skip
    assert (rows[0]["stderr_original"], rows[0]["stderr_quantized"]) == (0.01, None)
    named = columns(["W16A16 fp16", "W8A8 int8 static", "W8A8 int8 static"], "torch.float16")
    assert shown(rows, named).splitlines() == [
        "task   metric         int8    fp16     diff",
        "boolq  acc          0.5000  0.7500  -0.2500",
        "boolq  f1 (strict)  0.6250  0.5000  +0.1250",
    ]
    assert columns([], "torch.bfloat16") == {"quantized": "quantized", "original": "bf16"}


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)  # asked of lm_eval first
    with pytest.raises(InputError, match="not installed") as caught:
        prepare_harness(original=str(CHAT), quantized=str(CHAT), tasks=["boolq"])
    assert "requirements-lm-eval.txt" in caught.value.todo


def test_code_beside_a_task_does_not_run_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "lm_eval" else real(name))
    (tmp_path / "utils.py").write_text("raise SystemExit")
    asked = {"original": str(CHAT), "quantized": str(CHAT), "tasks": ["mine"], "tasks_folder": str(tmp_path)}
    with pytest.raises(InputError, match="does not run unasked"):
        prepare_harness(**asked)
    assert prepare_harness(**asked, trust_remote_code=True).tasks_folder == str(tmp_path)


def test_a_model_of_pictures_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if name == "lm_eval" else real(name))
    vision = str(ASSETS / "demo" / "vision")
    with pytest.raises(CheckpointError, match="reads pictures"):
        prepare_harness(original=vision, quantized=vision, tasks=["boolq"])


@pytest.mark.engine
def test_both_models_answer_a_task_over_local_data(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from quantui.compare.harness import run

    rows = [
        {"question": "1 + 1 =", "choices": ["2", "3"], "answer": 0},
        {"question": "a b", "choices": ["c", "d"], "answer": 1},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "two.yaml").write_text(TASK.format(rows=tmp_path / "rows.jsonl"))
    asked = {"original": str(CHAT), "quantized": str(CHAT), "tasks_folder": str(tmp_path / "tasks"), "device": DEVICE}
    result = run(prepare_harness(**asked, tasks=["two-answers"]), EventWriter(tmp_path / "events.jsonl"), tmp_path)
    assert [(row["task"], row["metric"], row["diff"]) for row in result["rows"]] == [("two-answers", "acc", 0.0)]
    with pytest.raises(InputError, match="knows no task nonsense"):
        run(prepare_harness(**asked, tasks=["nonsense"]), EventWriter(tmp_path / "more.jsonl"), tmp_path)


def test_memory_that_runs_out_is_no_fault_of_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from quantui.compare import harness
    from quantui.spec import HarnessSpec

    def simple_evaluate(**_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    parts = {"evaluator": {"simple_evaluate": simple_evaluate}, "models": {}, "models.huggingface": {"HFLM": lambda **_: None}}
    monkeypatch.setitem(sys.modules, "lm_eval", types.ModuleType("lm_eval"))
    for name, held in parts.items():
        module = types.ModuleType(f"lm_eval.{name}")
        vars(module).update(held)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    pair = SimpleNamespace(mixes_rows=False, models={"original": torch.nn.Identity()}, tokenizer=None)
    spec = HarnessSpec(name="t", model="m", quantized="q", tasks=("boolq",))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        harness._results(pair, "original", spec, None)
