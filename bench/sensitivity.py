"""What scoring layers costs and what it is worth, against plain ways to do the same, in one run.

    python bench/sensitivity.py [part ...]      parts: demo, depth, memory, stream, choice, path; all where none is named

Times are CPU seconds of one thread, so that what else runs on the machine does not count.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CHAT, DATA = ROOT / "assets/demo/chat", ROOT / "assets/demo/chat-data"
RECIPE = ROOT / "recipes/int8-w8a8-static.yaml"
SAMPLES = 128
LEVELS = (1, 2, 3, 5)
SEEDS = 5
KEPT = 1 << 26
"""Bytes of rounded weights that are kept, as quantui/sensitivity/rounding.py has it."""


@dataclass
class Bench:
    """A model, its batches and its schemes."""

    model: Any
    tail: Any
    batches: list[Any]
    rounding: Any
    wanted: dict[str, tuple[int, ...]]
    find: Callable[[], Any]

    @property
    def tokens(self) -> int:
        """Tokens of all batches."""
        return sum(batch.tokens for batch in self.batches)


def demo(samples: int = SAMPLES) -> Bench:
    """The demo chat model with the schemes of the issue: W8A8 static, W8A16, W4A16."""
    import torch

    from quantui.calibration import schema
    from quantui.calibration.feed import Feed
    from quantui.checkpoint.files import open_checkpoint
    from quantui.checkpoint.inspect import linear_layers
    from quantui.recipe import llmcompressor
    from quantui.sensitivity.candidates import candidates, scored_layers
    from quantui.sensitivity.load import load

    file = DATA / "calibration.yaml"
    chosen = schema.loads(file.read_text(), where=str(file), base=DATA).model_copy(update={"samples": samples})
    feed = Feed(chosen)
    loaded = load(CHAT, feed, torch.device("cpu"), image_text=False, trust=False)
    recipe = llmcompressor.load(RECIPE)
    layers = scored_layers(recipe, linear_layers(open_checkpoint(CHAT)))
    return _bench(loaded.model, feed.loader(), candidates(recipe), [layer.name for layer in layers], loaded.stored)


def made(blocks: int, hidden: int, inner: int, tokens: int, vocabulary: int = 1152) -> Bench:
    """A random Llama, and random samples of 64 tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from quantui.recipe import llmcompressor
    from quantui.sensitivity.candidates import candidates

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=inner, num_hidden_layers=blocks,
        num_attention_heads=max(hidden // 64, 1), num_key_value_heads=max(hidden // 128, 1), max_position_embeddings=128,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    samples = [{"input_ids": torch.randint(3, vocabulary, (1, 64))} for _ in range(tokens // 64)]
    names = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and name != "lm_head"]
    return _bench(model, samples, candidates(llmcompressor.load(RECIPE)), names, None)


def _bench(model: Any, samples: Any, known: Any, names: list[str], stored: Any) -> Bench:
    from quantui.checkpoint.inspect import Linear
    from quantui.sensitivity.batches import make_batches
    from quantui.sensitivity.divergence import Tail
    from quantui.sensitivity.load import tokens_of_batch
    from quantui.sensitivity.rounding import Rounding, find_ranges, size_of

    shapes = {name: model.get_submodule(name).weight.shape for name in names}
    layers = [Linear(name, shape[0], shape[1], "F32") for name, shape in shapes.items()]
    batches = make_batches(samples, tokens=tokens_of_batch(model, layers, len(known)))
    tail = Tail(model, batches[0])

    def find() -> Any:
        return Rounding(known, find_ranges(model, tail, batches), stored, size_of(model))

    return Bench(model, tail, batches, find(), dict.fromkeys(names, tuple(range(len(known)))), find)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds and what came of it."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def naive(bench: Bench, columns: list[tuple[str, int]]) -> list[float]:
    """KL in nats a token with one layer at a time, by a whole pass of the model for each."""
    import torch

    from quantui.sensitivity.divergence import Reference
    from quantui.sensitivity.exact import Swap
    from quantui.sensitivity.sites import routed

    references = []
    with torch.no_grad(), bench.tail.cut():
        for batch in bench.batches:
            hidden = bench.model(**batch.inputs, use_cache=False).logits
            references.append(Reference(hidden, batch.real, bench.tail.head, bench.tail.vocabulary))
    found = []
    for column in columns:
        total = 0.0
        with torch.no_grad(), routed(bench.model, Swap(bench.rounding, dict([column]))), bench.tail.cut():
            for batch, reference in zip(bench.batches, references, strict=True):
                total += float(reference.divergence(bench.model(**batch.inputs, use_cache=False).logits).sum())
        bench.rounding.forget()
        found.append(total / bench.tokens)
    return found


def fishers(bench: Bench) -> tuple[float, Any, list[float]]:
    """CPU seconds of ranges and the fisher pass together, its columns and KL."""
    from quantui.sensitivity.fisher import fisher

    def work() -> Any:
        bench.rounding = bench.find()
        return fisher(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted)

    spent, products = timed(work)
    rows = np.concatenate([one.numpy() for one in products.rows["text"]]).astype(np.float64)
    return spent, products.columns, list(np.square(rows).mean(1).sum(0) / 2 / bench.tokens)


def spearman(one: list[float], other: list[float]) -> float:
    """Rank correlation."""
    ranks = [np.argsort(np.argsort(values)) for values in (one, other)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def part_demo() -> None:
    """Speed and truth on the demo model."""
    from quantui.sensitivity.exact import exact

    bench = demo()
    fishers(bench)
    spent, columns, guess = fishers(bench)
    plain, truth = timed(lambda: naive(bench, columns))
    again, found = timed(lambda: exact(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted))
    values = sum(np.concatenate([one.numpy() for one in part]).sum(0) for part in found.rows.values()) / bench.tokens
    print(f"demo chat, {len(bench.wanted)} layers x {len(bench.rounding.known)} schemes, {bench.tokens} tokens:")
    print(f"  one by one {plain:.1f} s, fisher {spent:.1f} s: {plain / spent:.1f} times faster (goal 8)")
    print(
        f"  exact {again:.1f} s: {plain / again:.2f} times faster (goal 1.5); off by {max(abs(values - truth)):.1e} (goal 1e-6)"
    )
    for place, scheme in enumerate(bench.rounding.known):
        of = [i for i, (_, one) in enumerate(columns) if one == place]
        rank = spearman([guess[i] for i in of], [truth[i] for i in of])
        print(f"  {scheme.name:30} Spearman {rank:.3f} (goal 0.93)")
    worst = columns[int(np.argmax([g if c[1] == 0 else 0 for g, c in zip(guess, columns, strict=True)]))][0]
    print(f"  worst layer in {bench.rounding.known[0].name}: {worst} (planted: model.layers.0.mlp.down_proj)")


def part_depth() -> None:
    """The ratio by the number of blocks; of the plain sweep every 12th layer and scheme is run."""
    print("a random Llama, hidden 128, 1024 tokens, 3 schemes (goal 25 at 24 blocks):")
    for blocks in (6, 12, 24):
        bench = made(blocks, 128, 384, 1024)
        fishers(bench)
        spent, columns, _ = fishers(bench)
        some = columns[::12]
        plain = timed(lambda bench=bench, some=some: naive(bench, some))[0] * len(columns) / len(some)  # type: ignore[misc]
        print(f"  {blocks:2} blocks: one by one {plain:6.1f} s, fisher {spent:5.2f} s: {plain / spent:5.1f} times faster")


def part_memory() -> None:
    """Time and memory on a model of 100 M parameters, in a process of its own."""
    code = "import bench.sensitivity as b; b.large()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def large() -> None:
    """The child of part_memory."""
    import torch

    bench = made(14, 768, 2048, 768, vocabulary=8000)
    size = sum(parameter.nbytes for parameter in bench.model.parameters())

    def forward() -> None:
        with torch.no_grad():
            for batch in bench.batches:
                bench.model(**batch.inputs, use_cache=False)

    forward()
    plain = min(timed(forward)[0] for _ in range(2))
    before, peak = _resident(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    spent, columns, _ = fishers(bench)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    extra = max(after - before, 0)
    count = sum(parameter.numel() for parameter in bench.model.parameters())
    print(f"a random Llama of {count / 1e6:.0f} M parameters, {bench.tokens} tokens, {len(columns)} columns:")
    print(f"  forward {plain:.1f} s, fisher with its ranges {spent:.1f} s: {spent / plain:.1f} forward passes (goal 12)")
    note = "" if after > peak else " (not more than before)"
    print(f"  extra memory {extra / 1e6:.0f} MB, {extra / size:.2f} times the model{note} (goal 1.0)")


def part_stream() -> None:
    """What `local` holds of the same model while it comes from the disk block by block, in a process of its own."""
    code = "import sys, bench.sensitivity as b; b.stream(sys.argv[1], sys.argv[2])"
    with tempfile.TemporaryDirectory() as folder:
        for step in ("save", "run"):
            subprocess.run([sys.executable, "-c", code, step, folder], cwd=ROOT, check=True)


def stream(step: str, folder: str) -> None:
    """The children of part_stream."""
    import torch

    from quantui.checkpoint.files import open_checkpoint
    from quantui.recipe import llmcompressor
    from quantui.sensitivity.batches import make_batches
    from quantui.sensitivity.candidates import candidates
    from quantui.sensitivity.sites import sites_of
    from quantui.sensitivity.streamed import Streamed, local_streamed

    if step == "save":
        made(14, 768, 2048, 768, vocabulary=8000).model.save_pretrained(folder)
        return
    known = candidates(llmcompressor.load(RECIPE))
    samples = [{"input_ids": torch.randint(3, 8000, (1, 64))} for _ in range(64)]
    fishers(made(1, 128, 256, 64))  # what libraries take is not the model's
    before = _resident()
    streamed = Streamed(open_checkpoint(Path(folder)), torch.device("cpu"))
    names = [site.name for site in sites_of(streamed.model) if site.name != "lm_head"]
    wanted = dict.fromkeys(names, tuple(range(len(known))))
    spent, _ = timed(lambda: local_streamed(streamed, make_batches(samples), known, wanted))
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    whole = sum(parameter.numel() * 4 for parameter in streamed.model.parameters())
    block = sum(parameter.numel() * 4 for parameter in streamed.blocks[0].parameters())
    rest = whole - block * len(streamed.blocks)
    states = len(samples) * 64 * 768 * 4
    print(f"local, streamed, of a Llama of {whole / 4e6:.0f} M parameters ({whole / 1e6:.0f} MB in float32), {spent:.1f} s:")
    parts = f"a decoder layer {block / 1e6:.0f}, embeddings and head {rest / 1e6:.0f}, states {states / 1e6:.0f}"
    print(f"  {extra / 1e6:.0f} MB: {parts}, rounded weights at most {KEPT / 1e6:.0f}, one batch of 1024 tokens the rest")


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * resource.getpagesize()


def part_choice() -> None:
    """Which layers to keep: KL of what is left quantized, by ranking, and right answers at L2."""
    from quantui.checkpoint.processor import load_processor
    from quantui.evaluation.measure import evaluate
    from quantui.evaluation.questions import read_questions
    from quantui.sensitivity.exact import measure, quantized
    from quantui.sensitivity.local import local
    from quantui.sensitivity.rule import at_level
    from quantui.sensitivity.sharing import grouped

    bench = demo()
    _, columns, guess = fishers(bench)
    kl = {name: value for (name, scheme), value in zip(columns, guess, strict=True) if scheme == 0}
    groups = grouped(kl)
    ours = sorted(groups, key=lambda group: -sum(kl[name] for name in groups[group]))
    seen = local(bench.model, bench.batches, bench.rounding, bench.wanted).inputs
    inputs = {name: seen[name].scores() for name in kl}
    choices: dict[str, Mapping[str, int]] = {}
    for level in LEVELS:
        kept = [name for group in ours[:level] for name in groups[group]]
        choices[f"L{level} ours"] = _without(kl, kept)
        for rule in ("std", "quantile", "kurtosis"):
            scores = {name: inputs[name][rule] for name in kl}
            choices[f"L{level} {rule}"] = _without(kl, at_level(scores, len(kept)))
        for seed in range(SEEDS):
            choices[f"L{level} random {seed}"] = _without(kl, random.Random(seed).sample(list(kl), len(kept)))
    found = measure(bench.model, bench.tail, bench.batches, bench.rounding, list(choices.values()))
    values = sum(np.concatenate([one.numpy() for one in part]).sum(0) for part in found.rows.values()) / bench.tokens
    told = dict(zip(choices, values, strict=True))
    print("KL in nats a token with so many layers kept in float (std is msModelSlim's fallback rule):")
    for level in LEVELS:
        kept_count = len(kl) - len(choices[f"L{level} ours"])
        chance = [told[f"L{level} random {seed}"] for seed in range(SEEDS)]
        rules = "  ".join(f"{rule} {told[f'L{level} {rule}']:.4f}" for rule in ("ours", "std", "quantile", "kurtosis"))
        print(f"  L{level} ({kept_count} layers): {rules}  random {min(chance):.4f} to {max(chance):.4f}")
    processor, questions = load_processor(CHAT, image_text=False), read_questions(DATA / "evaluation.jsonl")
    plain = evaluate(bench.model, processor, questions, lambda _done, _total: None).exact_match
    for name, choice in {"all quantized": dict.fromkeys(kl, 0), "L2": choices["L2 ours"]}.items():
        with quantized(bench.model, bench.rounding, choice):
            right = evaluate(bench.model, processor, questions, lambda _done, _total: None).exact_match
        print(f"  right answers, {name}: {right:.1%} (float {plain:.1%}; goal for L2: within 2 points)")


def _without(kl: Mapping[str, float], kept: list[str]) -> dict[str, int]:
    return {name: 0 for name in kl if name not in kept}


def part_path() -> None:
    """Whether the shares of a path sum to the damage of everything together."""
    from quantui.sensitivity.exact import measure
    from quantui.sensitivity.path import path

    bench = demo()
    shares = path(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted)
    sums = sum(np.concatenate([one.numpy() for one in part]).sum(0) for part in shares.rows.values()) / bench.tokens
    known = bench.rounding.known
    choices = [dict.fromkeys(bench.wanted, place) for place in range(len(known))]
    found = measure(bench.model, bench.tail, bench.batches, bench.rounding, choices)
    whole = sum(np.concatenate([one.numpy() for one in part]).sum(0) for part in found.rows.values()) / bench.tokens
    print("shares along the path against the measured KL of everything quantized (goal: within 10 %):")
    for place, scheme in enumerate(known):
        total = sum(value for value, (_, one) in zip(sums, shares.columns, strict=True) if one == place)
        print(f"  {scheme.name:30} sum {total:.5f}, measured {whole[place]:.5f}: {total / whole[place] - 1:+.1%}")


PARTS = {
    "demo": part_demo,
    "depth": part_depth,
    "memory": part_memory,
    "stream": part_stream,
    "choice": part_choice,
    "path": part_path,
}


def main() -> None:
    """Runs the parts."""
    import torch

    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    for name in parser.parse_args().parts or PARTS:
        PARTS[name]()


if __name__ == "__main__":
    main()
