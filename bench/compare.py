"""What talking to two models costs: decoding quantized and together, the divergence pass, all alternated in one run.

Run: python bench/compare.py [--runs 3] [--tokens 128] [--no-large] [--device cpu]

Goals, on the CPU with the demo chat model and (unless --no-large) a Llama of at least 100 M parameters:
- quantized decoding at least 0.75 of the original's tokens per second, int8 and fp8 with static activations, both alone;
- both streaming together at least 0.85 of the total tokens per second of one after the other;
- the divergence pass at most 1.20 of the prefill of the answer through both models.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402

from quantui.compare.divergence import forced  # noqa: E402
from quantui.compare.generate import Chance, Sampling, Stream, in_turn  # noqa: E402
from quantui.compare.pair import Pair, open_pair  # noqa: E402
from quantui.compare.prompt import Prompt  # noqa: E402
from quantui.compare.switches import SIDES, Side  # noqa: E402
from quantui.workspace import ASSETS  # noqa: E402

GOALS = {"decoding": 0.75, "together": 0.85, "divergence": 1.20}
PROMPT = 32


def main() -> None:
    """Prints the ratios of every model and scheme."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--large", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folders = [ASSETS / "demo" / "chat", *([large(Path(temporary) / "large")] if options.large else [])]
        for folder in folders:
            for scheme in ("int8-sym", "fp8-kv8"):
                show(folder, scheme, Path(temporary) / f"{folder.name}-{scheme}", options)


def large(folder: Path) -> Path:
    """A random Llama of 105 M parameters with the demo's words."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16000, hidden_size=768, intermediate_size=2304, num_hidden_layers=10, num_attention_heads=12,
        num_key_value_heads=12, max_position_embeddings=2048, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS / "demo" / "chat").save_pretrained(folder)
    return folder


def show(folder: Path, scheme: str, target: Path, options: argparse.Namespace) -> None:
    """Measures one pair and prints its three ratios with their spread over the runs."""
    from tests.compare.made import save_quantized

    pair = open_pair(folder, save_quantized(folder, target, scheme), device=options.device)
    parameters = sum(parameter.numel() for parameter in pair.models["original"].parameters())
    prompt = prompt_of(pair)
    answer_tokens = min(options.tokens, (pair.context or 1 << 20) - PROMPT - 1)
    run(pair, prompt, SIDES, 8)  # warm
    found: dict[str, list[float]] = {name: [] for name in GOALS}
    for _ in range(options.runs):
        alone = {side: run(pair, prompt, [side], answer_tokens) for side in SIDES}
        together = run(pair, prompt, SIDES, answer_tokens)
        found["decoding"].append(alone["original"] / alone["quantized"])
        found["together"].append((alone["original"] + alone["quantized"]) / together)
        found["divergence"].append(divergence(pair, prompt, answer_tokens))
    print(f"{folder.name}, {parameters / 1e6:.1f} M parameters, {scheme}, {options.device}, {torch.get_num_threads()} threads")
    for name, values in found.items():
        goal, middle = GOALS[name], statistics.median(values)
        met = middle <= goal if name == "divergence" else middle >= goal
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"  {name:12} {middle:.3f} ({spread}), goal {goal:.2f}: {'met' if met else 'MISSED'}")


def prompt_of(pair: Pair) -> Prompt:
    """The same few tokens for everything."""
    ids = torch.arange(10, 10 + PROMPT, device=pair.device)[None]
    return Prompt({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, PROMPT, 0, 0)


def run(pair: Pair, prompt: Prompt, sides: Sequence[Side], tokens: int) -> float:
    """Seconds that the sides take for so many tokens each, the prompt read before."""
    sampling = Sampling(most=tokens + 1)
    streams = [Stream(pair, side, prompt, sampling, Chance(0)) for side in sides]
    for stream in streams:
        stream.step()
        endless(stream)
    began = time.perf_counter()
    for _ in in_turn(streams):
        for stream in streams:
            endless(stream)
    return time.perf_counter() - began


def endless(stream: Stream) -> None:
    """Lets an answer go on behind the end of its turn, so that every run makes as many tokens."""
    stream.ended = len(stream.ids) > stream.sampling.most - 1


def divergence(pair: Pair, prompt: Prompt, tokens: int) -> float:
    """Time of the divergence pass / time of reading the answer through both models, each after the prompt in its cache."""
    ids = [20 + place % 500 for place in range(tokens)]
    streams = [Stream(pair, side, prompt, Sampling(most=1), Chance(0)) for side in SIDES]
    for stream in streams:
        stream.step()
    rest = {"input_ids": torch.tensor([ids[:-1]], device=pair.device)}

    def prefill() -> None:
        for stream in streams:
            pair.logits(stream.side, rest, stream.cache)

    def crop() -> None:
        for stream in streams:
            if more := stream.cache.get_seq_length() - PROMPT:
                stream.cache.crop(-more)

    bare = timed(prefill, crop)
    whole = timed(lambda: forced(pair, prompt, ids, streams), crop)
    return whole / bare


def timed(work: Callable[[], Any], before: Callable[[], Any], times: int = 3) -> float:
    """Median seconds of some work, each time after something that is not counted."""
    found = []
    for _ in range(times):
        before()
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


if __name__ == "__main__":
    main()
