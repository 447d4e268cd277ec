"""The handlers of the Quantize tab, without a browser."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from quantui.errors import AccessError, CalibrationError, InputError, OutputError
from quantui.jobs import launch
from quantui.ui import choices as chosen
from quantui.ui import rail, shell
from quantui.ui.choices import Choices
from quantui.ui.services import Services
from quantui.ui.tabs import quantize
from quantui.workspace import RECIPES
from tests.ui.conftest import ONE_LANGUAGE, submit


def demo(services: Services, **changes: Any) -> Choices:
    """What is picked when the page opens, with changes."""
    now = rail.load(services.workspace)
    made: dict[str, Any] = {
        "model": now.model,
        "calibration": now.calibration,
        "recipe": now.recipe,
        "out": "chat-fp8",
        "device": "auto",
        "statistics": True,
        "trust": False,
    }
    found: Choices = made | changes  # type: ignore[assignment]
    return found


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "dispatch", lambda store, spare: None)


def may_run(seen: Any) -> bool:
    return bool(seen[-1]["interactive"])


def test_the_page_opens_on_the_demo_and_run_works(services: Services) -> None:
    told = quantize.arrive(services)
    assert [update["value"] for update in told[:3]] == [demo(services)[key] for key in ("model", "calibration", "recipe")]
    assert told[3] == "chat-fp8-w8a8-kv8"
    assert may_run(told)
    assert services.t("forecast.size") in told[-2]


def test_the_forecast_has_numbers_with_units(services: Services) -> None:
    seen = quantize.look(services, **demo(services))
    assert may_run(seen)
    for text in ("kB", "GB", services.t.count("count.samples", 6), services.t("forecast.layers")):
        assert text in seen.forecast
    assert "Llama" in seen.model_note and "bf16" in seen.model_note
    assert "fp8" in seen.recipe_note
    assert "quantized/chat-fp8" in seen.out_note


def test_the_forecast_says_that_layers_go_back_to_float(services: Services) -> None:
    mine = services.workspace.recipes / "mine.yaml"
    for level, said in (("level: 1", {"n": 1}), ("bits_per_weight: 9.5", {"bits": "9.5"})):
        mine.write_text(
            (RECIPES / "int8-w8a8-kv8.yaml").read_text(encoding="utf-8").replace("level: 5", level), encoding="utf-8"
        )
        key = "forecast.fallback_level" if "n" in said else "forecast.fallback_bits"
        assert services.t(key, **said) in quantize.look(services, **demo(services, recipe=str(mine))).forecast
    assert services.t("forecast.fallback") not in quantize.look(services, **demo(services)).forecast


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"model": "/nowhere/at/all"}, "model_note"),
        ({"model": ""}, "model_note"),
        ({"model": None}, "model_note"),
        ({"recipe": ""}, "recipe_note"),
        ({"calibration": ""}, "calibration_note"),
        ({"out": ""}, "out_note"),
        ({"out": "../escape"}, "out_note"),
        ({"out": "a/b"}, "out_note"),
        ({"device": "cuda:7"}, "device_note"),
    ],
)
def test_what_is_wrong_is_said_in_place(services: Services, change: dict[str, Any], place: str) -> None:
    seen = quantize.look(services, **demo(services, **change))
    assert not may_run(seen)
    wrong = [name for name, part in seen._asdict().items() if name != "run" and 'class="problem"' in part]
    assert wrong == [place]
    assert services.t("forecast.blocked") in seen.forecast


def test_a_broken_shard_is_named_beside_the_model(services: Services) -> None:
    shard = services.workspace.models / "chat" / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    seen = quantize.look(services, **demo(services))
    assert "model.safetensors" in seen.model_note and 'role="alert"' in seen.model_note
    assert not may_run(seen)


def test_a_bad_recipe_is_named_with_its_line(services: Services) -> None:
    recipe = services.workspace.recipes / "bad.yaml"
    recipe.write_text("quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      igmore: []\n")
    seen = quantize.look(services, **demo(services, recipe=str(recipe)))
    assert "bad.yaml:4" in seen.recipe_note
    assert "ignore" in seen.recipe_note


def test_a_folder_that_exists(services: Services) -> None:
    (services.workspace.quantized / "chat-fp8").mkdir()
    seen = quantize.look(services, **demo(services))
    assert 'class="problem"' in seen.out_note and not may_run(seen)


def test_a_folder_promised_to_another_run(services: Services) -> None:
    submit(services.store, out=str(services.workspace.quantized / "chat-fp8"))
    seen = quantize.look(services, **demo(services))
    assert 'class="problem"' in seen.out_note


def test_run_submits_opens_and_offers_the_next_name(services: Services) -> None:
    told = quantize.start(services, **demo(services, out="chat-fp8-w8a8-kv8"))
    (run,) = services.store.list()
    assert told[0] == run.id
    assert told[1] == "chat-fp8-w8a8-kv8-2"
    assert run.spec.out == str(services.workspace.quantized / "chat-fp8-w8a8-kv8")
    assert run.spec.kind == "quantize" and run.spec.roots
    assert rail.load(services.workspace).run == run.id


@ONE_LANGUAGE
def test_run_starts_the_job_from_the_process_that_stands_by(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it the job would import the engine anew, for ten seconds."""
    standing, asked = object(), list[object]()
    monkeypatch.setattr(launch, "dispatch", lambda store, spare: asked.append(spare))
    quantize.start(replace(services, spare=lambda: standing), **demo(services))  # type: ignore[arg-type, return-value]
    assert asked == [standing]


def test_run_on_bad_input_submits_nothing(services: Services) -> None:
    told = quantize.start(services, **demo(services, model="/nowhere"))
    assert services.store.list() == []
    assert 'class="problem"' in told[2]


def test_another_model_is_remembered_with_its_calibration(services: Services) -> None:
    model = str(services.workspace.models / "vision")
    told = quantize.choose_model(services, **demo(services, model=model))
    assert told[0]["value"] == str(services.workspace.calibration / "vision" / "calibration.yaml")
    assert told[1] == "vision-fp8-w8a8-kv8"
    now = rail.load(services.workspace)
    assert (now.model, Path(now.calibration).parent.name) == (model, "vision")


def test_every_error_has_a_place(services: Services) -> None:
    now = demo(services, model="/outside/model")
    assert chosen.concern(AccessError("x", where="/outside/model"), now) == "model"
    assert chosen.concern(AccessError("x", where="/data/rows.jsonl"), now) == "calibration"
    assert chosen.concern(CalibrationError("x"), now) == "calibration"
    assert chosen.concern(OutputError("x"), now) == "out"
    assert chosen.concern(InputError("x"), now) == "out"


def test_outputs_and_components_go_together(services: Services) -> None:
    """Handlers give as many values as there are components to fill."""
    with gr.Blocks(analytics_enabled=False):
        pickers = shell.layout_rail(services)
        view = quantize.layout(services.t)
        around = shell.Shell(pickers, shell.layout_monitor(services), shell.layout_courier())
        shell.wire(around, services)
        quantize.wire(view, around, services)
    assert len(quantize.arrivals(view, around)) == len(quantize.arrive(services))
    assert len(quantize.arrivals(view, around)) == len(quantize.Seen._fields) + 6
