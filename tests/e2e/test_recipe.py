"""The Recipe tab in a real browser: a preset, two layers back in float, a broken text, undo, save, and the run that follows."""

from __future__ import annotations

import re
import time

import pytest
from playwright.sync_api import Locator, Page, expect

from quantui.jobs import launch
from quantui.jobs.store import JobStore
from tests.e2e.conftest import App, check_nothing_cut

expect.set_options(timeout=60_000)  # other tests may keep the machine busy
SELECTED = "#q-tabs [role=tab][aria-selected=true]"
DOWN, GATE = "model.layers.1.mlp.down_proj", "model.layers.1.mlp.gate_proj"
SLIM = "python3 quant_internlm2.py --w_bit 8 --a_bit 8 --act_method 3 --anti_method m2 --tp_size 2"


@pytest.fixture(scope="module", autouse=True)
def little_data(app: App) -> None:
    """The demo with fewer questions: what is tested here is the page."""
    file = app.workspace.calibration / "chat" / "evaluation.jsonl"
    questions = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text("".join(questions[:8]), encoding="utf-8")


def open_tab(page: Page, app: App, path: str = "/") -> None:
    """Opens the page on the Recipe tab by its address, and waits until it is filled."""
    page.goto(f"{app.url}{path}?tab=recipe")
    page.wait_for_selector("[data-bench=root][data-ready]")
    expect(page.locator(".layer-row").first).to_be_visible()


def text(page: Page) -> Locator:
    """The YAML."""
    return page.locator("[data-yaml=text]")


def holds(part: str) -> re.Pattern[str]:
    """A pattern that any text with this part in it matches."""
    return re.compile(re.escape(part))


def row(page: Page, layer: str) -> Locator:
    """The row of a layer."""
    return page.locator(f".layer-row[data-layer='{layer}']")


def open_preset(page: Page, name: str) -> None:
    """Opens one of the gallery."""
    page.click("[data-open=gallery]")
    page.click(f".preset[data-path$='/{name}.yaml']")
    expect(page.locator(".recipe-name h2")).to_have_text(name)


def test_a_preset_is_edited_saved_and_run(app: App, page: Page) -> None:
    open_tab(page, app)
    expect(page.locator(SELECTED)).to_have_text("Recipe")
    open_preset(page, "int8-w8a8-dynamic")
    expect(page.locator("#rail-recipe input")).to_have_value("int8-w8a8-dynamic")
    expect(page.locator("[data-sheet=gallery]")).to_be_hidden()
    totals, original = page.locator(".totals"), text(page).input_value()
    expect(totals).to_contain_text("1 left in float")

    row(page, DOWN).click()
    row(page, GATE).click(modifiers=["Shift"])
    expect(page.locator("[data-layers=selected]")).to_have_text("2 layers selected")
    page.click("[data-layers=float]")
    expect(row(page, DOWN).locator(".cell > .scheme")).to_have_class("scheme fallback")
    expect(row(page, GATE)).to_contain_text(f"ignore: {GATE}")
    expect(totals).to_contain_text("3 left in float")
    expect(text(page)).to_have_value(holds(DOWN))
    expect(page.locator(".draft-state")).to_have_text("Unsaved changes")
    edited = text(page).input_value()
    assert edited != original and edited.startswith("# INT8 weights per output channel")

    text(page).fill(edited.replace("scheme: W8A8", "scheme: W8A9"))
    expect(page.locator(".yaml .number.error")).to_have_count(1)
    line = edited[: edited.index("scheme: W8A8")].count("\n") + 1
    expect(page.locator(".yaml .number.error")).to_have_text(str(line))
    expect(page.locator(".field.wrong")).to_have_attribute("data-name", "scheme")
    expect(page.locator(".remarks .error")).to_contain_text("W8A9")
    expect(page.locator("[data-do=save]")).to_be_disabled()
    expect(totals).to_contain_text("3 left in float")  # the last good state

    page.reload()  # the draft is on disk, broken as it is
    expect(page.locator(".yaml .number.error")).to_have_text(str(line))
    page.click("[data-do=undo]")
    expect(text(page)).to_have_value(edited)
    expect(page.locator(".yaml .number.error")).to_have_count(0)

    page.fill("[data-bench=name]", "two-back")
    page.click("[data-do=save]")
    expect(page.locator(".draft-state")).to_have_text("Saved")
    expect(page.locator("#rail-recipe input")).to_have_value("two-back")
    assert (app.workspace.recipes / "two-back.yaml").read_text(encoding="utf-8") == edited

    page.click("[data-do=use]")
    expect(page.locator("#forecast")).to_contain_text("26 quantized, 3 left")
    expect(page.locator("#run-button")).to_be_enabled()
    page.click("#run-button")
    card = page.locator("#quantize [data-card=result]")
    expect(card).to_be_visible(timeout=180_000)
    expect(card).to_contain_text("26")
    (run,) = JobStore(app.workspace.runs).list()
    assert DOWN in getattr(run.spec, "recipe", "")
    launch.cancel(JobStore(app.workspace.runs), run.id)


def test_form_and_text_follow_each_other(app: App, page: Page) -> None:
    open_tab(page, app)
    open_preset(page, "int8-w8a16")
    began = time.monotonic()
    page.select_option("[data-field=rounding]", "gptq")
    expect(text(page)).to_have_value(holds("GPTQModifier"))
    print(f"\nform to text: {time.monotonic() - began:.3f} s")
    page.fill("[data-field=gptq_block_size]", "64")
    page.press("[data-field=gptq_block_size]", "Enter")
    expect(text(page)).to_have_value(holds("block_size: 64"))
    page.fill("[data-field=gptq_dampening_frac]", "much")
    page.press("[data-field=gptq_dampening_frac]", "Enter")
    expect(page.locator(".field.wrong")).to_contain_text("much")
    expect(page.locator("[data-field=gptq_dampening_frac]")).to_have_value("much")
    began = time.monotonic()
    text(page).fill(text(page).input_value().replace("block_size: 64", "block_size: 32"))
    expect(page.locator("[data-field=gptq_block_size]")).to_have_value("32")
    print(f"text to form: {time.monotonic() - began:.3f} s")

    page.click("[data-layers=every]")
    page.select_option("[data-layers=scheme]", "W4A16")
    expect(row(page, DOWN).locator(".cell > .scheme")).to_have_class("scheme bits4")
    page.fill("[data-layers=filter]", "layers.1 mlp")
    expect(page.locator("[data-layers=count]")).to_have_text("3 of 29 layers")
    page.press("[data-yaml=text]", "Control+z")
    expect(row(page, DOWN).locator(".cell > .scheme")).to_have_class("scheme bits8")

    page.click("[data-open=paste]")
    page.fill("[data-bench=paste]", SLIM)
    expect(page.locator(".report")).to_contain_text("tp_size")
    page.click("[data-do=take]")
    expect(text(page)).to_have_value(holds("OutlierSuppressionModifier"))
    expect(page.locator(".recipe-name h2")).to_have_text("Pasted recipe")
    expect(page.locator("[data-field=weight_ranks]")).to_have_value("2")
    page.select_option("[data-field=weight_ranks]", "4")
    expect(text(page)).to_have_value(holds("shards: 4"))
    page.click("[data-open=changes]")
    expect(page.locator(".changes")).to_contain_text("+")


def test_nothing_is_cut_off(app: App, page: Page) -> None:
    for path in ("/", "/zh-CN"):
        open_tab(page, app, path)
        for sheet in ("gallery", "paste", "changes"):
            page.click(f"[data-open={sheet}]")
            but = ".yaml, .cut, input, select, textarea, .sr-only, .reason, .cell, .targets"
            check_nothing_cut(page, "#recipe *", but, widths=(1280, 1920))
