"""The Compare tab in a real browser: how soon long answers are drawn with a colour for every token.

    python bench/compare_page.py [--rounds 5] [--tokens 1500]

A conversation of one turn is put where the browser keeps its own, with so many tokens on either side, and the page opened anew;
what is measured is the page's own time from reading it to the last token. Goal: under 0.7 seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.workspace import Workspace  # noqa: E402

GOAL = 0.7
KEPT = "sessionStorage.setItem('quantui-compare-turns', JSON.stringify([turn]))"


def main() -> None:
    """Prints what was measured against the goal."""
    from bench.stats_page import served

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=1500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(Path(temporary) / "workspace")
        workspace.add_demo()
        model = str(workspace.models / "chat")
        (workspace.quantized / "made").symlink_to(workspace.models / "chat")
        (workspace.root / "rail.json").write_text(json.dumps({"model": model}), encoding="utf-8")
        with served(workspace) as address:
            drawn = measure(address, options.rounds, options.tokens)
    print(
        f"{2 * options.tokens} coloured tokens: {statistics.median(drawn):.3f} s "
        f"(of {min(drawn):.3f} to {max(drawn):.3f}; goal {GOAL} s)"
    )


def measure(address: str, rounds: int, tokens: int) -> list[float]:
    """Seconds of each round."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.browser import FLAGS, ensure

    token = {"text": "word ", "end": False, "id": 7, "kl": 0.3, "original": -0.1, "quantized": -0.4, "top": {}}
    answer = {"text": "", "ids": [7] * tokens, "tokens": [token] * tokens, "first": 3, "speed": 50}
    answers = {"original": answer, "quantized": answer}
    turn = {"text": "long", "picture": None, "answers": answers, "order": [0, 1], "blind": False}
    drawn = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/?tab=compare")
        page.evaluate(f"turn => {KEPT}", turn)
        for _ in range(rounds):
            page.reload()
            page.wait_for_function("n => document.querySelectorAll('.tok').length === n", arg=2 * tokens, timeout=60_000)
            drawn.append(float(page.locator("[data-compare=root]").get_attribute("data-drawn") or "nan") / 1000)
        browser.close()
    return drawn


if __name__ == "__main__":
    main()
