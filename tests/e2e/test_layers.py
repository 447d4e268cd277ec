"""The Layers tab in a real browser: score the demo, box bars, take a point of the front, quantize with it."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from quantui.jobs.store import JobStore
from quantui.recipe import llmcompressor
from quantui.workspace import RECIPES
from tests.e2e.conftest import App

expect.set_options(timeout=60_000)  # other tests may keep the machine busy
SAMPLES = 16
WORST = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module", autouse=True)
def little_data(app: App) -> None:
    """The demo with fewer samples and questions, and the recipe that hurts it picked in the rail."""
    folder = app.workspace.calibration / "chat"
    questions = (folder / "evaluation.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "evaluation.jsonl").write_text("".join(questions[:24]), encoding="utf-8")
    calibration = (folder / "calibration.yaml").read_text(encoding="utf-8")
    (folder / "calibration.yaml").write_text(calibration.replace("samples: 256", f"samples: {SAMPLES}"), encoding="utf-8")
    rail = app.workspace.root / "rail.json"
    picked = {"model": str(app.workspace.models / "chat"), "calibration": str(folder / "calibration.yaml"), "run": ""}
    rail.write_text(json.dumps(picked | {"recipe": str(RECIPES / "int8-w8a8-static.yaml")}), encoding="utf-8")


def foretold(page: Page) -> float:
    """The KL that the choice is foretold to have."""
    text = page.locator("[data-part=totals] dd").first.inner_text()
    return float(re.findall(r"\d[\d.e-]*", text.replace("\u2212", "-"))[-1])


def centre(page: Page, layer: str) -> tuple[float, float, float, float]:
    """Where a layer's bar stands: x, and left, top and bottom of the chart."""
    found = page.evaluate(
        """layer => { const box = document.querySelector('[data-chart="bars"] [data-plot]'), at = box.getBoundingClientRect();
        const { xaxis, yaxis } = box._fullLayout;
        const place = box.data[0].customdata.findIndex(([, text]) => text.includes(layer));
        const left = at.left + xaxis._offset, top = at.top + yaxis._offset;
        return [left + xaxis.d2p(place), left, top, top + yaxis._length]; }""",
        layer,
    )
    return tuple(found)


def _foot(page: Page, layer: str) -> tuple[float, float]:
    """The foot of a layer's bar."""
    x, _, _, bottom = centre(page, layer)
    return x, bottom - 4


def box(page: Page, first: str, last: str) -> None:
    """Drags a box over the bars from one layer to another."""
    before = page.locator("[data-sens=root]").get_attribute("data-revision")
    left, _, top, bottom = centre(page, first)
    right = centre(page, last)[0]
    page.mouse.move(left - 4, top + 8)
    page.mouse.down()
    page.mouse.move(left + 4, top + 60, steps=3)
    page.mouse.move(right + 4, bottom - 12, steps=5)
    page.mouse.up()
    expect(page.locator("[data-sens=root]")).not_to_have_attribute("data-revision", before or "")


def test_layers_are_scored_boxed_and_quantized_with(app: App, page: Page) -> None:
    page.goto(f"{app.url}/?tab=layers")
    expect(page.locator("[data-part=facts]")).to_contain_text("no scores")
    page.click("[data-sens=root] [data-do=start]")
    expect(page.locator("[data-chart=bars] .shapelayer path").first).to_be_visible(timeout=150_000)
    expect(page.locator("[data-sens=going]")).to_be_hidden(timeout=150_000)
    expect(page.locator("[data-chart=bars] [data-chart-title]")).to_contain_text("block 0 · down")
    whole = foretold(page)

    box(page, "layers.3.mlp.gate_proj", "layers.3.mlp.down_proj")  # the last three bars
    expect(page.locator("[data-part=diff] tbody tr")).to_have_count(3)
    page.mouse.click(*_foot(page, WORST))
    expect(page.locator("[data-part=diff] tbody tr")).to_have_count(4)
    expect(page.locator("[data-part=why]")).to_contain_text(WORST)
    boxed = foretold(page)
    assert boxed < 0.3 * whole
    draft = json.loads((app.workspace.root / "recipe-draft.json").read_text())
    assert WORST in draft["steps"][draft["at"]]["text"]

    page.keyboard.press("Control+z")
    expect(page.locator("[data-part=diff] tbody tr")).to_have_count(3)
    page.locator("[data-sens=budget]").fill("2")  # a point of the front: the two worst groups in float
    expect(page.locator("[data-part=diff] tbody tr")).not_to_have_count(3)
    assert foretold(page) < 0.5 * whole

    page.click("[data-sens=root] [data-do=quantize]")
    expect(page.locator("#rail-recipe input")).to_have_value(re.compile("int8-w8a8-static-edited"))
    (made,) = app.workspace.recipes.glob("*.yaml")
    assert WORST in llmcompressor.load(made).ignore
    expect(page.locator("#run-button")).to_be_enabled()
    page.click("#run-button")
    expect(page.locator(".run-title[data-kind=quantize][data-state=done]").first).to_be_visible(timeout=240_000)
    store = JobStore(app.workspace.runs)
    result = next(store.result(run.id) for run in store.list() if run.spec.kind == "quantize")
    assert result is not None and result["layers_left"] >= 2
    assert result["exact_match_after"] >= result["exact_match_before"] - 0.1  # int8 alone loses 20 points
