"""What an export costs beside copying its result: wall time and peak memory, alternated in one run.

Two compressed-tensors folders of more than 1 GB with the layer shapes of a 7B Llama are made: int8 weights with inputs by
token, and int4 weights in asymmetric groups of 128. The first is written as msModelSlim's, the second as AWQ's, on one disk
with the source in the page cache, and what was written is copied with `cp -r`. Goals: wall time at most 3 times cp without
reading again; peak resident memory, file cache not counted, at most 700 MB. Reading everything again and comparing every
weight, which an export always does, is given apart, and so are the seconds in which a new process imports torch.

    python bench/export.py [--runs 3] [--folder DIR] [--layers 7]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from bench.convert import stood_by, timed  # noqa: E402
from quantui.checkpoint.write import Chunk, Entry, lay_out, write_shards  # noqa: E402
from quantui.formats.schemes import input_args, weight_args  # noqa: E402
from quantui.numerics.quantized import Inputs, Weights  # noqa: E402
from quantui.spec import ExportSpec  # noqa: E402
from quantui.workspace import write_json  # noqa: E402

WALL, MEMORY = 3.0, 700e6
HIDDEN, INNER, GROUP, WORDS = 4096, 11008, 128, 32000
SHAPES = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"), (HIDDEN, HIDDEN)),
    **dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), (INNER, HIDDEN)),
    "mlp.down_proj": (HIDDEN, INNER),
}
INT8 = (Weights(), Inputs("int", 8, "token", True), "int-quantized")
INT4 = (Weights(bits=4, strategy="group", group_size=GROUP, symmetric=False), None, "pack-quantized")
CASES = {"msmodelslim": INT8, "awq": INT4}
"""Format to write -> how its source is quantized."""


def main() -> None:
    """Prints one line a run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs 7 GB")
    parser.add_argument("--layers", type=int, default=7, help="decoder layers of the int8 source; twice as many of int4")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        root = Path(temporary)
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in CASES}
        for name, (weights, inputs, stored) in CASES.items():
            layers = options.layers * 8 // weights.bits
            source = make_source(root / f"source-{name}", layers, weights, inputs, stored)
            size = sum(file.stat().st_size for file in source.iterdir())
            print(f"source of {name}: {size / 1e9:.2f} GB of {stored}", flush=True)
        for number in range(options.runs):
            for name in CASES:
                rounds[name].append(measure(root, name, number))
    for name, found in rounds.items():
        report(name, found)


def make_source(folder: Path, layers: int, weights: Weights, inputs: Inputs | None, stored: str) -> Path:
    """A folder of random codes and scales."""
    folder.mkdir()
    entries = [Entry("model.embed_tokens.weight", "BF16", (WORDS, HIDDEN)), Entry("lm_head.weight", "BF16", (WORDS, HIDDEN))]
    for number in range(layers):
        for leaf, (rows, columns) in SHAPES.items():
            name = f"model.layers.{number}.{leaf}"
            if weights.bits == 8:
                entries += [Entry(f"{name}.weight", "I8", (rows, columns)), Entry(f"{name}.weight_scale", "BF16", (rows, 1))]
                continue
            across = columns // GROUP
            entries += [
                Entry(f"{name}.weight_packed", "I32", (rows, columns // 8)),
                Entry(f"{name}.weight_scale", "BF16", (rows, across)),
                Entry(f"{name}.weight_zero_point", "I32", (rows // 8, across)),
            ]
    noise = os.urandom(1 << 22)
    scales = b"\x00\x3c" * (1 << 20)  # 0.0078 in bfloat16

    def stream(entry: Entry) -> Sequence[Chunk]:
        piece = noise if entry.dtype in ("I8", "I32") else scales
        return [piece] * (entry.nbytes // len(piece)) + [piece[: entry.nbytes % len(piece)]]

    write_shards(folder, lay_out(entries, 5 * 10**9), stream)
    group: dict[str, Any] = {"targets": ["Linear"], "weights": weight_args(weights), "input_activations": input_args(inputs)}
    quantization: dict[str, Any] = {
        "quant_method": "compressed-tensors",
        "format": stored,
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_attention_heads": 32, "num_key_value_heads": 32, "num_hidden_layers": layers, "vocab_size": WORDS,
        "dtype": "bfloat16", "quantization_config": quantization,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    return folder


def measure(root: Path, name: str, number: int) -> dict[str, float]:
    """One export and one copy of what it wrote; seconds and bytes."""
    found: dict[str, float] = {}
    target, run = root / "target", root / f"run-{name}-{number}"
    spec = ExportSpec(name="bench", source=str(root / f"source-{name}"), format=name, out=str(target))
    run.mkdir()
    write_json(run / "spec.json", spec.model_dump(mode="json"))
    found["ours"], found["memory"] = stood_by(run)
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    found["reread"] = result["seconds"]["reread"]
    found["cp"], _ = timed(["cp", "-r", str(target), str(root / "copy")], root)
    shutil.rmtree(root / "copy")
    shutil.rmtree(target)
    for file in ("events.jsonl", "result.json"):
        (run / file).unlink()
    found["cold"], _ = timed([sys.executable, "-m", "quantui.worker", str(run)], root)
    shutil.rmtree(target)
    print(
        f"run {number + 1}, {name}: {result['bytes_after'] / 1e9:.2f} GB; cp {found['cp']:.2f} s; ours {found['ours']:.2f} s"
        f" and {found['memory'] / 1e6:.0f} MB, of it {found['reread']:.2f} s reading again; with imports {found['cold']:.2f} s;"
        f" stages {result['seconds']}",
        flush=True,
    )
    return found


def report(name: str, rounds: list[dict[str, float]]) -> None:
    """The medians against the goals."""
    write = statistics.median((found["ours"] - found["reread"]) / found["cp"] for found in rounds)
    whole = statistics.median(found["ours"] / found["cp"] for found in rounds)
    memory = max(found["memory"] for found in rounds)
    print(f"{name}: writing to cp: median {write:.2f}, goal {WALL}: {'met' if write <= WALL else 'MISSED'}")
    print(f"{name}: writing and reading everything again to cp: median {whole:.2f}")
    print(f"{name}: peak memory {memory / 1e6:.0f} MB, goal {MEMORY / 1e6:.0f} MB: {'met' if memory <= MEMORY else 'MISSED'}")


if __name__ == "__main__":
    main()
