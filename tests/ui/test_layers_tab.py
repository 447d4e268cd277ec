"""The answers of the Layers tab, without a browser: bars, edits that snap to groups, the front, undo, the card, the recipe."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantui.checkpoint.columns import column_absmax
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import linear_layers, weight_tensors
from quantui.jobs.store import JobStore
from quantui.recipe import edit, llmcompressor
from quantui.sensitivity.candidates import scored_layers
from quantui.spec import SensitivitySpec
from quantui.stats.build import SiteArrays, build
from quantui.stats.finish import model_hash
from quantui.stats.grid import BINS
from quantui.ui import drafts, sensitivity_page, sensitivity_tables
from quantui.ui.i18n import translator
from quantui.ui.services import Services
from quantui.ui.tabs import layers
from quantui.ui.widgets.sensitivity import sensitivity_card
from quantui.workspace import Workspace, write_json
from tests.sensitivity.tables import RECIPE, linears, saved, scores_of

QUERY, KEY, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.k_proj", "model.layers.0.mlp.down_proj"


class Page:
    """A browser: it remembers the revision and the scores it has, as assets/sensitivity.js does."""

    def __init__(self, services: Services, model: Path) -> None:
        self.services, self.model = services, model
        self.told: dict[str, Any] = {}
        self.html: dict[str, str] = {}
        self.data: dict[str, Any] = {}
        self.ask("look")

    def ask(self, action: str, **more: Any) -> dict[str, Any]:
        """What the page is told."""
        stamp = self.data.get("stamp", "")
        calibration = str(self.services.workspace.calibration / "chat" / "calibration.yaml")
        asked = {
            "model": str(self.model), "calibration": calibration, "recipe": str(RECIPE), "action": action, "allowed": "all",
            "allowed_shown": "all", "revision": self.data.get("revision"), "stamp": stamp, "scores": stamp,
        }  # fmt: skip
        self.told = sensitivity_page.answer(self.services, json.loads(json.dumps(asked | more)))
        json.dumps(self.told)
        self.data |= self.told
        self.html |= self.told.get("parts", {})
        return self.told

    def fell(self) -> list[str]:
        """The layers in float."""
        return [name for name, at in zip(self.data["scores"]["name"], self.data["choice"], strict=True) if at == -1]


@pytest.fixture
def scored(services: Services) -> Services:
    """A workspace with scores of its chat model."""
    model = services.workspace.models / "chat"
    chosen = scored_layers(llmcompressor.load(RECIPE), linear_layers(open_checkpoint(model)))
    table = scores_of(chosen, model_hash=model_hash(model), model=str(model))
    table.meta["inputs"][QUERY]["top"] = [[3, 40.0]]
    saved(services.workspace.root / "sensitivity" / "chat-fisher", table)
    return services


@pytest.fixture
def page(scored: Services) -> Page:
    return Page(scored, scored.workspace.models / "chat")


def test_without_scores_there_is_one_sentence_and_one_button(services: Services) -> None:
    page = Page(services, services.workspace.models / "chat")
    assert "scores" not in page.told and "choice" not in page.told
    assert "chat" in page.html["facts"] and page.told["can"]["start"]
    told = page.ask("edit", layers=[DOWN], scheme="float")
    assert "problem" in told["parts"]["message"]
    assert "problem" in page.ask("look", model="")["parts"]["message"]


def test_bars_stand_in_order_with_all_that_is_known(page: Page) -> None:
    data = page.data["scores"]
    assert set(data["name"]) == {QUERY, KEY, DOWN}
    assert data["kind"][data["name"].index(DOWN)] == "down"
    assert len(data["kl"]) == len(data["stderr"]) == len(data["schemes"])
    assert data["floor"] == 1e-5
    assert page.data["choice"] == [0, 0, 0]
    assert "scores" not in page.ask("look")  # they are shown already
    assert page.html["totals"].count("<dt") >= 4


def test_a_selection_falls_back_with_its_group_and_comes_back(page: Page) -> None:
    before = page.data["now"]
    page.ask("edit", layers=[QUERY], scheme="float")
    assert set(page.fell()) == {QUERY, KEY}
    assert page.data["now"]["kl"] < before["kl"] and page.data["now"]["bytes"] > before["bytes"]
    draft = drafts.load(page.services.workspace)
    assert draft is not None and QUERY in draft.now.text and KEY in draft.now.text
    assert QUERY in page.html["diff"]
    page.ask("edit", layers=[KEY], scheme="float")  # once more takes it back
    assert page.fell() == []
    assert page.data["now"]["kl"] == pytest.approx(before["kl"])
    assert page.ask("undo")["can"]["redo"] and set(page.fell()) == {QUERY, KEY}
    page.ask("redo")
    assert page.fell() == []


def test_a_selection_takes_another_scheme(page: Page) -> None:
    scheme = page.data["scores"]["schemes"][1]["name"]
    page.ask("edit", layers=[DOWN], scheme=scheme)
    at = page.data["scores"]["name"].index(DOWN)
    assert page.data["choice"][at] == 1
    page.ask("edit", layers=[DOWN], scheme="recipe")
    assert page.data["choice"][at] == 0


def test_an_edit_of_an_old_revision_changes_nothing(page: Page) -> None:
    page.ask("edit", layers=[DOWN], scheme="float", revision=-1)
    assert page.fell() == []


def test_a_point_of_the_front_becomes_the_recipe(page: Page) -> None:
    front = page.data["front"]
    assert front["bytes"] == sorted(front["bytes"]) and len(front["bytes"]) > 3
    last = len(front["bytes"]) - 1
    page.ask("take", point=last)
    assert page.data["now"]["bytes"] == front["bytes"][last] and page.data["now"]["kl"] == pytest.approx(
        front["kl"][last], rel=1e-3
    )
    page.ask("take", point=1)
    assert page.data["now"]["bytes"] == front["bytes"][1]
    assert len(page.ask("look", allowed="own")["front"]["bytes"]) < len(front["bytes"])


def test_the_card_says_why(page: Page) -> None:
    told = page.ask("why", layer=QUERY)
    card = told["parts"]["why"]
    assert QUERY in card and "40" in card
    assert page.services.t("layers.why.smooth", ratio="40") in card
    assert "a.jsonl" in card
    assert page.services.t("layers.why.not_smooth", ratio="40") in page.ask("why", layer=DOWN)["parts"]["why"]
    assert "problem" in page.ask("why", layer="model.none")["parts"]["message"]


def test_what_was_measured_stands_beside_what_was_foretold(page: Page) -> None:
    scores = sensitivity_tables.open_scores(Path(page.data["stamp"]))
    choice = dict.fromkeys(scores.names, scores.schemes[0].name)
    folder = page.services.workspace.root / "sensitivity" / "chat-measure"
    folder.mkdir()
    hashes = {key: scores.meta[key] for key in ("model_hash", "calibration_hash")}
    write_json(folder / "measured.json", hashes | {"kl": 0.5, "stderr": 0.01, "bytes": 4000, "choice": choice})
    (measured,) = page.ask("look")["measured"]
    assert measured["now"] and measured["kl"] == 0.5
    assert measured["foretold"] == pytest.approx(scores.kl_of(choice), rel=1e-3)
    assert page.services.t("layers.measured") in page.html["totals"]
    page.ask("edit", layers=[DOWN], scheme="float")
    assert not page.data["measured"][0]["now"]


def test_scores_of_another_recipe_are_shown_and_said(page: Page) -> None:
    told = page.ask("look", recipe=str(RECIPE.with_name("fp8-dynamic.yaml")))
    assert "fp8" in str(drafts.load(page.services.workspace)) and told["choice"]
    assert "int8-w8a8-static" in told["parts"]["message"]


def test_the_recipe_is_saved_before_it_is_quantized_with(page: Page) -> None:
    assert page.ask("use")["recipe"] == str(RECIPE)
    page.data["revision"] = page.ask("look")["revision"]
    page.ask("edit", layers=[DOWN], scheme="float")
    made = Path(page.ask("use")["recipe"])
    assert made.parent == page.services.workspace.recipes and DOWN in made.read_text()


def test_a_job_is_started_and_its_bars_grow(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.launch.dispatch", lambda store, spare: None)  # nothing is to run here
    run = page.services.store.get(page.ask("start", method="fisher")["run"])
    assert isinstance(run.spec, SensitivitySpec) and run.spec.method == "fisher"
    told = page.ask("look")
    assert told["going"]["id"] == run.id
    growing = scores_of(linears(2), model_hash="m")
    write_json(run.folder / "partial.json", growing.as_json())
    assert len(page.ask("look")["scores"]["name"]) == 14
    measure = page.services.store.get(page.ask("start", method="measure")["run"])
    assert isinstance(measure.spec, SensitivitySpec) and measure.spec.method == "measure"


def test_560_layers_are_answered_in_200_ms(workspace: Workspace) -> None:
    services = Services(workspace, JobStore(workspace.runs), translator("en"))
    from tests.ui.conftest import write_calibration, write_model

    model = write_model(workspace.models / "large")
    write_calibration(workspace.calibration / "chat")
    saved(workspace.root / "sensitivity" / "large", scores_of(linears(80), model_hash=model_hash(model), model=str(model)))
    page = Page(services, model)
    names = page.data["scores"]["name"]
    assert len(names) == 560
    page.ask("edit", layers=names[20:24], scheme="float")
    began = time.process_time()
    page.ask("edit", layers=names[100:110], scheme="float")
    spent = time.process_time() - began
    assert len(page.fell()) > 13
    assert spent < 0.2


def test_the_browser_is_told_of_ended_jobs(services: Services) -> None:
    assert json.loads(layers.tell(services, model="m", calibration=None, recipe="r")) == {
        "model": "m", "calibration": "", "recipe": "r", "ended": "0",
    }  # fmt: skip


def test_the_card_of_a_job(services: Services) -> None:
    result = {
        "method": "fisher", "layers": 28, "worst": [{"group": DOWN, "scheme": "W8A8", "kl": 0.64}], "out": "/somewhere",
        "seconds": {"score": 3.0},
    }  # fmt: skip
    card = sensitivity_card(services.t, result)
    assert "down_proj" in card and "0.64" in card and "/somewhere" in card
    measured = {
        "method": "measure",
        "kl": 0.01,
        "stderr": 0.002,
        "bytes": 2_000_000,
        "bits_per_weight": 8.5,
        "out": "/x",
        "seconds": {},
    }
    assert "0.01 ± 0.002" in sensitivity_card(services.t, measured)


def test_a_search_is_started_and_what_it_found_is_taken(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantui.jobs.launch.dispatch", lambda store, spare: None)  # nothing is to run here
    assert page.ask("look", target="kl")["can"]["auto"] and page.html["auto-cost"]
    for wrong in (
        {"target": "exact_match", "limit": 1.2},
        {"target": "kl", "limit": None},
        {"target": "exact_match", "limit": 0.9},
    ):
        assert "problem" in page.ask("start", method="auto", **wrong)["parts"]["message"]
    run = page.services.store.get(page.ask("start", method="auto", target="kl", limit=0.05, samples=3)["run"])
    assert isinstance(run.spec, SensitivitySpec) and run.spec.target == ("kl", 0.05) and run.spec.samples == 3
    assert run.spec.scores == page.data["stamp"]
    assert "problem" in page.ask("found")["parts"]["message"]

    scores = sensitivity_tables.open_scores(Path(page.data["stamp"]))
    folder = Path(run.spec.out)
    folder.mkdir()
    (folder / "recipe.yaml").write_text(llmcompressor.dumps(edit.fall_back(llmcompressor.load(RECIPE), [DOWN])))
    probes = [
        {
            "level": level,
            "kl": 0.1 / (1 + level),
            "foretold": 0.1,
            "additivity": 1.0,
            "exact_match": None,
            "bytes": 4000 + level,
        }
        for level in (0, 1)
    ]
    hashes = {key: scores.meta[key] for key in ("model_hash", "calibration_hash", "recipe_hash")}
    write_json(folder / "auto.json", hashes | {"target": ["kl", 0.05], "probes": probes, "level": 1})
    assert [one["now"] for one in page.ask("look")["measured"]] == [False, False]
    assert 'data-do="found"' in page.html["auto"]
    page.ask("found")
    assert page.fell() == [DOWN] and [one["now"] for one in page.data["measured"]] == [False, True]
    assert page.services.t("layers.auto.taken") in page.html["auto"]
    assert page.ask("undo") and page.fell() == []
    result = {"method": "auto", "level": 1, "kl": 0.05, "bytes": 4001, "exact_match": 0.97, "out": "/x", "seconds": {}}
    assert "97 %" in sensitivity_card(page.services.t, result)


def test_the_card_shows_the_grid_and_what_smoothing_would_do_where_there_are_statistics(page: Page) -> None:
    assert 'data-do="statistics"' in page.ask("why", layer=QUERY)["parts"]["why"] and page.told["grid"] is None
    services = page.services
    columns = column_absmax(dict(weight_tensors(open_checkpoint(page.model)))[QUERY])
    loud = np.ones(len(columns), np.float32)
    loud[3] = 50.0
    channel: dict[str, Any] = {"max": loud, "min": -loud, "mean": loud * 0, "absmean": loud / 2}
    channel |= {f"{side}_{what}": np.zeros(len(loud), np.int32) for side in ("max", "min") for what in ("sample", "token")}
    counts = np.ones(BINS, np.int64)
    site = SiteArrays((len(loud),), 4, True, channel, std=loud / 2, kurtosis=loud)
    site.mean_square, site.reach, site.even, site.steps = 1.0, 64.0, counts, counts
    layers = [{"name": name, "in": len(loud), "out": 4, "weights": None} for name in (QUERY, KEY)]
    meta = {"model": str(page.model), "samples": [], "pieces": {}, "detail": True}
    folder = services.workspace.root / "stats" / "chat"
    folder.mkdir(parents=True)
    build([site], [(QUERY, "input", 0), (KEY, "input", 0)], layers, meta).save(folder)
    told = page.ask("why", layer=QUERY)
    assert len(told["grid"]["spread"]["levels"]) > 200 and "INT8" in told["grid"]["title"]
    assert services.t("layers.why.neighbours") in told["parts"]["why"] and f'data-why="{KEY}"' in told["parts"]["why"]
