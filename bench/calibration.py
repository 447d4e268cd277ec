"""Calibration data: first previews of large files, tokenizing against the bare tokenizer, memory against number of pictures.

    python bench/calibration.py [ROUNDS]

Goals: the first preview of 20 samples of a 1 GB parquet and of a 200 000-line jsonl in under 1 second and 300 MB, in a process
that has shown another file before, the file in the disk cache; 10 000 chats tokenized at no less than 0.8 of the speed of the
tokenizer's own batch encode on the texts that come out (both in turns); the peak memory of 2000 pictures at most 1.05 of that
of 100.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
DEMO = ROOT / "assets" / "demo"
SECONDS, MEMORY, SPEED, GROWTH = 1.0, 300e6, 0.8, 1.05
CHATS = 10_000

PREVIEW = """
import json, resource, sys, time
from pathlib import Path
from quantui.calibration import schema
from quantui.calibration.preview import open_seer, see
from quantui.calibration.survey import gather
seer = open_seer(Path(sys.argv[1]))
seconds = []
for file in sys.argv[2:]:
    began = time.perf_counter()
    chosen = schema.load(Path(file))
    views = see(seer, gather(seer, chosen, limit=20).samples, chosen.max_tokens)
    seconds.append(time.perf_counter() - began)
    assert len(views) == 20 and not any(view.problem for view in views)
assert "torch" not in sys.modules
print(json.dumps([seconds[-1], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""

PICTURES = """
import json, resource, sys
from pathlib import Path
import torch
from quantui.calibration import schema
from quantui.calibration.feed import Feed
from quantui.checkpoint.processor import load_processor
torch.set_num_threads(1)
feed = Feed(schema.load(Path(sys.argv[2])))
feed.settle(load_processor(Path(sys.argv[1]), image_text=True))
for batch in feed.loader(torch.bfloat16):
    pass
print(json.dumps([len(feed.tokens), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024]))
"""


def main(rounds: int) -> None:
    """Measures and prints."""
    met = []
    with tempfile.TemporaryDirectory(prefix="quantui-bench-") as name:
        folder = Path(name)
        for title, file in (("1 GB parquet", parquet(folder)), ("200 000-line jsonl", jsonl(folder))):
            runs = [child(PREVIEW, DEMO / "chat", small(folder, file.suffix), source(folder, file)) for _ in range(rounds)]
            seconds, peak = statistics.median(run[0] for run in runs), max(run[1] for run in runs)
            size = file.stat().st_size / 1e9
            print(f"{title:20} ({size:.2f} GB) first preview of 20: median {seconds:.3f} s of {rounds}, goal under {SECONDS} s")
            print(f"{'':20} peak memory {peak / 1e6:.0f} MB, goal under {MEMORY / 1e6:.0f} MB")
            met += [seconds < SECONDS, peak < MEMORY]
        met.append(speed(max(rounds, 5)))
        met.append(growth(folder))
    print(f"goals: {sum(met)} of {len(met)} met" + ("" if all(met) else ", MISSED"))


def child(code: str, *arguments: Path) -> list[float]:
    """The JSON that a fresh interpreter prints last."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def parquet(folder: Path) -> Path:
    """1 GB of chats of some 2.5 kB in row groups of 1000, as the hub writes them, of random words, uncompressed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = folder / "big.parquet"
    draw = random.Random(0)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(20_000)]
    chats = [
        [
            {"role": role, "content": " ".join(draw.choices(words, k=count))}
            for role, count in (("user", 80), ("assistant", 320))
        ]
        for _ in range(1000)
    ]
    table = pa.table({"prompt_id": [str(i) for i in range(1000)], "messages": chats})
    with pq.ParquetWriter(file, table.schema, compression="none", use_dictionary=False) as writer:
        while not file.exists() or file.stat().st_size < 1e9:
            writer.write_table(table)
    return file


def jsonl(folder: Path) -> Path:
    """200 000 chats of about 1 kB."""
    file = folder / "big.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(200_000):
            text = f"{number} " + "the quick brown fox " * 40
            messages = [{"role": "user", "content": text}, {"role": "assistant", "content": f"fox {number}"}]
            lines.write(json.dumps({"messages": messages}) + "\n")
    return file


def small(folder: Path, suffix: str) -> Path:
    """A small calibration of the same form, shown first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        json.loads(line) for line in (DEMO / "chat-data" / "calibration.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    ]
    file = folder / f"small{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return source(folder, file)


def source(folder: Path, file: Path) -> Path:
    """A calibration file: 256 samples of 512 tokens shuffled with seed 42."""
    made = folder / f"{file.name}.yaml"
    made.write_text(f"sources: [{{kind: dataset, path: {file}}}]\nsamples: 256\nmax_tokens: 512\n", encoding="utf-8")
    return made


def speed(rounds: int) -> bool:
    """Chats through template and tokenizer, against the tokenizer alone on the texts that come out; in turns."""
    from quantui.calibration import schema
    from quantui.calibration.preview import many_ids, open_seer
    from quantui.calibration.sources import read_samples

    seer = open_seer(DEMO / "chat")
    rows = read_samples(schema.load(DEMO / "chat-data" / "calibration.yaml"))
    samples = [rows[i % len(rows)] for i in range(CHATS)]
    texts = [seer.words.text(sample)[0] for sample in samples]
    ratios = []
    for _ in range(rounds):
        began = time.perf_counter()
        theirs = [encoding.ids for encoding in seer.words.core.encode_batch(texts, add_special_tokens=False)]
        between = time.perf_counter()
        ours = list(many_ids(seer, samples))
        ratios.append((between - began) / (time.perf_counter() - between))
        assert ours == theirs
    ratio = statistics.median(ratios)
    low, high = min(ratios), max(ratios)
    print(
        f"tokenizing {CHATS} chats: median {ratio:.2f} of the bare batch encode ({low:.2f} to {high:.2f}, {rounds} rounds), ",
        end="",
    )
    print(f"goal at least {SPEED}")
    return ratio >= SPEED


def growth(folder: Path) -> bool:
    """Peak memory of feeding 2000 pictures against 100."""
    import numpy as np
    from PIL import Image

    pictures = folder / "pictures"
    pictures.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(pictures / "0.jpg")
    for number in range(1, 2000):
        (pictures / f"{number}.jpg").hardlink_to(pictures / "0.jpg")
    peaks = {}
    for count in (100, 2000):
        file = folder / f"pictures-{count}.yaml"
        file.write_text(
            f"sources: [{{kind: images, path: {pictures}}}]\nsamples: {count}\nmax_tokens: 2048\n", encoding="utf-8"
        )
        rendered, peaks[count] = child(PICTURES, DEMO / "vision", file)
        assert rendered == count
    ratio = peaks[2000] / peaks[100]
    print(
        f"feeding pictures: peak {peaks[100] / 1e6:.0f} MB for 100, {peaks[2000] / 1e6:.0f} MB for 2000: {ratio:.3f}, ", end=""
    )
    print(f"goal at most {GROWTH}")
    return ratio <= GROWTH


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
