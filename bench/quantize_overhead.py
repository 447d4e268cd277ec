"""What our worker adds to a plain llm-compressor script: wall and processor time and peak memory, alternated in one run.

All are whole processes with the same model (a random Llama made here), recipe and samples: the plain script, the worker as the
page starts it, which gathers statistics on the way, and the worker without them. Goal: a median ratio of at most 1.10 of the
worker to the script in time and memory. The check that re-opens the result is not part of it and is shown apart; processor time
has no such line in between, so that it holds the check.

    python bench/quantize_overhead.py [--runs 5] [--hidden 384] [--samples 32]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.jobs.spare import worker_environment  # noqa: E402
from quantui.spec import QuantizeSpec  # noqa: E402
from quantui.workspace import RECIPES, write_json  # noqa: E402

GOAL = 1.10
NAMES = ("plain", "worker", "worker without statistics")
PLAIN = """
import resource, sys
from pathlib import Path
import llmcompressor
from llmcompressor import oneshot
from transformers import AutoModelForCausalLM, AutoTokenizer
from quantui.calibration import schema
from quantui.calibration.batches import make_loader
from quantui.calibration.sources import read_samples
folder, recipe, calibration, out = sys.argv[1:]
chosen = schema.load(Path(calibration))
samples = read_samples(chosen)
words = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
loader = make_loader(samples, words, chosen.max_tokens)
oneshot(model=model, tokenizer=words, dataset=loader, recipe=recipe, num_calibration_samples=len(samples))
model.save_pretrained(out, save_compressed=True)
words.save_pretrained(out)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


class Run(NamedTuple):
    """What a process took: seconds, bytes, and the seconds of the check that are not in `wall`."""

    wall: float
    processor: float
    memory: float
    check: float

    def __str__(self) -> str:
        apart = f" (check apart {self.check:.2f} s)" if self.check else ""
        return f"{self.wall:.2f} s, processor {self.processor:.2f} s, {self.memory / 1e6:.0f} MB{apart}"


def main() -> None:
    """Prints one line a run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_model(root / "model", options.hidden, options.layers)
        calibration = make_calibration(root, options.samples, options.tokens)
        runs = []
        for number in range(options.runs + 1):
            made = (
                run_plain(root, calibration, number),
                *(run_ours(root, calibration, number, statistics=s) for s in (True, False)),
            )
            if number == 0:
                continue  # the first round warms the file cache
            runs.append(made)
            print(f"run {number}: " + ", ".join(f"{name} {one}" for name, one in zip(NAMES, made, strict=True)), flush=True)
    for number in (1, 2):
        for what in ("wall", "processor", "memory"):
            ratios = [getattr(made[number], what) / getattr(made[0], what) for made in runs]
            median = statistics.median(ratios)
            verdict = "" if what == "processor" else f", goal {GOAL}: {'met' if median <= GOAL else 'missed'}"
            print(f"{what} of {NAMES[number]} / plain: median {median:.3f} ({min(ratios):.3f} to {max(ratios):.3f}){verdict}")


def make_model(folder: Path, hidden: int, layers: int) -> None:
    """A random Llama with the tokenizer of the tests."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.models.tiny import tokenizer

    torch.manual_seed(0)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=hidden,
        intermediate_size=hidden * 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(hidden // 256, 1),
        max_position_embeddings=2048,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    print(f"model: {sum(p.numel() for p in model.parameters()) / 1e6:.1f} M parameters")


def make_calibration(root: Path, samples: int, tokens: int) -> Path:
    """Plain text rows of about the given number of tokens."""
    with (root / "rows.jsonl").open("w") as file:
        for i in range(samples):
            file.write(json.dumps({"text": " ".join(f"the quick fox {i + j}" for j in range(tokens // 3))}) + "\n")
    path = root / "calibration.yaml"
    path.write_text(f"sources:\n  - {{kind: jsonl, path: rows.jsonl}}\nsamples: {samples}\nmax_tokens: {tokens}\n")
    return path


def run_plain(root: Path, calibration: Path, number: int) -> Run:
    """The plain script."""
    arguments = [str(root / "model"), str(RECIPES / "fp8-w8a8-kv8.yaml"), str(calibration), str(root / f"plain-{number}")]
    wall, processor, printed = measured([sys.executable, "-c", PLAIN, *arguments], environment())
    return Run(wall, processor, float(printed.split()[-1]), 0.0)


def run_ours(root: Path, calibration: Path, number: int, *, statistics: bool) -> Run:
    """Our worker."""
    folder = root / f"run-{number}-{'with' if statistics else 'without'}"
    folder.mkdir()
    recipe = RECIPES / "fp8-w8a8-kv8.yaml"
    spec = QuantizeSpec(
        name="bench",
        model=str(root / "model"),
        recipe=recipe.read_text(),
        recipe_path=str(recipe),
        calibration=calibration.read_text(),
        calibration_path=str(calibration),
        evaluation=None,
        out=str(root / f"ours-{folder.name}"),
        device="cpu",
        statistics=statistics,
    )
    write_json(folder / "spec.json", spec.model_dump(mode="json"))
    wall, processor, _ = measured(
        [sys.executable, "-m", "quantui.worker", str(folder)], worker_environment("cpu", environment())
    )
    result = json.loads((folder / "result.json").read_text())
    check = result["seconds"]["reopen"]
    return Run(wall - check, processor, result["peak_memory_bytes"], check)


def measured(command: list[str], variables: Mapping[str, str]) -> tuple[float, float, str]:
    """(wall seconds, processor seconds, what it printed) of a process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True, cwd=PROJECT)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def environment() -> dict[str, str]:
    """Of the plain script; ours has what the page and the command line add for every worker."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(PROJECT)}


if __name__ == "__main__":
    main()
