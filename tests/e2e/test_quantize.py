"""The main job in a real browser: one click to the result, and everything that may happen on the way."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from quantui.jobs import launch
from quantui.jobs.store import JobStore, Worker, read_worker
from tests.e2e.conftest import App, check_nothing_cut

expect.set_options(timeout=60_000)  # other tests may keep the machine busy


@pytest.fixture(autouse=True)
def nothing_goes_on(app: App) -> Iterator[None]:
    """Jobs that a test leaves are ended, so that they are in nobody's way."""
    yield
    store = JobStore(app.workspace.runs)
    for left in store.list():
        launch.cancel(store, left.id)


@pytest.fixture
def little_data(app: App) -> Iterator[None]:
    """The demo with fewer samples and questions, for the run that is waited for; the others are ended on the way."""
    folder = app.workspace.calibration / "chat"
    whole = {name: (folder / name).read_text(encoding="utf-8") for name in ("evaluation.jsonl", "calibration.yaml")}
    questions = whole["evaluation.jsonl"].splitlines(keepends=True)
    (folder / "evaluation.jsonl").write_text("".join(questions[:24]), encoding="utf-8")
    (folder / "calibration.yaml").write_text(whole["calibration.yaml"].replace("samples: 256", "samples: 16"), encoding="utf-8")
    yield
    for name, text in whole.items():
        (folder / name).write_text(text, encoding="utf-8")


def open_page(page: Page, app: App, path: str = "/") -> None:
    """Opens the page and waits until a run could be started."""
    page.goto(f"{app.url}{path}")
    expect(page.locator("#run-button")).to_be_enabled()


def run(page: Page) -> str:
    """Clicks Run; the id of the run that the page opens."""
    before = page.locator(".run-title").get_attribute("data-run") if page.locator(".run-title").count() else ""
    page.click("#run-button")
    page.wait_for_function(
        "before => ![before, null, undefined].includes(document.querySelector('.run-title')?.dataset.run)", arg=before
    )
    return str(page.locator(".run-title").get_attribute("data-run"))


def title(page: Page, state: str) -> Locator:
    """The title line of the opened run, once it is in this state."""
    return page.locator(f".run-title[data-state={state}]")


def count_of_lines(page: Page) -> int:
    """How many lines the log has, by its own count."""
    numbers = re.findall(r"[\d,]+", page.locator("[data-log=count]").inner_text())
    return int(numbers[-1].replace(",", "")) if numbers else 0


def worker_of(app: App, run_id: str) -> Worker:
    """Who works on a run, once the process that does it is known."""
    end = time.monotonic() + 15
    while time.monotonic() < end:
        worker = read_worker(app.workspace.runs / run_id)
        if worker and worker.child:
            return worker
        time.sleep(0.05)
    raise AssertionError("no worker has started")


def gone(group: int) -> bool:
    """Whether a process group ends within 5 seconds."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def cancel(page: Page) -> None:
    """Cancels the opened run in the page."""
    page.click("[data-act=cancel]")
    expect(title(page, "cancelled")).to_be_visible(timeout=7000)


def export_result(app: App, page: Page) -> None:
    """Writes the opened result in the first other format that a button offers, and looks at what became of it."""
    buttons = page.locator("[data-card=exports] [data-act=export]")
    expect(buttons.and_(page.locator(":disabled")).first).to_have_attribute("title", re.compile(r"\w+ \w+"))  # which says why
    button = buttons.and_(page.locator(":enabled")).first
    chosen = str(button.get_attribute("data-format"))
    button.click()
    card = page.locator("[data-card=exported]")
    expect(card).to_contain_text("every weight is the same", timeout=120_000)
    expect(card).to_contain_text(chosen)
    result = JobStore(app.workspace.runs).result(str(page.locator(".run-title").get_attribute("data-run")))
    assert result is not None and result["format"] == chosen and result["layers"] == 28
    assert result["files"] and all((Path(result["out"]) / name).is_file() for name in result["files"])


@pytest.mark.usefixtures("little_data")
def test_the_first_click_runs_the_demo_to_its_result(app: App, page: Page) -> None:
    open_page(page, app)
    expect(page.locator("#rail-model input")).to_have_value("chat")
    expect(page.locator("#forecast")).to_contain_text("bits/weight")
    began = time.monotonic()
    page.click("#run-button")
    page.wait_for_selector(".log-row", state="attached")
    print(f"\nclick on Run to the first log line on the page: {time.monotonic() - began:.2f} s")
    expect(title(page, "running")).to_be_visible()
    run_id = str(page.locator(".run-title").get_attribute("data-run"))
    assert f"run={run_id}" in page.url

    expect(page.locator(".stage[data-stage=start]")).to_have_class(re.compile("running|done"))
    expect(page.locator(".stage[data-stage=evaluate_original]")).to_have_class(re.compile("running|done"), timeout=150_000)
    lines = count_of_lines(page)
    assert lines >= 2

    page.reload()
    expect(title(page, "running")).to_be_visible()
    assert page.locator(".run-title").get_attribute("data-run") == run_id
    page.wait_for_function(
        "n => Number(document.querySelector('[data-log=count]').textContent.match(/[\\d]+/g)?.at(-1)) >= n", arg=lines
    )
    expect(page.locator(".stage[data-stage=load]")).to_have_class(re.compile("done"))

    card = page.locator("[data-card=result]")
    expect(card).to_be_visible(timeout=300_000)
    for text in (
        "Size on disk",
        "Exact match",
        "Perplexity",
        "Layers quantized",
        "Peak memory",
        "Time per stage",
        "Output folder",
    ):
        expect(card).to_contain_text(text)
    assert re.search(r"[\d.]+ %\s*→\s*[\d.]+ %", card.inner_text())
    assert re.search(r"[\d.]+ [kM]B\s*→\s*[\d.]+ [kM]B", card.inner_text())
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(card.locator("[data-act=statistics]")).to_contain_text("samples")

    result = JobStore(app.workspace.runs).result(run_id)
    assert result is not None and result["reopen_max_logit_difference"] < 1e-2
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(result["out"]).config.model_type == "llama"
    export_result(app, page)


def test_a_second_browser_shows_the_same(app: App, page: Page) -> None:
    """Whoever opens the page without an address sees the run that was opened last."""
    page.goto(app.url)
    expect(page.locator("[data-card=exported]")).to_be_visible()
    expect(page.locator("#note-run")).to_contain_text("Done")


@pytest.mark.parametrize("victim", ["child", "supervisor"])
def test_a_killed_worker_is_reported(app: App, page: Page, victim: str) -> None:
    open_page(page, app)
    worker = worker_of(app, run(page))
    assert worker.child is not None
    os.kill(worker.child if victim == "child" else worker.pid, signal.SIGKILL)
    killed = time.monotonic()
    card = page.locator("[data-card=failure]")
    expect(card).to_be_visible(timeout=5000)
    print(f"\nSIGKILL of the {victim} to the report on the page: {time.monotonic() - killed:.2f} s")
    expect(card.locator(".what")).not_to_be_empty()
    expect(card.locator(".todo")).not_to_be_empty()
    expect(title(page, "failed")).to_be_visible()


def test_a_restarted_web_process_takes_the_job_up_again(app: App, page: Page, console_errors: list[str]) -> None:
    open_page(page, app)
    run_id = run(page)
    worker = worker_of(app, run_id)
    app.restart(kill=True)
    # The page that was open all the time recovers by itself.
    expect(page.locator(".offline")).to_be_hidden(timeout=15_000)
    expect(title(page, "running")).to_be_visible()
    expect(page.locator(".stage[data-stage=load]")).to_have_class(re.compile("running|done"), timeout=150_000)
    assert page.locator(".run-title").get_attribute("data-run") == run_id
    assert worker_of(app, run_id).pid == worker.pid
    # So does one that is opened later, and the new web process can end the job.
    page.reload()
    expect(title(page, "running")).to_be_visible()
    began = time.monotonic()
    cancel(page)
    print(f"\nclick on Cancel to the card: {time.monotonic() - began:.2f} s")
    assert gone(worker.pid), "its processes go on"
    expect(page.locator("[data-card=cancelled]")).to_be_visible()
    expect(page.locator(".job.cancelled").first).to_be_visible()
    assert not (app.workspace.quantized / JobStore(app.workspace.runs).get(run_id).spec.out).exists()
    console_errors.clear()  # requests that met no server


def test_jobs_wait_in_line_and_any_can_be_opened(app: App, page: Page) -> None:
    open_page(page, app)
    first = run(page)
    second = run(page)
    expect(title(page, "queued")).to_contain_text("number 1 in the queue")
    cancel(page)
    page.click(f".job[data-run='{first}']")
    expect(page.locator(f".run-title[data-run='{first}']")).to_be_visible()
    assert f"run={first}" in page.url and first != second
    cancel(page)


def test_language_and_theme_are_switched_and_remembered(app: App, page: Page) -> None:
    open_page(page, app)
    page.click("[data-act=language][data-lang=zh-CN]")
    expect(page.locator("#run-button")).to_have_text("运行")
    expect(page.locator("#run-button")).to_be_enabled()
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page.locator("#q-tabs [role=tab][aria-selected=true]")).to_have_text("量化")
    expect(page.locator("#forecast")).to_contain_text("位/权重")
    open_page(page, app)
    expect(page.locator("#run-button")).to_have_text("运行")

    assert page.evaluate("document.body.classList.contains('dark')") is False
    page.click("[data-act=theme]")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.reload()
    expect(page.locator("#run-button")).to_be_enabled()
    assert page.evaluate("document.body.classList.contains('dark')") is True
    assert page.evaluate(background) == dark
    assert "__theme" not in page.url

    page.click("[data-act=language][data-lang=en]")
    expect(page.locator("#run-button")).to_have_text("Run")
    open_page(page, app)
    expect(page.locator("#run-button")).to_have_text("Run")


def test_bad_input_is_said_in_place(app: App, page: Page) -> None:
    open_page(page, app)
    button, model = page.locator("#run-button"), page.locator("#rail-model input")
    model.fill(str(app.workspace.root / "models" / "missing"))
    model.press("Enter")
    expect(page.locator("#note-model .problem")).to_contain_text("missing")
    expect(button).to_be_disabled()
    model.fill("/etc")
    model.press("Enter")
    expect(page.locator("#note-model .problem")).to_contain_text("--allow")
    model.fill("chat")
    model.press("Enter")
    expect(page.locator("#note-model .problem")).to_have_count(0)
    expect(button).to_be_enabled()

    recipe = app.workspace.recipes / "typo.yaml"
    recipe.write_text("quant_stage:\n  quant_modifiers:\n    QuantizationModifier:\n      igmore: []\n")
    picker = page.locator("#rail-recipe input")
    picker.fill(str(recipe))
    picker.press("Enter")
    expect(page.locator("#note-recipe .problem")).to_contain_text("typo.yaml:4")
    expect(button).to_be_disabled()
    picker.fill("fp8-w8a8-kv8")
    picker.press("Enter")
    expect(button).to_be_enabled()

    name = page.locator("#out-name input")
    (app.workspace.quantized / "taken").mkdir(exist_ok=True)
    name.fill("taken")
    expect(page.locator("#note-out .problem")).to_contain_text("exists")
    expect(button).to_be_disabled()
    name.fill("free")
    expect(button).to_be_enabled()


def test_nothing_is_cut_off_and_a_page_at_rest_draws_nothing(app: App, page: Page) -> None:
    page.add_init_script(  # before any other script, some of which keep the function they find
        "window.asked = 0; const ask = window.requestAnimationFrame;"
        "window.requestAnimationFrame = (act) => { window.asked += 1; return ask(act); }"
    )
    for path in ("/", "/zh-CN"):
        open_page(page, app, path)
        check_nothing_cut(page, ".panel *, .topbar *", ".log-lines, dialog", widths=(1280, 1920, 2560))
    asked = "new Promise(done => { const before = asked; setTimeout(() => done(asked - before), 400); })"
    assert any(page.evaluate(asked) == 0 for _ in range(30)), "something asks for frames all the time"
    page.close()  # what runs before its scripts is not for the next test
