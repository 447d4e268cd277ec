"""The Calibration tab in a real browser: chats and pictures are seen, the cut is changed, a sample dropped, the rest saved."""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from quantui.jobs.store import JobStore
from tests.e2e.conftest import App

expect.set_options(timeout=60_000)  # other tests may keep the machine busy
SELECTED = "#q-tabs [role=tab][aria-selected=true]"


def open_tab(page: Page, app: App, path: str = "/") -> None:
    """Opens the page on the Calibration tab by its address, and waits until the set is counted."""
    page.goto(f"{app.url}{path}?tab=calibration")
    counted(page)


def counted(page: Page) -> None:
    """Waits until samples and numbers are those of one revision."""
    page.wait_for_function(
        "(r => r?.dataset.ready && r.dataset.ready === r.dataset.counted && !r.matches('.counting-now'))"
        "(document.querySelector('[data-cal=root]'))"
    )


def pick_model(page: Page, name: str) -> None:
    """Picks a model in the rail; its calibration data comes with it."""
    page.click("#rail-model input")
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.locator("#rail-calibration input")).to_have_value(name)


def test_pictures_stand_with_their_tiles_in_chinese(app: App, page: Page) -> None:
    open_tab(page, app, "/zh-CN")
    pick_model(page, "vision")
    expect(page.locator(".sample-pictures")).to_have_count(20)
    counted(page)
    expect(page.locator(".sample .tiles").first.locator("img")).to_have_count(1)
    expect(page.locator(".sample").first).to_contain_text("4 个图像 token")
    page.locator("[data-do=more]").click()
    expect(page.locator(".sample-pictures")).to_have_count(40)
    expect(page.locator("[data-part=facts]")).to_contain_text("128 张，224 个图块")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    pick_model(page, "chat")
    expect(page.locator(".sample-pictures")).to_have_count(0)
    expect(page.locator(".sample .special").first).to_have_text("<|begin|>")


def test_chats_are_cut_dropped_edited_and_saved(app: App, page: Page) -> None:
    open_tab(page, app)
    expect(page.locator(SELECTED)).to_have_text("Calibration")
    samples, facts = page.locator(".sample"), page.locator("[data-part=facts]")
    expect(samples).to_have_count(20)
    expect(samples.first.locator(".special").first).to_have_text("<|begin|>")
    expect(facts).to_contain_text("cut at 512, beyond all")
    page.check("[data-cal=boundaries]")
    expect(samples.first.locator(".token").first).to_have_attribute("title", "id 347")
    page.uncheck("[data-cal=boundaries]")
    expect(page.locator(".token")).to_have_count(0)

    cut = page.locator("[data-field=max_tokens]")
    cut.fill("none")
    cut.press("Enter")
    expect(page.locator(".setting").filter(has=cut)).to_contain_text("whole number from 1 on")
    cut.fill("32")
    cut.press("Enter")
    expect(page.locator(".cut-line").first).to_have_text("cut after 32 tokens")
    expect(page.locator(".warnings")).to_contain_text("of the samples are cut at 32 tokens")
    expect(facts.locator("line.cut")).to_have_count(1)

    where = samples.nth(1).locator(".where").get_attribute("title")
    samples.first.locator("[data-do=drop]").click()
    expect(samples.first.locator(".where")).to_have_attribute("title", str(where))
    samples.first.locator("[data-do=pin]").click()
    expect(samples.first.locator("[data-do=pin]")).to_have_attribute("aria-pressed", "true")
    samples.first.locator("[data-do=edit]").click()
    page.locator(".sample-editor textarea").first.fill("<i>What</i> is 2 plus 2?")
    page.click(".sample-editor [data-do=take]")
    expect(samples.first.locator(".sample-text")).to_contain_text("<i>What</i> is 2 plus 2?")
    counted(page)
    expect(page.locator("[data-part=count]")).to_have_text("255")

    page.reload()
    counted(page)
    expect(cut).to_have_value("32")
    expect(page.locator(".samples-state")).to_have_text("Changed, not saved")
    page.fill("[data-cal=name]", "chat")
    page.click("[data-do=save]")
    expect(page.locator("[data-part=name]")).to_contain_text("has this name")
    page.fill("[data-cal=name]", "mine")
    page.click("[data-do=save]")
    expect(page.locator("#rail-calibration input")).to_have_value("mine")
    expect(page.locator(".samples-state")).to_have_text("As in the file")
    file = app.workspace.calibration / "mine" / "calibration.jsonl"
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 255 and rows[0]["messages"][0]["content"] == "<i>What</i> is 2 plus 2?"
    page.click("[data-do=use]")
    expect(page.locator(SELECTED)).to_have_text("Quantize")
    expect(page.locator("#forecast")).to_contain_text("255 samples")
    page.click("#run-button")
    page.locator("[data-act=cancel]").first.click()
    expect(page.locator(".job.cancelled").first).to_be_visible()
    (run,) = JobStore(app.workspace.runs).list()
    assert str(file.parent / "calibration.yaml") in str(run.spec)


def test_sources_are_added_mixed_and_linked_with_the_chart(app: App, page: Page) -> None:
    open_tab(page, app)
    folder = Path(page.locator(".samples-settings h2").get_attribute("title") or "").parent
    rows, form = page.locator(".sources > ul > li"), page.locator(".source-form")
    page.select_option("[data-cal=add]", "texts")
    form.locator("textarea").fill("one pasted text\n\nanother\nof two lines\n\na third text")
    page.click("[data-do=source-take]")
    expect(rows).to_have_count(2)
    expect(form).to_have_count(0)
    page.select_option("[data-cal=add]", "jsonl")
    page.click("[data-do=source-take]")
    expect(form).to_contain_text("needs path")
    page.click("[data-do=source-browse]")
    page.get_by_role("button", name="calibration.jsonl").click()
    expect(form.locator("[data-option=path]")).to_have_value(str(folder / "calibration.jsonl"))
    page.click("[data-do=source-leave]")
    expect(form).to_have_count(0)

    for field, value in (("samples", "9"), ("weight.0", "2"), ("weight.1", "1")):
        page.fill(f"[data-field='{field}']", value)
        page.press(f"[data-field='{field}']", "Enter")
    expect(page.locator(".sample")).to_have_count(9)
    expect(page.locator(".where", has_text="texts[")).to_have_count(3)
    counted(page)
    expect(page.locator("[data-part=facts]")).to_contain_text("66.7 %")
    page.locator(".sample").first.hover()
    expect(page.locator("rect.pointed")).to_have_count(1)
    page.locator("rect[data-begin]").first.click()
    expect(page.locator(".lengths tr.pointed")).to_have_count(1)
    page.locator(".sources [data-do=source-up]").nth(1).click()
    expect(rows.first).to_contain_text("texts")
    page.click("[data-do=revert]")
    expect(rows).to_have_count(1)
