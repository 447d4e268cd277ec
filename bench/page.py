"""What the page's own answers cost, without a browser: a poll of a run with 50 000 lines, a plan of 20 000 tensors, 500 layers.

Each is the median of some rounds after one that warms up.

    python bench/page.py [--rounds 20]

Goals: a poll under 20 ms, the plan drawn in under 2 s, the rows of 500 layers in under 50 ms.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.checkpoint.inspect import Linear  # noqa: E402
from quantui.events import Log, Stamped, encode  # noqa: E402
from quantui.jobs.store import JobStore  # noqa: E402
from quantui.jobs.tail import read_logs, snapshot  # noqa: E402
from quantui.recipe import llmcompressor  # noqa: E402
from quantui.recipe.layers import layer_table  # noqa: E402
from quantui.ui.i18n import translator  # noqa: E402
from quantui.ui.widgets.layers import layer_data  # noqa: E402
from quantui.ui.widgets.plan import plan_table  # noqa: E402
from quantui.workspace import RECIPES, Workspace  # noqa: E402
from tests.jobs.conftest import make_spec  # noqa: E402
from tests.ui.test_convert_tab import long_plan  # noqa: E402

POLL_GOAL, PLAN_GOAL, ROWS_GOAL = 0.020, 2.0, 0.050
LINES, TENSORS, LAYERS = 50_000, 20_000, 500


def main() -> None:
    """Prints what was measured against the goals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        show(f"a poll of a run of {LINES:,} lines", middle(poll(Path(folder)), rounds), POLL_GOAL)
    t, plan = translator("en"), long_plan(TENSORS)
    show(f"a plan of {TENSORS:,} tensors", middle(lambda: plan_table(t, plan), rounds), PLAN_GOAL)
    layers = [Linear(f"model.layers.{i // 7}.mlp.x{i % 7}_proj", 4096, 4096, "BF16") for i in range(LAYERS)]
    recipe = llmcompressor.load(RECIPES / "fp8-w8a8-kv8.yaml")
    show(f"the rows of {LAYERS} layers", middle(lambda: layer_data(t, layer_table(recipe, layers), 0), rounds), ROWS_GOAL)


def poll(folder: Path) -> Callable[[], None]:
    """What the page asks each second of a run that is followed."""
    store = JobStore(Workspace(folder).runs)
    run = store.submit(make_spec("a"))
    line = Log("info", "a line of ordinary length, as an engine writes them")
    run.events.write_text("".join(encode(Stamped(number, 1.0, line)) + "\n" for number in range(1, LINES + 1)))

    def asked() -> None:
        snapshot(store, run.id)
        read_logs(store, run.id, after=LINES - 10)

    return asked


def middle(work: Callable[[], object], rounds: int) -> float:
    """The median of some rounds in seconds, after one that warms up."""
    work()
    spent = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


def show(what: str, seconds: float, goal: float) -> None:
    """One line."""
    print(f"{what:34} {seconds * 1e3:7.1f} ms, goal {goal * 1e3:.0f} ms: {'met' if seconds <= goal else 'MISSED'}")


if __name__ == "__main__":
    main()
