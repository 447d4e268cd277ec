"""The comparison job: two model folders and an evaluation set in, figures and the worst rows out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantui.compare.figures import Row, by_category, figures
from quantui.compare.folders import check_pair
from quantui.devices import torch_device
from quantui.evaluation.questions import Question, read_questions
from quantui.events import Artifact, EventWriter, Log, Metric
from quantui.spec import CompareSpec
from quantui.stages import Stages

PACKAGES = ("quantui", "torch", "transformers", "compressed-tensors")
LOOKED_AT = 16
"""Rows on which layers, noise and positions are measured."""
WORST = 20
"""Rows that are kept with every token."""
ROWS = "rows.jsonl"
"""File of the job's folder: every row, the worst first."""


def compare(spec: CompareSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out a comparison.

    Args:
        folder: the job's folder; rows.jsonl goes there.

    Returns:
        The figures of `figures.KEYS`, and what stands behind them.

    Raises:
        InputError: a model or the data cannot be used, or the two cannot be compared.
    """
    stages = Stages(events)
    with stages("start"):
        original, quantized = Path(spec.model), Path(spec.quantized)
        check_pair(original, quantized)
        questions = read_questions(Path(spec.data), [Path(root) for root in spec.roots])[: spec.limit or None]
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        events.write(Log("info", "importing torch and transformers"))
        device = torch_device(spec.device)
    job = _Job(spec, events, stages, questions)
    return job.run(original, quantized, device, folder)


class _Job:
    """The stages after the inputs are known."""

    def __init__(self, spec: CompareSpec, events: EventWriter, stages: Stages, questions: Sequence[Question]) -> None:
        self.spec, self.events, self.stages, self.questions = spec, events, stages, questions

    def run(self, original: Path, quantized: Path, device: Any, folder: Path) -> dict[str, Any]:
        """All of them; returns the result."""
        from quantui.compare.errors import by_position, layer_errors, noise_floor
        from quantui.compare.evaluate import ask, decode, measure
        from quantui.compare.pair import open_pair

        with self.stages("load"):
            pair = open_pair(original, quantized, device=device, trust_remote_code=self.spec.trust_remote_code)
        with self.stages("measure"):
            rows = measure(pair, self.questions, self._told)
        with self.stages("decode"):
            decode(pair, self.questions, rows, self._told)
        with self.stages("layers"):
            some = [ask(pair, question) for question in self.questions[:LOOKED_AT]]
            layers = layer_errors(pair, some, self._told)
            positions = by_position(pair, some, self._told)
        with self.stages("noise"):
            noise = noise_floor(pair, some, self._told)
        with self.stages("save"):
            order = sorted(range(len(rows)), key=lambda place: (rows[place].badness, -place), reverse=True)
            worst = self._worst(pair, order[:WORST])
            write_rows(folder / ROWS, [rows[place] for place in order], worst)
        self.events.write(Artifact("rows", str(folder / ROWS)))
        return self._result(rows, layers, positions, noise, pair)

    def _told(self, done: int, total: int) -> None:
        self.stages.told(done, max(total, 1), "questions")

    def _worst(self, pair: Any, places: list[int]) -> list[dict[str, Any]]:
        from quantui.compare.tokens import told_tokens

        return [told_tokens(pair, self.questions[place]) for place in places]

    def _result(
        self, rows: Sequence[Row], layers: list[dict[str, Any]], positions: dict[str, Any], noise: float | None, pair: Any
    ) -> dict[str, Any]:
        found = figures(rows)
        for name in ("kl_mean", "top1_agreement", "perplexity_original", "perplexity_quantized"):
            self.events.write(Metric(name, float(found[name]), "nats/token" if name == "kl_mean" else ""))
        peak = max(rows, key=lambda row: float(row.kl.max()))
        place = int(peak.kl.argmax())
        return found | {
            "rows": len(rows),
            "flips": sum(row.flips for row in rows),
            "kl_max_at": {"where": peak.where, "token": pair.tokenizer.decode([peak.ids[place]]), "place": place},
            "perplexity_ratio": found["perplexity_quantized"] / found["perplexity_original"],
            "categories": by_category(rows),
            "noise_floor": noise,
            "layers": layers,
            "positions": positions,
            "folded": pair.folded,
            "memory": pair.memory(),
            "original": self.spec.model,
            "quantized": self.spec.quantized,
            "data": self.spec.data,
            "data_hash": hashlib.sha256(Path(self.spec.data).read_bytes()).hexdigest(),
            "device": str(pair.device),
            "seconds": self.stages.seconds,
            "seconds_total": round(sum(self.stages.seconds.values()), 3),
            "versions": {name: _version(name) for name in PACKAGES},
        }


def write_rows(file: Path, rows: Sequence[Row], worst: Sequence[dict[str, Any]]) -> None:
    """Writes rows, worst first; the first of them with their tokens."""
    lines = []
    for place, row in enumerate(rows):
        body: dict[str, Any] = {
            "where": row.where,
            "category": row.category,
            "question": row.question,
            "picture": row.picture,
            "expected": row.expected,
            "answers": row.answers,
            "right": row.right,
            "flips": row.flips,
            "kl_mean": float(row.kl.mean()),
            "kl_max": float(row.kl.max()),
            "tokens": len(row.ids),
        }
        if place < len(worst):
            body["forced"] = worst[place]
        lines.append(json.dumps(body, ensure_ascii=False))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="backslashreplace")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"
