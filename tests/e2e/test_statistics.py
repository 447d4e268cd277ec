"""The Statistics tab in a real browser: planted outliers on top, who caused them, the bits of keys, and what is exported."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from quantui.jobs import launch
from quantui.jobs.store import JobStore
from tests.e2e.conftest import App

expect.set_options(timeout=60_000)  # other tests may keep the machine busy
PLANTED = {"model.layers.0.mlp.down_proj", "model.layers.3.mlp.down_proj"}
"""Where the demo's loudest channels were planted, three at each (assets/demo/make/chat.py)."""


@pytest.fixture(scope="module", autouse=True)
def little_data(app: App) -> None:
    """The demo with fewer samples: what is tested here is the page."""
    file = app.workspace.calibration / "chat" / "calibration.yaml"
    text = re.sub(r"(?m)^samples:.*$", "samples: 12", file.read_text(encoding="utf-8"))
    file.write_text(text, encoding="utf-8")


def seen(page: Page, view: str) -> None:
    """Waits until a view is filled."""
    page.wait_for_function("view => document.querySelector('[data-stats=root]')?.dataset.shown === view", arg=view)


def saved(page: Page, chart: str, tool: str) -> Path:
    """What a button of a chart's toolbar saves."""
    with page.expect_download() as download:
        page.click(f"[data-chart={chart}] [data-tool={tool}]")
    return Path(download.value.path())


def stretch(page: Page, chart: str) -> list[float]:
    """From where to where the x axis of a chart goes."""
    axis = "chart => document.querySelector(`[data-chart=${chart}] [data-plot]`)._fullLayout.xaxis.range.map(Math.round)"
    return list(page.evaluate(axis, chart))


def narrow(page: Page, chart: str) -> list[float]:
    """Drags over the middle of a chart; gives what is seen then."""
    plot = page.locator(f"[data-chart={chart}] .nsewdrag")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    assert box
    before, y = stretch(page, chart), box["y"] + box["height"] / 4
    page.mouse.move(box["x"] + box["width"] * 0.3, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, y, steps=3)
    page.mouse.up()
    expect(page).to_have_url(re.compile(f"st.{chart}="))
    after = stretch(page, chart)
    assert before[0] < after[0] < after[1] < before[1]
    return after


def test_outliers_are_collected_found_explained_and_exported(app: App, page: Page) -> None:
    page.goto(f"{app.url}/?tab=statistics")
    expect(page.locator("[data-part=message]")).to_contain_text("No statistics of chat")
    expect(page.locator("[data-part=cost]")).to_contain_text("12 samples")
    page.click("[data-do=collect]")
    expect(page.locator(".stats-run .run-title")).to_be_visible()
    page.wait_for_selector("[data-stats=root][data-shown=overview]", timeout=180_000)

    rows = page.locator(".offenders tbody tr")
    assert {rows.nth(i).get_attribute("data-layer") for i in range(4)} == PLANTED
    expect(page.locator("[data-chart=ranges] [data-chart-title]")).to_contain_text("times as far")
    before = page.locator("[data-stats=over]").inner_text()
    line = page.locator("[data-chart=ranges] .chart-handle")
    line.focus()
    for _ in range(12):
        page.keyboard.press("ArrowUp")
    expect(page.locator("[data-stats=over]")).not_to_have_text(before)
    expect(page).to_have_url(re.compile("st.above="))
    table = list(csv.DictReader(saved(page, "ranges", "csv").open(encoding="utf-8-sig", newline="")))
    assert len(table) == 29 and {"name", "low", "p99", "absmax"} <= set(table[0])
    assert saved(page, "ranges", "png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in saved(page, "ranges", "svg").read_bytes()[:200]

    with page.expect_download() as download:
        page.click("[data-body=overview] [data-rows]")
    listed = list(csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8-sig").splitlines()))
    assert {row["name"] for row in listed[:4]} == PLANTED and len(listed) == page.locator(".offenders tr:visible").count() - 1

    every, part = stretch(page, "ranges"), narrow(page, "ranges")

    channel = rows.first.get_attribute("data-channel")
    rows.first.click()
    seen(page, "layer")
    expect(page.locator(".layer-why h3")).to_have_text(re.compile(rf"Channel {channel} reached \d+ here"))
    expect(page.locator(".layer-why mark")).to_be_visible()
    expect(page.locator(".layer-why")).to_contain_text("calibration.jsonl:")
    expect(page.locator("[data-stats=fit]")).to_contain_text("INT8 clips")
    page.select_option("[data-set=scheme]", "int4")
    expect(page.locator("[data-stats=fit]")).to_contain_text("of 16 levels")
    expect(page.locator("[data-chart=smooth] [data-chart-title]")).to_contain_text("not")
    expect(page).to_have_url(re.compile("st.scheme=int4"))
    closer = {chart: narrow(page, chart) for chart in ("channels", "spread", "smooth")}
    page.goto(page.url)
    seen(page, "layer")
    page.wait_for_selector("[data-chart=smooth][data-drawn]")
    assert {chart: stretch(page, chart) for chart in closer} == closer
    expect(page.locator("[data-stats=fit]")).to_contain_text("of 16 levels")
    expect(page.locator(".outliers tr[aria-current]")).to_have_attribute("data-channel", str(channel))

    page.select_option("[data-set=weight]", "int4-g128")
    expect(page.locator("[data-chart=channels] [data-chart-title]")).to_contain_text("is off by")
    lost = list(csv.DictReader(saved(page, "channels", "csv").open(encoding="utf-8-sig", newline="")))
    assert max(lost, key=lambda row: float(row["int4-g128"]))["channel"] == page.locator(".lost tbody td").first.inner_text()
    role = page.locator("[data-body=layer] [data-set=role]")
    role.select_option("output")
    expect(page.locator("[data-stats=no-smooth]")).to_contain_text("choose Inputs")
    expect(page.locator("[data-chart=smooth] h3")).to_be_visible()
    role.select_option("input")
    expect(page.locator("[data-chart=smooth] .chart-plot")).to_be_visible()
    page.click("[data-view=overview]")
    seen(page, "overview")
    assert stretch(page, "ranges") == part
    page.click("[data-chart=ranges] [data-tool=whole]")
    expect(page).not_to_have_url(re.compile("st.ranges="))
    assert stretch(page, "ranges") == every

    page.click("[data-view=cache]")
    seen(page, "cache")
    whole = page.locator("[data-stats=saved]").inner_text()
    error = page.locator("[data-stats=keyerror]").inner_text()
    page.locator("[data-set=keybits]").focus()
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("output[data-stats=keybits]")).to_have_text("4")
    expect(page.locator("[data-stats=keyerror]")).not_to_have_text(error)
    expect(page.locator("[data-stats=saved]")).not_to_have_text(whole)
    drawn = page.locator("[data-chart=profile]").get_attribute("data-drawn")
    page.locator("[data-chart=value-map] .nsewdrag").click(position={"x": 40, "y": 40})
    expect(page.locator("[data-chart=profile]")).not_to_have_attribute("data-drawn", str(drawn))
    expect(page.locator("[data-chart=profile] [data-chart-title]")).to_contain_text("Values of block 0")
    dimensions = narrow(page, "profile")
    page.reload()
    seen(page, "cache")
    page.wait_for_selector("[data-chart=profile][data-drawn]")
    assert stretch(page, "profile") == dimensions
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    clips = page.evaluate("[...document.querySelectorAll('.chart [clip-path]')].map(e => e.getAttribute('clip-path'))")
    assert clips and all(clip.startswith("url(#") for clip in clips)  # not by the address, which is another one by now
    for run in JobStore(app.workspace.runs).list():
        launch.cancel(JobStore(app.workspace.runs), run.id)
