"""The Layers tab with 560 layers in a real browser: how soon its bars are drawn, how soon a box over them is answered.

    python bench/layers_page.py [--rounds 5] [--blocks 80]

Made-up scores of a Llama of 80 blocks in 3 schemes. Drawing is from the first answer of the server to the drawn bars, in a
page that has just been opened; a selection is from the end of the drag to the new totals and bars. The front follows in the
next frame. Goals: under 1 second, under 0.2 seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.stats.finish import model_hash  # noqa: E402
from quantui.workspace import RECIPES, Workspace  # noqa: E402

OPEN_GOAL, SELECT_GOAL = 1.0, 0.2
READY = "document.querySelector('[data-sens=root]')?.dataset"


def main() -> None:
    """Prints what was measured against the goals."""
    from bench.stats_page import served

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=80)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(Path(temporary) / "workspace")
        prepare(workspace, options.blocks)
        with served(workspace) as address:
            measure(address, options.rounds)


def prepare(workspace: Workspace, blocks: int) -> None:
    """The demo with the scores of a large model in place of its own."""
    from tests.sensitivity.tables import linears, saved, scores_of

    workspace.add_demo()
    model = workspace.models / "chat"
    scores = scores_of(linears(blocks), model_hash=model_hash(model), model=str(model))
    saved(workspace.root / "sensitivity" / "large", scores)
    rail = {"model": str(model), "calibration": str(workspace.calibration / "chat" / "calibration.yaml"), "run": ""}
    picked = rail | {"recipe": str(RECIPES / "int8-w8a8-static.yaml")}
    (workspace.root / "rail.json").write_text(json.dumps(picked), encoding="utf-8")


def measure(address: str, rounds: int) -> None:
    """Opens the tab and boxes bars, again and again."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.browser import FLAGS, ensure

    drawn, answered = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure(), args=list(FLAGS))
        for _ in range(rounds):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}/?tab=layers")
            page.wait_for_function(f"{READY}?.took", timeout=120_000)
            drawn.append(float(page.evaluate(f"{READY}.took")) / 1000)
            answered.append(box(page))
            page.close()
        browser.close()
    for name, values, goal in (("drawn", drawn, OPEN_GOAL), ("a box answered", answered, SELECT_GOAL)):
        print(
            f"560 layers {name}: {statistics.median(values):.3f} s (of {min(values):.3f} to {max(values):.3f}; goal {goal} s)"
        )


def box(page: Any) -> float:
    """Seconds from the end of a drag over some bars until the new choice is drawn."""
    place = page.locator("[data-chart=bars] .nsewdrag").first.bounding_box()
    before = page.evaluate(f"{READY}.revision")
    x, y = place["x"] + 0.4 * place["width"], place["y"] + 30
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 12, y + 60, steps=3)
    page.mouse.move(x + 20, y + place["height"] - 50, steps=3)
    began = time.perf_counter()
    page.mouse.up()
    page.wait_for_function(f"before => {READY}.revision !== before", arg=before, polling=5, timeout=60_000)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
