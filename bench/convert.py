"""What a conversion costs beside copying the folder: wall time and peak memory, alternated in one run.

A checkpoint of the shape of InternVL2.5-2B (InternViT-300M, InternLM2-1.8B with fused wqkv; 4.4 GB of bfloat16, 1 GB shards) is
made, then copied with `cp -r`, converted by us, and converted the whole-model way (load all shards, rename and split, save),
each on the same disk with the source in the page cache. Goals: wall time at most 1.5 times cp without the second reading of
every tensor, at most 2.5 times with it; peak resident memory, file cache not counted, at most 600 MB. Ours is measured as the
page does it: from the moment a worker that stands by is given the job to the end of its process. Beside it stands what a
process takes that has to import torch and transformers first, as the command line does: the same seconds for any model.

    python bench/convert.py [--runs 3] [--folder DIR] [--blocks 24]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))

from quantui.checkpoint.convert.config import VISION_DEFAULTS  # noqa: E402
from quantui.checkpoint.convert.decoder import Decoder, internlm2  # noqa: E402
from quantui.checkpoint.convert.layout import Layout  # noqa: E402
from quantui.checkpoint.convert.vision import projector_layout, vision_layout, vision_of  # noqa: E402
from quantui.checkpoint.write import Chunk, Entry, lay_out, write_shards  # noqa: E402
from quantui.jobs.launch import WORKER  # noqa: E402
from quantui.jobs.spare import Child, Spare, start  # noqa: E402
from quantui.spec import ConvertSpec  # noqa: E402
from quantui.workspace import write_json  # noqa: E402

LANGUAGE = {
    "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "hidden_size": 2048, "intermediate_size": 8192,
    "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 92553, "rope_theta": 1000000.0,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "bias": False, "tie_word_embeddings": False,
}  # fmt: skip
VISION = VISION_DEFAULTS | {
    "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24, "image_size": 448,
    "qkv_bias": True, "qk_normalization": False, "norm_type": "layer_norm", "model_type": "intern_vit_6b",
}  # fmt: skip
WALL, WALL_READ_AGAIN, MEMORY = 1.5, 2.5, 600e6
WHOLE = """
import json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText
source, target, moves = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(Path(sys.argv[3]).read_text())
state = {}
for shard in sorted(source.glob("*.safetensors")):
    state |= load_file(shard)
made = {name: torch.cat([state[t][a:b] for t, a, b in parts]) for name, parts in moves["moves"].items()}
del state
with torch.device("meta"):
    body = {k: v for k, v in moves["config"].items() if k != "model_type"}
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("internvl", **body))
def renamed(name):
    name = name.replace("language_model.model.", "model.language_model.").replace("language_model.lm_head", "lm_head")
    return "model." + name if name.startswith(("vision_tower", "multi_modal")) else name
model.load_state_dict({renamed(name): tensor for name, tensor in made.items()}, assign=True)
model.save_pretrained(target, max_shard_size="5GB")
"""


def main() -> None:
    """Prints one line a run and the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs 14 GB")
    parser.add_argument("--blocks", type=int, default=24)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        root = Path(temporary)
        source = make_source(root / "source", options.blocks)
        size = sum(file.stat().st_size for file in source.iterdir())
        print(f"source: {size / 1e9:.2f} GB in {len(list(source.glob('*.safetensors')))} shards", flush=True)
        write_moves(source, root / "moves.json")
        rounds = [measure(root, source, number) for number in range(options.runs)]
    report(rounds)


def make_source(folder: Path, blocks: int) -> Path:
    """The checkpoint, of random bytes, with a tokenizer that knows the placeholder of a picture."""
    from tokenizers import Tokenizer, models

    folder.mkdir()
    decoder = Decoder(92553, 2048, 8192, blocks, 16, 8, 128)
    made = Layout()
    made.add(vision_layout(vision_of(VISION)), "vision_model.")
    made.add(projector_layout(1024, 2048, 0.5), "mlp1.")
    made.add(internlm2(decoder), "language_model.")
    noise = os.urandom(1 << 22).replace(b"\x7f", b"\x3f").replace(b"\xff", b"\xbf")  # no inf, no NaN

    def stream(entry: Entry) -> Sequence[Chunk]:
        return [noise] * (entry.nbytes // len(noise)) + [noise[: entry.nbytes % len(noise)]]

    write_shards(folder, lay_out([Entry(name, "BF16", shape) for name, shape in made.original.items()], 10**9), stream)
    config = {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat", "downsample_ratio": 0.5, "force_image_size": 448,
        "ps_version": "v2", "select_layer": -1, "template": "internvl2_5", "max_dynamic_patch": 12, "min_dynamic_patch": 1,
        "use_thumbnail": True, "torch_dtype": "bfloat16", "llm_config": {**LANGUAGE, "num_hidden_layers": blocks},
        "vision_config": VISION,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    words = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>"]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.add_special_tokens(words)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>"})
    return folder


def write_moves(source: Path, file: Path) -> None:
    """The mapping as data, for the whole-model way."""
    from quantui.checkpoint.convert.prepare import plan_of

    plan = plan_of(ConvertSpec(name="bench", model=str(source), out="/nowhere", image_token_id=7))
    assert not plan.problems, plan.problems
    moves = {move.target.name: [list(rows) for rows in move.parts] for move in plan.moves}
    write_json(file, {"moves": moves, "config": plan.config})


def measure(root: Path, source: Path, number: int) -> dict[str, float]:
    """One round of the three ways; seconds and bytes."""
    found: dict[str, float] = {}
    target = root / "target"
    found["cp"], _ = timed(["cp", "-r", str(source), str(target)], root)
    shutil.rmtree(target)
    spec = ConvertSpec(name="bench", model=str(source), out=str(target), verify=False, image_token_id=7)
    run = root / f"run-{number}"
    run.mkdir()
    write_json(run / "spec.json", spec.model_dump(mode="json"))
    found["ours"], found["ours memory"] = stood_by(run)
    result: dict[str, Any] = json.loads((run / "result.json").read_text())
    found["reread"] = result["seconds"]["reread"]
    shutil.rmtree(target)
    for name in ("events.jsonl", "result.json"):
        (run / name).unlink()
    found["cold"], _ = timed([sys.executable, "-m", "quantui.worker", str(run)], root)
    cold: dict[str, Any] = json.loads((run / "result.json").read_text())
    found["cold reread"] = cold["seconds"]["reread"]
    shutil.rmtree(target)
    whole = [sys.executable, "-c", WHOLE, str(source), str(target), str(root / "moves.json")]
    found["whole"], found["whole memory"] = timed(whole, root)
    shutil.rmtree(target)
    print(
        f"run {number + 1}: cp {found['cp']:.2f} s; ours {found['ours']:.2f} s and {found['ours memory'] / 1e6:.0f} MB,"
        f" of it {found['reread']:.2f} s reading again; with imports {found['cold']:.2f} s;"
        f" whole model {found['whole']:.2f} s, {found['whole memory'] / 1e6:.0f} MB; stages {result['seconds']}",
        flush=True,
    )
    return found


def stood_by(run: Path) -> tuple[float, float]:
    """Seconds and memory of a job that is forked from a process which has imported everything before."""
    spare = Spare()
    while not spare.is_ready():
        time.sleep(0.1)
    os.sync()
    with (run / "log.txt").open("wb") as log:
        process = start([*WORKER, str(run)], "cpu", spare, output=log, errors=log, folder=run)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    process.stdin.close()
    try:
        return watched(process, run / "log.txt", spare.pid)
    finally:
        spare.end()


def timed(command: list[str], root: Path) -> tuple[float, float]:
    """Seconds of a command, and the largest anonymous memory that it and its children had at once, in bytes."""
    os.sync()  # what an earlier run left to be written would slow this one down
    with (root / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=PROJECT, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(PROJECT)})
        return watched(process, root / "log.txt")


def watched(process: Child, log: Path, root: int | None = None) -> tuple[float, float]:
    """Seconds until a process ends, and the largest memory it and its children, or `root` and all of its, had meanwhile."""
    began = time.monotonic()
    peak = [0]
    watcher = threading.Thread(
        target=watch, args=(process, root or process.pid, lambda size: peak.__setitem__(0, max(peak[0], size)))
    )
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - began
    watcher.join()
    if code != 0:
        sys.exit(f"it failed:\n{log.read_text()[-3000:]}")
    return seconds, peak[0]


def watch(process: Child, root: int, seen: Callable[[int], object]) -> None:
    """Looks at the memory of a family of processes every 50 ms, without taking a core from what is measured."""
    while process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            seen(sum(map(anonymous, family(root))))
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in family(int(child)))]


def anonymous(pid: int) -> int:
    """Resident memory that is not file cache, in bytes; what several processes share since a fork is divided among them."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    return 0


def report(rounds: list[dict[str, float]]) -> None:
    """The medians against the goals."""

    def middle(name: str) -> float:
        return statistics.median(found[name] for found in rounds)

    def ratio(name: str, less: str = "") -> float:
        return statistics.median((found[name] - (found[less] if less else 0)) / found["cp"] for found in rounds)

    memory = max(found["ours memory"] for found in rounds)
    for title, value, goal in (
        ("conversion to cp, without reading again", ratio("ours", "reread"), WALL),
        ("conversion to cp, with it", ratio("ours"), WALL_READ_AGAIN),
        ("with the imports of a new process to cp, without reading again", ratio("cold", "cold reread"), WALL),
        ("with the imports of a new process to cp, with it", ratio("cold"), WALL_READ_AGAIN),
    ):
        print(f"{title}: median {value:.2f}, goal {goal}: {'met' if value <= goal else 'MISSED'}")
    print(f"peak memory: {memory / 1e6:.0f} MB, goal {MEMORY / 1e6:.0f} MB: {'met' if memory <= MEMORY else 'MISSED'}")
    print(f"whole-model way: {middle('whole'):.1f} s, {middle('whole memory') / 1e6:.0f} MB; ours {middle('ours'):.1f} s")


if __name__ == "__main__":
    main()
