"""What collecting statistics adds to a forward pass, against the bare pass and the textbook way, alternated in one run.

    python bench/stats.py [--rounds 1] [--samples 32] [--tokens 512] [--dtype float32] [--threads N] [--shape narrow ...]

Three Llama shapes on the CPU: a narrow one, 1024 wide, TinyLlama's, 2048 wide, the smallest that is published, and Llama 2
7B's, 4096 wide, both with fewer layers. What a pass computes grows with the square of the width, what is looked at with the
width. Each round runs every sample through all four ways, one after the other, sample by sample, and what is measured is the
processor time of all threads, so that other programs count for little; the ratio is of the sums, and of each sample's quickest.
Textbook: forward hooks that compute max, min, mean, absmax and absmean of each input and output with torch reductions of their
own, keeping running values. It finds no positions, no keys or values, and shares nothing.

Goals: base at most 1.15 times the bare pass, --detail at most 1.5 times, tensors held besides the model at most 3 times the
size of the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

BASE_GOAL, DETAIL_GOAL, MEMORY_GOAL = 1.15, 1.5, 3.0


SHAPES: dict[str, dict[str, int]] = {
    "narrow": {
        "hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 8,
        "num_attention_heads": 16, "num_key_value_heads": 4,
    },
    "tiny-llama": {
        "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 4,
        "num_attention_heads": 32, "num_key_value_heads": 4,
    },
    "llama-7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 2,
        "num_attention_heads": 32, "num_key_value_heads": 32,
    },
}  # fmt: skip
"""Source of the others: config.json of TinyLlama/TinyLlama-1.1B-Chat-v1.0, which has 22 layers, and of
meta-llama/Llama-2-7b-hf, which has 32."""


def main() -> None:
    """Prints one line a way and whether its goal is met, for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--layers", type=int, help="instead of the shape's")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, help="of torch; 1 keeps waiting for busy cores out of the figures")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads or torch.get_num_threads())
    for name in options.shape:
        layers = {"num_hidden_layers": options.layers} if options.layers else {}
        report(make_model(name, SHAPES[name] | layers).to(getattr(torch, options.dtype)), options)


def report(model: Any, options: argparse.Namespace) -> None:
    """Runs every way on one model and prints what it took."""
    import torch

    generator = torch.Generator().manual_seed(0)
    samples = [torch.randint(0, 32000, (1, options.tokens), generator=generator) for _ in range(options.samples)]
    times: dict[str, list[list[float]]] = {name: [[] for _ in samples] for name in ("bare", "base", "detail", "textbook")}
    for number in range(options.rounds):
        run_round(model, samples, times)
        print(
            f"round {number + 1}: " + ", ".join(f"{name} {sum(row[-1] for row in rows):.1f} s" for name, rows in times.items())
        )
    for name, goal in (("base", BASE_GOAL), ("detail", DETAIL_GOAL), ("textbook", None)):
        whole = sum(map(sum, times[name])) / sum(map(sum, times["bare"]))
        quiet = sum(map(min, times[name])) / sum(map(min, times["bare"]))
        pairs = zip(times[name], times["bare"], strict=True)
        median = statistics.median(a / b for rows in pairs for a, b in zip(*rows, strict=True))
        verdict = "" if goal is None else f", goal {goal}: {'met' if median <= goal else 'missed'}"
        print(f"{name:9} / bare: median {median:.3f}, of sums {whole:.3f}, of each sample's quickest {quiet:.3f}{verdict}")
    for detail in (False, True):
        held, table = memory(model, samples[: min(4, len(samples))], detail=detail)
        verdict = "met" if held <= MEMORY_GOAL * table else "missed"
        print(
            f"{'detail' if detail else 'base':9} holds at most {held / 1e6:.2f} MB beside the model, "
            f"table {table / 1e6:.2f} MB, ratio {held / table:.2f}, goal {MEMORY_GOAL}: {verdict}",
            flush=True,
        )


def make_model(name: str, shape: dict[str, int]) -> Any:
    """A random Llama."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=32000, **shape)).eval()
    parameters, threads = sum(p.numel() for p in model.parameters()) / 1e6, torch.get_num_threads()
    print(f"{name}: {parameters:.0f} M parameters, {threads} threads", flush=True)
    return model


def run_round(model: Any, samples: list[Any], times: dict[str, list[list[float]]]) -> None:
    """Every sample through all ways; the order turns with the sample."""
    import torch

    from quantui.stats.collect import Collector
    from quantui.stats.hooks import watching

    collectors = {"base": Collector(), "detail": Collector(detail=True)}
    running: dict[str, Any] = {}

    def watched(name: str, number: int, ids: Any) -> float:
        collector = collectors[name]
        with watching(model, collector):
            began = time.process_time()
            collector.begin(number, ids.shape[1])
            model(ids, use_cache=False)
            collector.commit()
            return time.process_time() - began

    def bare(_name: str, _number: int, ids: Any) -> float:
        began = time.process_time()
        model(ids, use_cache=False)
        return time.process_time() - began

    def plain(_name: str, _number: int, ids: Any) -> float:
        with textbook(model, running):
            return bare("", 0, ids)

    ways: list[tuple[str, Callable[[str, int, Any], float]]] = [
        ("bare", bare), ("base", watched), ("detail", watched), ("textbook", plain),
    ]  # fmt: skip
    with torch.no_grad():
        bare("", 0, samples[0])
        for number, ids in enumerate(samples):
            turn = number % len(ways)
            for name, way in ways[turn:] + ways[:turn]:
                times[name][number].append(way(name, number, ids))


class textbook:  # noqa: N801  (a context manager)
    """Hooks as they are usually written: each statistic with a reduction of its own, kept as a running value."""

    def __init__(self, model: Any, running: dict[str, Any]) -> None:
        self.model, self.running, self.handles = model, running, list[Any]()

    def __enter__(self) -> None:
        """Adds the hooks."""
        import torch

        for name, module in self.model.named_modules():
            if isinstance(module, torch.nn.Linear) or "Norm" in type(module).__name__:
                hook = lambda _m, args, out, name=name: self.see(name, args[0], out)  # noqa: E731
                self.handles.append(module.register_forward_hook(hook))

    def __exit__(self, *_: object) -> None:
        """Removes them."""
        for handle in self.handles:
            handle.remove()

    def see(self, name: str, x: Any, out: Any) -> None:
        """All five statistics of input and output."""
        import torch

        for role, tensor in (("input", x), ("output", out)):
            flat = tensor.flatten(0, 1).float()
            found = (flat.max(0)[0], flat.min(0)[0], flat.abs().max(0)[0], flat.mean(0), flat.abs().mean(0))
            old = self.running.get(name + role)
            if old is not None:
                found = (
                    torch.maximum(old[0], found[0]), torch.minimum(old[1], found[1]), torch.maximum(old[2], found[2]),
                    old[3] + found[3], old[4] + found[4],
                )  # fmt: skip
            self.running[name + role] = found


def memory(model: Any, samples: list[Any], *, detail: bool) -> tuple[int, int]:
    """(most bytes of tensors the collector held at the end of a sample, bytes of the table's file)."""
    import torch

    from quantui.stats.collect import Collector
    from quantui.stats.finish import finish
    from quantui.stats.hooks import watching
    from quantui.stats.observe import Observation

    collector, most = Collector(detail=detail), 0
    with torch.no_grad(), watching(model, collector):
        for number, ids in enumerate(samples):
            collector.begin(number, ids.shape[1])
            model(ids, use_cache=False)
            most = max(most, collector.nbytes)  # the running values, and the sample that is not yet added
            collector.commit()
    made = Observation(collector, [ids[0].tolist() for ids in samples])
    table = finish(model, made, None, {})
    with tempfile.TemporaryDirectory() as folder:
        table.save(Path(folder))
        return most, sum(file.stat().st_size for file in Path(folder).iterdir())


if __name__ == "__main__":
    main()
