"""The Compare tab in a real browser: both answer, tokens glow, a layer is switched back, the report opens offline."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.compare.made import largest_inputs, save_quantized
from tests.e2e.conftest import App

expect.set_options(timeout=60_000)  # other tests may keep the machine busy, and models are loaded
QUESTION = "What is 17 plus 25?"


@pytest.fixture(scope="module")
def quantized(app: App) -> Path:
    """The demo models quantized, as a run would leave them in the workspace."""
    models = app.workspace.models
    data = app.workspace.calibration / "chat" / "calibration.jsonl"
    chats = [json.loads(line)["messages"] for line in data.read_text(encoding="utf-8").splitlines()]
    largest = largest_inputs(models / "chat", chats)
    for name, scheme in (("vision", "int8-dynamic"), ("chat", "int8-sym")):
        out = app.workspace.quantized / f"{name}-int8"
        save_quantized(models / name, out, scheme, image_text=name == "vision", largest=largest)
        (out / "quantui.json").write_text(json.dumps({"model": str(models / name), "recipe": "# <b>int8</b>"}))
    return app.workspace.quantized


def answered(page: Page, times: int) -> None:
    """Waits until so many questions were answered since the page was opened."""
    root = page.locator("[data-compare=root]")
    expect(root).to_have_attribute("data-answered", str(times))
    expect(page.locator("[data-do=send]")).to_be_visible()


def ask(page: Page, text: str, times: int) -> None:
    """Asks both models and waits for their answers."""
    page.fill("[data-compare=message]", text)
    page.click("[data-do=send]")
    answered(page, times)


def test_a_layer_that_breaks_the_answer_is_found_while_talking(
    app: App, page: Page, quantized: Path, browser: Browser, tmp_path: Path
) -> None:
    page.goto(f"{app.url}/?tab=compare")
    expect(page.locator("[data-model=quantized]")).to_have_value(str(quantized / "chat-int8"))
    expect(page.locator(".example").first).to_be_visible()
    page.fill("[data-compare=message]", QUESTION)
    page.evaluate(
        "new MutationObserver(() => document.querySelectorAll('.answer .waiting').forEach("
        "e => (window.waited ??= new Set()).add(e.innerText))).observe(document.body, {childList: true, subtree: true})"
    )
    page.click("[data-do=send]")
    answered(page, 1)
    assert any(text.startswith("Loading both models …") for text in page.evaluate("[...window.waited]"))
    original, wrong = page.locator(".answer.original .words"), page.locator(".answer.quantized .words")
    expect(original).to_contain_text("42")
    expect(wrong).not_to_contain_text("42")
    expect(page.locator(".answer.original .tok.first")).to_have_count(1)
    assert page.locator(".tok:is(.k3, .k4, .k5, .k6)").count() > 0
    page.locator(".answer.original .tok").first.hover()
    expect(page.locator(".token-tip tbody tr").nth(4)).to_be_visible()
    page.locator(".answer.original .go-on").click()
    answered(page, 2)
    expect(page.locator(".answer.quantized .continued .tok.given").first).to_be_visible()

    for block in (0, 3):
        page.click(f'[data-layer="model.layers.{block}.mlp.down_proj"]')
    expect(page.locator("[data-told=switched]")).to_contain_text("2 of 28")
    page.click("[data-do=again]")
    answered(page, 3)
    expect(page.locator(".answer.quantized .words")).to_contain_text("42")
    ask(page, "请计算26加47。", 4)
    expect(page.locator(".answer.original .words").nth(1)).to_contain_text("73")
    ask(page, "<img src=x onerror=alert(1)>\u202e", 5)
    expect(page.locator(".asked .text").last).to_have_text("<img src=x onerror=alert(1)>⟦U+202E⟧")
    page.click("[data-preset=none]")
    page.click("[data-do=again]")
    answered(page, 6)
    expect(page.locator(".turn").last).to_contain_text("Nothing is quantized")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    with page.expect_download() as waiting:
        page.click("[data-do=report]")
    report = tmp_path / "report.html"
    waiting.value.save_as(report)
    offline = browser.new_context(offline=True).new_page()
    offline.goto(report.as_uri())
    expect(offline.locator("h1")).to_have_text("Quantization report")
    expect(offline.locator("pre")).to_have_text("# <b>int8</b>")
    offline.context.close()


def test_the_process_that_talks_may_die_and_the_conversation_is_kept(app: App, page: Page, quantized: Path) -> None:
    page.goto(f"{app.url}/zh-CN?tab=compare")
    ask(page, QUESTION, 1)
    processes = psutil.Process(app.process.pid).children(recursive=True)
    (talker,) = [p for p in processes if Path(f"/proc/{p.pid}/fd/2").resolve().name == "chat.log"]
    talker.send_signal(signal.SIGKILL)
    talker.wait(10)
    page.reload()
    expect(page.locator(".asked .text")).to_have_text(QUESTION)
    expect(page.locator(".answer.original .tok").first).to_be_visible()
    page.select_option("[data-model=quantized]", str(quantized / "vision-int8"))
    expect(page.locator("[data-compare=root]")).to_have_attribute("data-pair", re.compile("vision-int8$"))
    page.click("[data-do=clear]")
    picture = next((app.workspace.calibration / "vision" / "evaluation-images").glob("*.png"))
    page.set_input_files("[data-compare=picture]", picture)
    ask(page, "What does the image show?", 1)
    expect(page.locator(".asked img")).to_be_visible()
    for side in ("original", "quantized"):
        expect(page.locator(f".answer.{side} .words")).to_contain_text(re.compile("circle|triangle|square|star|cross|ring"))
