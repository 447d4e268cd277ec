"""The figures of a comparison, from what was measured token by token. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

KEYS = (
    "kl_mean", "kl_median", "kl_p90", "kl_p99", "kl_max", "top1_agreement", "perplexity_original", "perplexity_quantized",
    "exact_match_original", "exact_match_quantized", "tokens",
)  # fmt: skip
"""What `quantui compare --json` prints, in this order."""


@dataclass(eq=False)
class Row:
    """One question as both models took it.

    Attributes:
        where: its file and line.
        category: what it was called, or the language it is in.
        question: its text.
        expected: the answer that belongs to it.
        ids: the tokens of that answer, its end included.
        kl, original, quantized: of every such token, in nats: the distance, and its log probability in each.
        agrees: whether the two would take the same token there.
        answers: what each model answers by itself; None where that is not asked.
        right: whether each answer is the expected one.
        picture: path of the picture that goes with the question, or None.
    """

    where: str
    category: str
    question: str
    expected: str
    ids: list[int]
    kl: Floats
    original: Floats
    quantized: Floats
    agrees: npt.NDArray[np.bool_]
    answers: dict[str, str] = field(default_factory=dict)
    right: dict[str, bool] = field(default_factory=dict)
    picture: str | None = None

    @property
    def flips(self) -> bool:
        """Whether the two answers differ."""
        return bool(self.answers) and self.answers["original"].strip() != self.answers["quantized"].strip()

    @property
    def badness(self) -> tuple[bool, bool, float]:
        """What worst rows have most of: a right answer lost, another answer, distance."""
        lost = self.right.get("original", False) and not self.right.get("quantized", True)
        return lost, self.flips, float(self.kl.mean()) if self.kl.size else 0.0


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """The figures of KEYS over the tokens of all rows; the exact match is None where nothing was decoded.

    Percentiles are linear between the two nearest tokens.
    """
    kl = np.concatenate([row.kl for row in rows])
    one, two = (np.concatenate([getattr(row, side) for row in rows]) for side in ("original", "quantized"))
    decoded = [row for row in rows if row.right]
    return {
        "kl_mean": float(kl.mean()),
        "kl_median": float(np.percentile(kl, 50)),
        "kl_p90": float(np.percentile(kl, 90)),
        "kl_p99": float(np.percentile(kl, 99)),
        "kl_max": float(kl.max()),
        "top1_agreement": float(np.concatenate([row.agrees for row in rows]).mean()),
        "perplexity_original": perplexity(one),
        "perplexity_quantized": perplexity(two),
        "exact_match_original": _share(decoded, "original"),
        "exact_match_quantized": _share(decoded, "quantized"),
        "tokens": int(kl.size),
    }


def by_category(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """The same figures for the rows of every category, with how many rows it has; {} where there is only one."""
    names = sorted({row.category for row in rows})
    if len(names) < 2:
        return {}
    groups = {name: [row for row in rows if row.category == name] for name in names}
    return {name: {"rows": len(group)} | figures(group) for name, group in groups.items()}


def perplexity(logps: Floats) -> float:
    """exp of the mean surprise in nats; infinite where that has no number."""
    mean = -float(logps.mean())
    return math.exp(mean) if mean < 700 else math.inf


def _share(rows: Sequence[Row], side: str) -> float | None:
    return sum(row.right[side] for row in rows) / len(rows) if rows else None
