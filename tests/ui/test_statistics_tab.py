"""The Statistics tab without a browser: which table is shown, what collecting costs and starts, what each view is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pytest

from quantui.stats.table import StatsTable
from quantui.ui import shell, statistics_page, statistics_tables
from quantui.ui.services import Services
from quantui.ui.tabs import statistics
from tests.stats.test_table import made

MODEL_CONFIG = {"model_type": "llama", "head_dim": 4}


def keep(services: Services, name: str = "chat", model: str = "chat", seed: int = 0, **meta: Any) -> Path:
    """A table in the workspace, of a model of it."""
    table = made(seed=seed)
    folder = statistics_tables.home(services.workspace) / name
    folder.mkdir(parents=True)
    told = {"model": str(services.workspace.models / model), "detail": False, **meta}
    StatsTable(table.arrays, table.meta | told).save(folder)
    return folder


def ask(services: Services, action: str, **asked: Any) -> dict[str, Any]:
    """One answer; it must be JSON as it stands."""
    model, data = services.workspace.models / "chat", services.workspace.calibration / "chat" / "calibration.yaml"
    told = statistics_page.answer(services, {"action": action, "model": str(model), "calibration": str(data), **asked})
    json.dumps(told, allow_nan=False)
    return told


def test_without_a_table_there_is_a_sentence_and_what_collecting_costs(services: Services) -> None:
    told = ask(services, "look", detail=True)
    assert told["table"] == "" and told["tables"] == [] and told["can"]
    assert services.t("stats.none", model="chat") in told["parts"]["message"]
    assert services.t.count("count.samples", 6) in told["parts"]["cost"]
    without = ask(services, "look", calibration="")
    assert not without["can"] and services.t("stats.no_calibration") in without["parts"]["cost"]


def test_the_newest_table_of_the_model_is_shown(services: Services) -> None:
    other = keep(services, "vision", "vision")
    assert ask(services, "look")["table"] == ""  # that of another model is offered, not shown
    folder = keep(services)
    told = ask(services, "look")
    assert told["table"] == str(folder) and {row[0] for row in told["tables"]} == {str(folder), str(other)}
    assert ask(services, "look", table=str(other))["table"] == str(other)
    (folder / "stats.json").write_text("{")
    assert ask(services, "look")["table"] == ""


def test_a_damaged_or_foreign_table_is_a_sentence(services: Services, tmp_path: Path) -> None:
    folder = keep(services)
    (folder / "stats.safetensors").write_bytes(b"no")
    assert ask(services, "look")["table"] == "" and "problem" in ask(services, "look")["parts"]["message"]
    assert "problem" in ask(services, "overview", table=str(folder))
    assert "problem" in ask(services, "overview", table=str(tmp_path.parent))
    assert "problem" in ask(services, "overview")


def test_the_overview_puts_the_planted_channel_first(services: Services) -> None:
    told = ask(services, "overview", table=str(keep(services)))
    ranges, rows = told["ranges"], told["parts"]["offenders"].split("<tr")[2:]
    assert len(ranges["name"]) == 14 == len(told["labels"]) and ranges["p1"] is None
    assert 'data-layer="model.layers.1.mlp.down_proj"' in rows[0] and 'data-channel="3"' in rows[0]
    assert ranges["absmax"][13] == 100 and services.t("stats.block", n=1) in told["title"]
    outputs = ask(services, "overview", table=str(keep(services, "again")), role="output")
    assert max(outputs["ranges"]["absmax"]) < 2


def test_collecting_starts_a_job_of_what_the_rail_shows(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.launch.dispatch", lambda _store: None)  # a worker would import torch
    keep(services)
    run = services.store.get(ask(services, "collect", detail=True)["run"])
    assert run.spec.kind == "stats" and run.spec.detail and run.spec.out.endswith("stats/chat-2")
    second = services.store.get(ask(services, "collect", detail=False)["run"])
    assert second.spec.out.endswith("stats/chat-3")
    assert "problem" in ask(services, "collect", model="")


def test_components_go_together(services: Services) -> None:
    with gr.Blocks(analytics_enabled=False):
        pickers = shell.layout_rail(services)
        with gr.Tabs():
            view = statistics.layout(services)
        around = shell.Shell(pickers, shell.layout_monitor(services), shell.layout_courier())
        statistics.wire(view, around, services)
    before = statistics.arrive(services)
    assert json.loads(before)["calibration"].endswith("chat/calibration.yaml")
    keep(services)
    assert statistics.arrive(services) != before  # so that the browser asks again


def test_numbers_keep_the_digits_that_count() -> None:
    from quantui.ui.statistics_views import plain
    from quantui.ui.widgets.statistics_parts import said, times

    assert plain(np.array([1.23456e-9, 10560.0, 0.0, np.nan, -np.inf], np.float32)) == [1.235e-9, 10560.0, 0.0, None, None]
    assert [said(v) for v in (None, 10560.0, 0.013123, 1e-7, 0.0)] == ["–", "10560", "0.01312", "1.00e-07", "0"]
    assert [times(v) for v in (3.21, 737.8, 12345.0, 1e6)] == ["3.21", "738", "12300", "1.00e+06"]
