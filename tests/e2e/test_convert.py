"""The Convert tab in a real browser: two clicks to a native model, one more to quantize it, and what cannot be converted."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

from playwright.sync_api import Page, expect

from quantui.events import EventReader, Progress
from quantui.jobs.store import JobStore
from quantui.workspace import ASSETS
from tests.e2e.conftest import App, check_nothing_cut

expect.set_options(timeout=60_000)  # other tests may keep the machine busy
SELECTED = "#q-tabs [role=tab][aria-selected=true]"


def open_tab(page: Page, app: App, path: str = "/") -> None:
    """Opens the page on the Convert tab, with a click as a person would."""
    page.goto(f"{app.url}{path}")
    page.click("#q-tabs [role=tab][data-tab-id=convert]")
    expect(page.locator("#plan-filter")).to_be_visible()


def type_source(page: Page, folder: Path) -> None:
    """Types a path into the source picker."""
    field = page.locator("#convert-source input")
    field.fill(str(folder))
    field.press("Enter")


def without(folder: Path, target: Path, tensor: str) -> Path:
    """A copy of a model folder that has lost one tensor."""
    shutil.copytree(folder, target)
    file = target / "model.safetensors"
    data = file.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header = {(name if name != tensor else "left.over"): entry for name, entry in header.items()}
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    return target


def test_two_clicks_convert_the_demo_and_one_uses_it(app: App, page: Page) -> None:
    page.goto(app.url)
    expect(page.locator(SELECTED)).to_have_text("Quantize")
    open_tab(page, app)
    button, count = page.locator("#convert-button"), page.locator(".plan-count")
    expect(page.locator("#convert-source input")).to_have_value("vision-github")
    expect(page.locator("#source-facts")).to_contain_text("InternVLChatModel")
    expect(count).to_have_text("115 rows")
    expect(button).to_be_enabled()

    page.locator("#plan-filter").locator("input, textarea").fill("qkv layers.1")
    expect(count).to_have_text("6 of 115 rows")
    expect(page.locator(".plan-table tbody tr").first).to_contain_text("0:128")
    page.locator("#plan-filter").locator("input, textarea").fill("")
    expect(count).to_have_text("115 rows")

    button.click()
    expect(page.locator("#convert .run-title[data-kind=convert]")).to_be_visible()
    card = page.locator("#convert [data-card=result]")
    expect(card).to_be_visible(timeout=180_000)
    for text in ("Tensors written", "115", "all read back", "Logits differ by at most", "Time per stage", "Output folder"):
        expect(card).to_contain_text(text)
    for stage in ("Copy", "Read back", "Side files", "Compare logits"):
        expect(card.get_by_role("rowheader", name=stage, exact=True)).to_be_visible()
    expect(page.locator("#c-log [data-log=count]")).to_contain_text("lines")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    (run,) = JobStore(app.workspace.runs).list()
    told = [stamped.event for stamped in EventReader(run.events).read() if isinstance(stamped.event, Progress)]
    assert {event.stage for event in told if event.unit == "B"} == {"copy", "reread"}

    card.get_by_role("button", name="Use in Quantize").click()
    expect(page.locator(SELECTED)).to_have_text("Quantize")
    expect(page.locator("#rail-model input")).to_have_value("vision-github-native")
    expect(page.locator("#rail-calibration input")).to_have_value("vision")
    expect(page.locator("#run-button")).to_be_enabled()
    expect(page.locator("#quantize [data-card=result]")).to_contain_text("Logits differ by at most")

    out = app.workspace.models / "vision-github-native"
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    assert AutoModelForImageTextToText.from_pretrained(out).config.model_type == "internvl"
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert (out / "chat_template.jinja").read_text() == (ASSETS / "demo" / "vision" / "chat_template.jinja").read_text()


def test_an_address_opens_the_tab_with_its_run(app: App, page: Page) -> None:
    (run,) = JobStore(app.workspace.runs).list()
    page.goto(f"{app.url}/zh-CN?tab=convert&run={run.id}")
    expect(page.locator(SELECTED)).to_have_text("转换")
    expect(page.locator("#convert [data-card=result]")).to_contain_text("logits 最大差异")
    expect(page.locator("#c-log [data-log=count]")).to_contain_text("行")
    assert f"run={run.id}" in page.url and "tab=convert" in page.url


def test_a_source_that_cannot_be_converted_says_why(app: App, page: Page) -> None:
    original, button = app.workspace.models / "vision-github", page.locator("#convert-button")
    lost = without(original, app.workspace.models / "lost", "vision_model.encoder.layers.0.attn.qkv.weight")
    open_tab(page, app)
    expect(button).to_be_enabled()
    type_source(page, lost)
    row = page.locator(".plan-table .problem-row")
    expect(row).to_have_count(2)
    expect(row.last).to_contain_text("Is missing.")
    expect(page.locator("#note-source")).to_contain_text("2 problems")
    expect(button).to_be_disabled()
    expect(row.last.locator("td").first).to_have_css("color", "rgb(179, 71, 10)")  # --q-bad

    (lost / "model.safetensors").write_bytes((lost / "model.safetensors").read_bytes()[:-100])
    type_source(page, original)
    expect(button).to_be_enabled()
    for folder, words in ((lost, "model.safetensors"), (Path("/etc"), "--allow"), (original.parent / "chat", "native already")):
        type_source(page, folder)
        expect(page.locator("#note-source .problem")).to_contain_text(words)
        expect(button).to_be_disabled()
    shutil.rmtree(lost)

    page.click("#q-tabs [role=tab][data-tab-id=quantize]")
    model = page.locator("#rail-model input")
    model.fill(str(original))
    model.press("Enter")
    page.locator("#note-model").get_by_role("button", name="Convert it").click()
    expect(page.locator(SELECTED)).to_have_text("Convert")
    expect(page.locator("#convert-source input")).to_have_value("vision-github")
    expect(button).to_be_enabled()


def test_nothing_is_cut_off(app: App, page: Page) -> None:
    for path in ("/", "/zh-CN"):
        open_tab(page, app, path)
        expect(page.locator("#convert-button")).to_be_enabled()
        page.click("#convert-more > button")
        expect(page.locator("#convert-shard")).to_be_visible()
        check_nothing_cut(page, "#convert *", ".log-lines, .cut, input, .sr-only", widths=(1280, 1920))
