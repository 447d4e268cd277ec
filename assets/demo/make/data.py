"""Writes the calibration and evaluation data of both models."""

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from .pictures import LARGE, QUESTION, SMALL, WIDE, Picture, pictures
from .questions import conversations, evaluation

CALIBRATION_CHATS = 256
CALIBRATION_PICTURES = 128
EVALUATION = 400

CHAT_YAML = """sources:
  - kind: jsonl
    path: calibration.jsonl
samples: 256
max_tokens: 512
shuffle: true
seed: 42
"""
VISION_YAML = """sources:
  - kind: images
    path: images
    questions: calibration.jsonl
samples: 128
max_tokens: 2048
shuffle: true
seed: 42
"""


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write jsonl."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_chat_data(folder: Path) -> None:
    """256 training-side chats of one to three turns, and 400 held-out questions."""
    folder.mkdir(parents=True, exist_ok=True)
    stream = conversations(random.Random(5), turns=(1, 1, 2, 3))
    chats: dict[str, dict[str, Any]] = {}
    while len(chats) < CALIBRATION_CHATS:
        chat = next(stream)
        chats.setdefault(json.dumps(chat), {"messages": chat})
    write_rows(folder / "calibration.jsonl", chats.values())
    write_rows(folder / "evaluation.jsonl", ({"messages": question.messages()} for question in evaluation(EVALUATION)))
    (folder / "calibration.yaml").write_text(CHAT_YAML)


def write_pictures(folder: Path, name: str, scenes: list[Picture]) -> list[dict[str, Any]]:
    """Save pictures as palette PNGs of a few hundred bytes; returns their rows."""
    (folder / name).mkdir(parents=True, exist_ok=True)
    rows = []
    for number, scene in enumerate(scenes, 1):
        path = f"{name}/{number:04}.png"
        # At most four flat colours, so that a palette loses nothing.
        scene.draw().quantize(8, dither=Image.Dither.NONE).save(folder / path, optimize=True)
        rows.append({"image": path, "question": QUESTION, "answer": scene.answer})
    return rows


def write_vision_data(folder: Path) -> None:
    """128 training-side pictures, a quarter of them of several tiles, and 400 held-out ones."""
    rng = random.Random(6)
    streams = {size: pictures(rng, held_out=False, size=size) for size in (SMALL, WIDE, LARGE)}
    sizes = [(SMALL, SMALL, SMALL, SMALL, SMALL, WIDE, SMALL, LARGE)[i % 8] for i in range(CALIBRATION_PICTURES)]
    scenes = [next(streams[size]) for size in sizes]
    write_rows(folder / "calibration.jsonl", write_pictures(folder, "images", scenes))
    seen = {scene.draw().tobytes() for scene in scenes}
    held_out: dict[bytes, Picture] = {}
    stream = pictures(random.Random(7), held_out=True)
    while len(held_out) < EVALUATION:
        scene = next(stream)
        if scene.draw().tobytes() not in seen:
            held_out.setdefault(scene.draw().tobytes(), scene)
    write_rows(folder / "evaluation.jsonl", write_pictures(folder, "evaluation-images", list(held_out.values())))
    (folder / "calibration.yaml").write_text(VISION_YAML)
