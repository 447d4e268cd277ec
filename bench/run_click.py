"""The Quantize tab in a real browser: from the click on Run to the first log line on the page.

    python bench/run_click.py [--rounds 7]

The whole app, as `python app.py` starts it, with the embedded models; each round starts the first job there is and cancels it.
Goal: under 1 second. The job is forked from the process that stands by, once that has its imports done, and for comparison
started without one (`--no-spare`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

if TYPE_CHECKING:
    from tests.e2e.conftest import App

GOAL = 1.0


def main() -> None:
    """Prints what was measured against the goal."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.browser import FLAGS, ensure
    from tests.e2e.conftest import App

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure(), args=list(FLAGS))
        for what, extra in (("with a process that stands by", ()), ("without", ("--no-spare",))):
            with tempfile.TemporaryDirectory() as folder:
                app = App(Path(folder), extra)
                try:
                    wait_for_spare(app, wanted=not extra)
                    page = browser.new_page(viewport={"width": 1280, "height": 900})
                    page.goto(f"{app.url}/?tab=quantize")
                    taken = [click(page) for _ in range(rounds)]
                finally:
                    app.stop(kill=True)
            middle = statistics.median(taken)
            verdict = "met" if middle < GOAL else "MISSED"
            print(f"{what}: {middle:.2f} s (of {min(taken):.2f} to {max(taken):.2f}; goal {GOAL} s): {verdict}", flush=True)
        browser.close()


def wait_for_spare(app: App, *, wanted: bool) -> None:
    """Waits until the process that stands by sleeps."""
    process = psutil.Process(app.process.pid)
    while wanted:
        spare = [child for child in process.children(recursive=True) if "quantui.forkserver" in " ".join(child.cmdline())]
        if spare and spare[0].cpu_percent(1.0) < 1:
            return
        time.sleep(0.2)


def click(page: Any) -> float:
    """Seconds of one round; the first line names the job's process, by which it is told from the last round's."""
    page.locator("#run-button:enabled").wait_for()
    rows = page.locator(".log-row")
    before = rows.first.text_content() if rows.count() else ""
    began = time.monotonic()
    page.click("#run-button")
    page.wait_for_function(
        "before => ![before, undefined].includes(document.querySelector('.log-row')?.textContent)", arg=before, polling=10
    )
    taken = time.monotonic() - began
    page.click("[data-act=cancel]")
    page.locator(".run-title[data-state=cancelled]").wait_for()
    return taken


if __name__ == "__main__":
    main()
