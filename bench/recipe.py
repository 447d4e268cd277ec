"""How soon the page knows what a recipe does to a model: the layer table, every refusal and the deployment targets.

On the Linears of a Llama of 80 blocks (561 layers), without torch, warm. Goal: the whole answer in under 50 ms. Beside it, what
one edit costs: letting ten layers fall back and writing the YAML again.

    python bench/recipe.py [--runs 20]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.checkpoint.inspect import Linear  # noqa: E402
from quantui.recipe import llmcompressor  # noqa: E402
from quantui.recipe.edit import fall_back  # noqa: E402
from quantui.recipe.layers import layer_table  # noqa: E402
from quantui.recipe.refusals import refusals  # noqa: E402
from quantui.recipe.targets import targets  # noqa: E402
from quantui.workspace import RECIPES  # noqa: E402

GOAL = 0.050
SHAPES = {
    "self_attn.q_proj": (8192, 8192), "self_attn.k_proj": (1024, 8192), "self_attn.v_proj": (1024, 8192),
    "self_attn.o_proj": (8192, 8192), "mlp.gate_proj": (28672, 8192), "mlp.up_proj": (28672, 8192),
    "mlp.down_proj": (8192, 28672),
}  # fmt: skip


def main() -> None:
    """Prints the median of every shipped recipe and the worst of them against the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    layers = [Linear(f"model.layers.{block}.{name}", *shape, "BF16") for block in range(80) for name, shape in SHAPES.items()]
    layers.append(Linear("lm_head", 128256, 8192, "BF16"))
    worst = 0.0
    for file in sorted(RECIPES.glob("*.yaml")):
        recipe = llmcompressor.load(file)

        def answer() -> None:
            table = layer_table(recipe, layers)  # noqa: B023  (called before the next turn)
            refusals(recipe)  # noqa: B023
            targets(recipe, layers, table)  # noqa: B023

        def edit() -> None:
            llmcompressor.dumps(fall_back(recipe, [layer.name for layer in layers[:10]]))  # noqa: B023

        answered = middle(answer, options.runs)
        edited = middle(edit, options.runs) if recipe.groups else 0.0
        worst = max(worst, answered)
        print(f"{file.stem:28} answer {answered * 1e3:6.1f} ms, edit {edited * 1e3:6.1f} ms")
    print(f"the slowest answer for {len(layers)} layers: {worst * 1e3:.1f} ms, goal {GOAL * 1e3:.0f} ms:", end=" ")
    print("met" if worst <= GOAL else "MISSED")


def middle(work: Callable[[], None], runs: int) -> float:
    """The median of some runs in seconds, after one that warms up."""
    work()
    spent = []
    for _ in range(runs):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return statistics.median(spent)


if __name__ == "__main__":
    main()
