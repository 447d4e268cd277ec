"""The Statistics tab on a large table in a real browser: how soon it opens, how soon a click is answered, what is sent.

    python bench/stats_page.py [--rounds 5] [--blocks 80] [--keep FOLDER]

A generated table of the size of a Llama of 80 blocks (560 Linears, 8 K/V heads of 128 dimensions, hidden 8192), with
distributions. Opening is a click on the tab of a page that is loaded, until the chart and the table beside it are painted; the
page reads its Plotly while it is idle, which --cold does not wait for. A click is on a layer, a cell of the heat map or a tab
of views, until what it asks for is painted; it comes --look seconds after the view before, which is when the page asks for and
draws what is likely next. Painted is the end of the first frame after the page has marked that what is asked for is in place:
of a layer its name, facts, channels, outliers and the word that caused them; the charts below follow once that is seen.
Processor time is that of the page's main thread from before the click until the bench has heard of it. What is sent is the body
of every answer of the server to one step and the look after it, unpacked.

Goals: opens in under 1 second, a click in under 0.2 seconds, under 2 MB per view.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.stats.build import SiteArrays, Weights, build  # noqa: E402
from quantui.stats.grid import BINS  # noqa: E402
from quantui.workspace import Workspace  # noqa: E402

OPEN_GOAL, CLICK_GOAL, SIZE_GOAL = 1.0, 0.2, 2_000_000
HIDDEN, INNER, HEADS, WIDTH, QUERIES = 8192, 28672, 8, 128, 64
SCHEMES = ("int8-channel", "fp8-channel", "int4-g128")


def main() -> None:
    """Prints what was measured against the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=80)
    parser.add_argument("--cold", action="store_true", help="open the tab in a browser that has not loaded Plotly")
    parser.add_argument("--look", type=float, default=1.0, help="seconds between a picture and the next click")
    parser.add_argument("--keep", type=Path, help="a workspace to use and to leave behind")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        workspace = Workspace(options.keep or Path(temporary) / "workspace")
        folder = workspace.root / "stats" / "generated"
        if not folder.exists():
            folder.mkdir(parents=True)
            began = time.perf_counter()
            generate(folder, options.blocks)
            print(f"generated a table of {options.blocks * 7} linears in {time.perf_counter() - began:.1f} s", flush=True)
        with served(workspace) as address:
            measure(address, str(folder), options.rounds, cold=options.cold, look=options.look)


def generate(folder: Path, blocks: int) -> None:
    """Writes a table whose numbers are drawn at random, with a loud channel here and there."""
    random = np.random.default_rng(0)
    sites: list[SiteArrays] = []
    entries: list[tuple[str, str, int]] = []
    linears: list[dict[str, Any]] = []
    at = 0
    for block in range(blocks):
        groups = (
            ("self_attn", ("q_proj", "k_proj", "v_proj"), HIDDEN, (HIDDEN, HEADS * WIDTH, HEADS * WIDTH)),
            ("self_attn", ("o_proj",), HIDDEN, (HIDDEN,)),
            ("mlp", ("gate_proj", "up_proj"), HIDDEN, (INNER, INNER)),
            ("mlp", ("down_proj",), INNER, (HIDDEN,)),
        )
        for part, names, size, outs in groups:
            sites.append(site(random, (size,), loud=300.0 if names[0] == "down_proj" and block in (1, blocks - 2) else None))
            shared = len(sites) - 1
            for name, out in zip(names, outs, strict=True):
                module = f"model.layers.{block}.{part}.{name}"
                sites.append(site(random, (out,)))
                entries += [(module, "input", shared), (module, "output", len(sites) - 1)]
                linears.append({"name": module, "in": size, "out": out, "weights": at})
                at += out
        for role in ("key", "value"):
            sites.append(site(random, (HEADS, WIDTH), loud=40.0 if role == "key" else None, spread=False))
            entries.append((f"model.layers.{block}.self_attn", role, len(sites) - 1))
    low = random.uniform(-1, 0, at).astype(np.float32)
    errors, roots = random.random((len(linears), len(SCHEMES))), random.random((len(SCHEMES), at), np.float32)
    weights = Weights(SCHEMES, low, -low, errors.astype(np.float32), roots.astype(np.float16))
    samples = [random.integers(0, 500, 512).tolist() for _ in range(32)]
    meta = {
        "dtype": "bfloat16",
        "model": "/nowhere/generated",
        "calibration": "/nowhere/calibration.yaml",
        "samples": [f"calibration.jsonl:{row + 1}" for row in range(32)],
        "pieces": {str(number): f" word{number}" for number in range(500)},
        "detail": True,
        "skipped": [],
        "cache": {"layers": blocks, "heads": QUERIES, "kv_heads": HEADS, "head_dim": WIDTH},
    }
    build(sites, entries, linears, meta, weights=weights, samples=samples).save(folder)


def site(random: np.random.Generator, shape: tuple[int, ...], *, loud: float | None = None, spread: bool = True) -> SiteArrays:
    """Channels of one tensor."""
    size = int(np.prod(shape))
    high = random.gamma(4.0, 0.5, size).astype(np.float32)
    if loud is not None:
        high[random.integers(0, size, 3)] *= loud
    channel: dict[str, Any] = {"max": high, "min": -high * 0.8, "mean": high * 0.01, "absmean": high / 5}
    for name in ("max", "min"):
        channel[f"{name}_sample"] = random.integers(0, 32, size).astype(np.int32)
        channel[f"{name}_token"] = random.integers(0, 512, size).astype(np.int32)
    made = SiteArrays(shape, 16384, True, channel, std=high / 4, kurtosis=high if spread else None)
    made.mean_square = float(np.mean((high / 4) ** 2))
    if spread:
        made.reach = float(2.0 ** np.ceil(np.log2(high.max())))
        middles = (np.arange(BINS) + 0.5) / BINS * 2 - 1
        made.even = np.round(1e6 * np.exp(-((middles * made.reach / 0.7) ** 2))).astype(np.int64)
        made.steps = np.round(2e3 * np.exp(-(((np.abs(np.arange(BINS) - BINS / 2) - 500) / 60) ** 2))).astype(np.int64)
    return made


@contextmanager
def served(workspace: Workspace) -> Iterator[str]:
    """The app on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "app.py", "--port", str(port), "--workspace", str(workspace.root), "--no-open"]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as app:
        address = f"http://127.0.0.1:{port}"
        try:
            while not answers(address):
                if app.poll() is not None:
                    sys.exit("the app has ended; start it by hand to see why")
                time.sleep(0.05)
            settle(app.pid)
            yield address
        finally:
            app.kill()


def settle(pid: int, patience: float = 60.0) -> None:
    """Waits until the app has made ready what it makes ready in the background."""
    until, before = time.monotonic() + patience, -1.0
    while time.monotonic() < until:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        now = sum(sum(process.cpu_times()[:2]) for process in family)
        if now - before < 0.05:
            return
        before = now
        time.sleep(1)


def answers(address: str) -> bool:
    """Whether the page is there."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError):
        return False


def measure(address: str, table: str, rounds: int, *, cold: bool, look: float) -> None:
    """Drives the browser."""
    from playwright.sync_api import sync_playwright

    from tests.e2e.browser import FLAGS, ensure

    spent: dict[str, list[float]] = {}
    sent: dict[str, list[int]] = {}
    worked: dict[str, list[float]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=ensure(), args=list(FLAGS))
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 800}, locale="en-US")
            visit = Visit(context.new_page(), spent, sent, look)
            walk(visit, f"{address}/?tab=quantize&st.table={table}", cold=cold)
            for name, seconds in visit.worked.items():
                worked.setdefault(name, []).append(seconds)
            context.close()
        browser.close()
    report(spent, sent, worked)


def walk(visit: Visit, address: str, *, cold: bool) -> None:
    """Every step once, on a fresh page."""
    page = visit.page
    page.goto(address)
    page.wait_for_selector("#run-button")
    if not cold:
        page.wait_for_function("window.Plotly", polling=200)
    page.wait_for_timeout(1500)
    visit.step("open", lambda: page.click("[role=tab][data-tab-id=statistics]"), "overview")
    visit.step("click: offender", lambda: page.click(".offenders tbody tr:not([hidden]) button"), "layer")
    visit.step("click: next layer", lambda: page.click("[data-step='1']"), "layer")
    visit.step("choice: what rounding loses", lambda: lose(page), "layer")
    visit.step("click: keys and values", lambda: page.click("[data-view=cache]"), "cache")
    area = page.locator("[data-chart=key-map] .nsewdrag")
    box = area.bounding_box()
    place = {"x": box["width"] * 0.55, "y": box["height"] * 0.5}
    visit.step("click: heat map cell", lambda: area.click(position=place), "profile")
    visit.step("click: overview again", lambda: page.click("[data-view=overview]"), "overview")


def lose(page: Any) -> None:
    """Chooses the first scheme whose loss by output channel is drawn; a choice is no press of the pointer for a browser."""
    page.evaluate("window.pressed = performance.now()")
    page.select_option("[data-body=layer] [data-set=weight]", index=1)


class Visit:
    """One visit of the page: every step is timed inside the browser, and what the server sends is counted."""

    def __init__(self, page: Any, spent: dict[str, list[float]], sent: dict[str, list[int]], look: float) -> None:
        self.page, self.spent, self.sent, self.look, self.bytes = page, spent, sent, look, 0
        self.worked: dict[str, float] = {}
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})
        page.on("response", self._count)
        page.add_init_script(
            "addEventListener('pointerdown', () => { window.pressed = performance.now(); }, true);"
            "const mark = performance.mark.bind(performance);"
            "performance.mark = (name, ...rest) => { if (name.startsWith('statistics ')) requestAnimationFrame(() => "
            "scheduler.postTask(() => console.debug(`painted ${name}`, performance.now() - pressed),"
            " { priority: 'user-blocking' }));"
            " return mark(name, ...rest); };"
        )

    def _count(self, response: Any) -> None:
        if "gradio_api" in response.url and response.request.method == "POST":
            self.bytes += len(response.body())

    def _work(self) -> float:
        """Processor seconds of the page's main thread so far, whatever else the machine does."""
        metrics = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(one["value"] for one in metrics if one["name"] == "TaskDuration"))

    def step(self, name: str, act: Callable[[], None], what: str) -> None:
        """Does something and waits until `what` is painted."""
        self.bytes, before = 0, self._work()
        with self.page.expect_console_message(lambda said: said.text.startswith(f"painted statistics {what} ")) as painted:
            act()
        self.worked[name] = self._work() - before
        self.spent.setdefault(name, []).append(float(painted.value.text.split()[-1]) / 1000)
        self.page.wait_for_timeout(self.look * 1000)
        self.sent.setdefault(name, []).append(self.bytes)


def report(spent: dict[str, list[float]], sent: dict[str, list[int]], worked: dict[str, list[float]]) -> None:
    """Prints a line a step."""
    for name, seconds in spent.items():
        goal = OPEN_GOAL if name == "open" else CLICK_GOAL
        middle, most = statistics.median(seconds), max(sent[name])
        verdict = "met" if middle <= goal and most <= SIZE_GOAL else "MISSED"
        times = f"median {middle * 1e3:6.0f} ms ({min(seconds) * 1e3:.0f} to {max(seconds) * 1e3:.0f})"
        cpu = f"{statistics.median(worked[name]) * 1e3:.0f} ms of them the page's own processor time"
        limits = f"goal {goal * 1e3:.0f} ms and {SIZE_GOAL / 1e6:.0f} MB"
        print(f"{name:24} {times}, {cpu}, {most / 1e3:7.1f} kB sent, {limits}: {verdict}")


if __name__ == "__main__":
    main()
