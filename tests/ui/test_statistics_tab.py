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
    told = ask(services, "look")
    assert told["table"] == "" and told["tables"] == []
    assert services.t("stats.none", model="chat") in told["parts"]["message"]
    cost = ask(services, "cost", detail=True)
    assert cost["can"] and services.t.count("count.samples", 6) in cost["parts"]["cost"]
    without = ask(services, "cost", calibration="")
    assert not without["can"] and services.t("stats.no_calibration") in without["parts"]["cost"]
    assert not ask(services, "cost", model="/nowhere")["can"]


def test_a_link_to_a_run_opens_its_table(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.launch.dispatch", lambda store, spare: None)
    run = ask(services, "collect")["run"]
    assert ask(services, "look", run=run)["table"] == ""
    folder = keep(services, "chat")
    assert str(folder) == getattr(services.store.get(run).spec, "out", "")
    keep(services, "newer")
    assert ask(services, "look", run=run)["table"] == str(folder)
    assert ask(services, "look", run="no-such-run")["table"].endswith("newer")


def test_the_newest_table_of_the_model_is_shown(services: Services) -> None:
    other = keep(services, "vision", "vision")
    assert ask(services, "look")["table"] == ""  # that of another model is offered, not shown
    folder = keep(services)
    told = ask(services, "look")
    assert told["table"] == str(folder) and {row[0] for row in told["tables"]} == {str(folder), str(other)}
    assert ask(services, "look", table=str(other))["table"] == str(other)
    gone = ask(services, "look", table=str(folder.with_name("gone")))
    assert gone["table"] == str(folder) and services.t("stats.gone") in gone["parts"]["facts"] != told["parts"]["facts"]
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
    assert ranges["absmax"][13] == 100 and services.t("stats.block", n=1) in rows[0]
    outputs = ask(services, "overview", table=str(keep(services, "again")), role="output")
    assert max(outputs["ranges"]["absmax"]) < 2


def test_collecting_starts_a_job_of_what_the_rail_shows(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.launch.dispatch", lambda store, spare: None)  # a worker would import torch
    keep(services)
    run = services.store.get(ask(services, "collect", detail=True)["run"])
    assert run.spec.kind == "stats" and run.spec.detail and run.spec.out.endswith("stats/chat-2")
    second = services.store.get(ask(services, "collect", detail=False, skip=True)["run"])
    assert second.spec.kind == "stats" and second.spec.out.endswith("stats/chat-3")
    assert (run.spec.not_finite, second.spec.not_finite) == ("stop", "skip")
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


def test_a_layer_is_told_whole(services: Services) -> None:
    table = str(keep(services))
    told = ask(services, "layer", table=table)
    assert (told["layer"], told["channel"], told["kind"]) == ("model.layers.1.mlp.down_proj", 3, "down")  # the loudest first
    assert told["line"]["high"][3] == 100 and told["line"]["channel"] == list(range(12)) and len(told["names"]) == 14
    assert told["spread"] is None and told["fit"] == ""
    assert 'aria-current="true"' in told["parts"]["layer-outliers"] and "<mark" in told["parts"]["layer-cause"]
    assert "model.layers.1.mlp.down_proj" in told["parts"]["layer-facts"]
    by_size = ask(services, "line", table=table, layer=told["layer"], order="size")["line"]
    assert by_size["channel"][0] == 3 and by_size["size"] == 1
    part = ask(services, "line", table=table, layer=told["layer"], order="number", first=2, last="5")["line"]
    assert (part["first"], part["last"]) == (0, 12)  # so few are told whole, wherever the page looks
    other = ask(services, "cause", table=table, layer=told["layer"], channel="99")["parts"]["layer-cause"]
    assert "11" in other
    rows = ask(services, "export", table=table, layer=told["layer"])["csv"].split("\r\n")
    assert len(rows) == 14 and rows[0].startswith("channel,max,min") and rows[4].startswith("3,100,")
    assert "problem" in ask(services, "cause", table=table, layer="nothing")


def test_smoothing_reads_the_models_weights_or_says_why_not(services: Services, tmp_path: Path) -> None:
    kept = str(keep(services))  # the model of the fixture has 64 columns where the table has 12
    assert "wrong" in ask(services, "smooth", table=kept, layer="model.layers.1.mlp.down_proj")
    foreign = keep(services, "foreign")
    meta = json.loads((foreign / "stats.json").read_text()) | {"model": str(tmp_path / "elsewhere")}
    (foreign / "stats.json").write_text(json.dumps(meta))
    assert "wrong" in ask(services, "smooth", table=str(foreign), layer="model.layers.0.mlp.down_proj")


def test_keys_and_values_are_told_with_errors_and_bytes(services: Services) -> None:
    table = str(keep(services))
    told = ask(services, "cache", table=table)["cache"]
    assert told["heads"] == 2 and [len(rows) for rows in told["map"].values()] == [2, 2] and not told["relative"]
    for grains in told["errors"].values():
        for width in range(len(told["bits"]) - 2):
            assert all(fine < coarse for fine, coarse in zip(grains["tensor"][width + 1], grains["tensor"][width], strict=True))
        assert all(head <= whole for head, whole in zip(grains["head"][-1], grains["tensor"][-1], strict=True))
    # 2 layers of 2 heads of 4 dimensions, keys alone: 16 numbers a token
    assert told["token_bytes"]["16"] == 32 and told["token_bytes"]["4"] == 8
    shape = ask(services, "profile", table=table, attention="model.layers.0.self_attn", role="key", head="7")
    assert shape["head"] == 1 and len(shape["low"]) == 4 and shape["pairs"] == [(0, 2), (1, 3)]
    assert ask(services, "profile", table=table, attention="model.layers.0.self_attn", role="value", head=0)["pairs"] == []
    assert "problem" in ask(services, "profile", table=table, attention="x")


def test_an_imported_table_is_shown_as_far_as_it_goes(services: Services) -> None:
    table = str(keep(services, "imported", source="lmdeploy", samples=[]))
    line = ask(services, "look", table=table)["parts"]["facts"]
    assert services.t("stats.imported") in line and services.t.count("count.samples", 0) not in line
    whole = StatsTable.load(Path(table))
    cached = [row for row in whole.meta["entries"] if row[1] in ("key", "value")]
    cache_only = str(keep(services, "cache", linears=[], entries=cached))
    assert "cache" in ask(services, "cache", table=cache_only)
    for view in ("overview", "layer"):
        said = ask(services, view, table=cache_only)["problem"]
        assert services.t.error("the table has no layers, only keys and values")[4:] in said
    inputs = [row for row in whole.meta["entries"] if row[1] != "output"]
    assert "problem" in ask(services, "layer", table=str(keep(services, "inputs", entries=inputs)), role="output")


def test_experts_that_no_token_reached_are_named(services: Services) -> None:
    entries = [row for row in made().meta["entries"] if row[0] != "model.layers.1.mlp.up_proj"]
    line = ask(services, "look", table=str(keep(services, entries=entries)))["parts"]["facts"]
    assert services.t("stats.unreached", n="1") in line and "model.layers.1.mlp.up_proj" in line


def test_two_tables_are_compared_layer_by_layer(services: Services) -> None:
    here, there = str(keep(services)), str(keep(services, "other", seed=1))
    told = ask(services, "compare", table=here, other=there)
    changes = told["changes"]
    assert len(changes["name"]) == 14 and changes["block"] == sorted(changes["block"])
    assert changes["change"][0] == pytest.approx(np.log2(changes["there"][0] / changes["here"][0]), abs=1e-3)
    assert len(ask(services, "compare", table=here, other=there, role="key")["changes"]["name"]) == 2
    assert told["parts"]["compare-note"] == ""
    part = ask(services, "compare", table=here, other=str(keep(services, "fewer", entries=made().meta["entries"][:-8])))
    assert f" {len(part['changes']['name'])} " in part["parts"]["compare-note"].replace("：", " ")
    same = ask(services, "compare", table=here, other=here)
    assert (
        same["title"] == services.t("stats.compare.none") and services.t("stats.compare.same") in same["parts"]["compare-note"]
    )


def test_layers_are_told_apart_in_few_words(services: Services) -> None:
    from quantui.ui.widgets.statistics_parts import place

    t = services.t
    vision, expert = "model.vision_tower.encoder.layer.1.attention.q_proj", "model.layers.1.mlp.experts.7.up_proj"
    assert place(t, vision).startswith(t("stats.vision")) and place(t, vision).endswith("q")
    assert t("stats.expert", n=7) in place(t, expert, "gate, up") and place(t, expert, "gate, up").endswith("gate, up")
    assert t("stats.expert", n=7) not in place(t, expert, expert=False)
    assert place(t, "lm_head") == "lm_head"


def test_weight_errors_are_told_by_output_channel(services: Services) -> None:
    folder, name = keep(services), "model.layers.1.mlp.up_proj"  # 8 in, 12 out
    asked = {"table": str(folder), "layer": name, "weight": "int4", "order": "size"}
    table = StatsTable.load(folder)
    errors = next(table.channel_errors(layer)["int4"] for layer in table.layers if layer.name == name)
    told = ask(services, "layer", **asked)
    assert (told["weight"], told["schemes"], told["good"]) == ("int4", ["int8", "int4"], services.t("stats.lost.good"))
    assert told["line"]["channel"] == np.argsort(-errors).tolist() and told["line"]["count"] == 12
    assert told["line"]["high"] == told["line"]["low"] == pytest.approx(100 * np.sort(errors)[::-1], rel=1e-3)
    assert f"{100 * errors.max():.2g} %" in told["title"] and f" {errors.argmax()} " in told["title"]
    assert told["parts"]["layer-outliers"].count("<tr data-channel") == 12
    assert ask(services, "line", **asked)["line"] == told["line"]
    rows = [row.split(",") for row in ask(services, "export", **asked)["csv"].split("\r\n")]
    assert rows[0] == ["channel", "max", "min", "absmax", "int8", "int4"] and len(rows) == 14
    assert [float(row[5]) for row in rows[1:-1]] == pytest.approx(errors, rel=1e-3)
    for scheme in ("nothing", "<b>", ""):  # values, as without
        assert ask(services, "layer", **asked | {"weight": scheme})["weight"] == ""
