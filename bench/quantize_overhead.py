"""What our worker adds to a plain llm-compressor script: wall time and peak memory, alternated in one run.

Both are whole processes with the same model (a random Llama made here), recipe and samples. Goal: a median ratio of at most
1.10 for both. The check that re-opens the result is not part of it and is shown apart.

    python bench/quantize_overhead.py [--runs 5] [--hidden 384] [--samples 32] [--statistics]

With --statistics each round has a third process, the worker that gathers statistics on the way, against both others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.spec import QuantizeSpec  # noqa: E402
from quantui.workspace import RECIPES, write_json  # noqa: E402

GOAL = 1.10
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


def main() -> None:
    """Prints one line a run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=384)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--statistics", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        make_model(root / "model", options.hidden, options.layers)
        calibration = make_calibration(root, options.samples, options.tokens)
        rows, gathered = [], []
        for number in range(options.runs + 1):
            plain, ours = run_plain(root, calibration, number), run_ours(root, calibration, number)
            third = run_ours(root, calibration, number, statistics=True) if options.statistics else None
            if number == 0:
                continue  # the first pair warms the file cache
            rows.append((plain, ours))
            if third is not None:
                gathered.append((third[0] / ours[0], third[0] / plain[0]))
            print(
                f"run {number}: plain {plain[0]:.2f} s {plain[1] / 1e6:.0f} MB, "
                f"worker {ours[0]:.2f} s {ours[1] / 1e6:.0f} MB, "
                f"re-open check apart {ours[2]:.2f} s {ours[3] / 1e6:.0f} MB, ratio {ours[0] / plain[0]:.3f}",
                flush=True,
            )
    for index, what in ((0, "wall"), (1, "peak memory")):
        ratios = [float(ours[index] / plain[index]) for plain, ours in rows]
        median = statistics.median(ratios)
        verdict = "met" if median <= GOAL else "missed"
        print(
            f"{what} ratio worker / plain: median {median:.3f} (min {min(ratios):.3f}, max {max(ratios):.3f}), "
            f"goal {GOAL}: {verdict}"
        )
    if gathered:
        own, whole = (statistics.median(ratios) for ratios in zip(*gathered, strict=True))
        print(f"wall ratio with statistics: median {own:.3f} of the worker without them, {whole:.3f} of plain, goal {GOAL}")


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


def run_plain(root: Path, calibration: Path, number: int) -> tuple[float, float]:
    """(wall seconds, peak bytes) of the plain script."""
    arguments = [str(root / "model"), str(RECIPES / "fp8-w8a8-kv8.yaml"), str(calibration), str(root / f"plain-{number}")]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *arguments], env=environment(), capture_output=True, text=True, check=True, cwd=PROJECT
    )
    return time.monotonic() - began, float(done.stdout.split()[-1])


def run_ours(root: Path, calibration: Path, number: int, *, statistics: bool = False) -> tuple[float, float, float, float]:
    """(wall seconds, peak bytes) of our worker, and the same for its re-open check alone."""
    folder = root / f"run-{number}{'-statistics' if statistics else ''}"
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
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "quantui.worker", str(folder)], env=environment(), capture_output=True, check=True, cwd=PROJECT
    )
    wall = time.monotonic() - began
    result = json.loads((folder / "result.json").read_text())
    check = result["seconds"]["reopen"]
    return wall - check, result["peak_memory_bytes"], check, result["peak_memory_with_checks_bytes"]


def environment() -> dict[str, str]:
    """The same for both."""
    return os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(PROJECT)}


if __name__ == "__main__":
    main()
