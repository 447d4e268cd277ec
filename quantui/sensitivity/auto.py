"""The fewest layers in float that hold a target: a search by measured probes, which goes on where it was stopped.

Layers fall back in the order of their scores, so that more of them never hurt by the scores; the search halves what is left
between the most that missed the target and the fewest that held it. Every probe runs the model with the very choice, and says
how far the forecast was off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from quantui.errors import InputError, ResultError
from quantui.recipe.words import FLOAT
from quantui.sensitivity import select
from quantui.sensitivity.scores import Scores
from quantui.workspace import write_json

Kind = Literal["exact_match", "kl"]


@dataclass(frozen=True)
class Probe:
    """A level that was tried.

    Attributes:
        level: how many units fell back.
        kl: measured, nats a token.
        foretold: the KL by the scores.
        additivity: measured / sum over the units; 1 where damages simply add up.
        exact_match: on the evaluation data, None where that is not the target.
        bytes: of the model.
    """

    level: int
    kl: float
    foretold: float
    additivity: float
    exact_match: float | None
    bytes: int

    def holds(self, kind: Kind, limit: float) -> bool:
        """Whether it meets the target."""
        return self.kl <= limit if kind == "kl" else (self.exact_match or 0.0) >= limit


Measure = Callable[[Mapping[str, str]], tuple[float, float | None]]
"""Layer -> scheme to (KL, exact match or None)."""


def parse_target(text: str) -> tuple[Kind, float]:
    """ "exact_match=0.98" or "kl=0.05".

    Raises:
        InputError: it is neither, or out of range.
    """
    kind, _, value = text.replace(" ", "").partition("=")
    try:
        limit = float(value)
    except ValueError:
        limit = -1.0
    if kind == "kl" and limit >= 0:
        return "kl", limit
    if kind == "exact_match" and 0 <= limit <= 1:
        return "exact_match", limit
    todo = "write exact_match=0.98 (a share from 0 to 1) or kl=0.05 (nats a token)"
    raise InputError(f"{text!r} is no target", where="--target", todo=todo)


class Search:
    """One search.

    Args:
        scores: in whose order layers fall back.
        start: layer -> scheme of the recipe that is started from.
        target: what has to hold.
        memory: a file of earlier probes, written after each.
        inputs: what the probes depend on; those of other inputs are not used again.
        cached: keys and values that are quantized at every level, and their schemes.
    """

    def __init__(
        self,
        scores: Scores,
        start: Mapping[str, str],
        target: tuple[Kind, float],
        memory: Path,
        inputs: Sequence[str],
        cached: Mapping[str, str] | None = None,
    ) -> None:
        self._scores, self._target, self._memory, self._cached = scores, target, memory, dict(cached or {})
        self._caches = scores.kl_of(self._cached)
        self._units = select.units_of(scores)
        self._start = select.by_unit(self._units, start)
        self.most = len(select.fallback_order(self._units, self._start))
        body = json.dumps([target[0], sorted(start.items()), [unit.name for unit in self._units], *inputs])
        self._key = hashlib.sha256(body.encode()).hexdigest()
        self.probes = self._remembered()

    def run(self, measure: Measure, told: Callable[[Probe, int], None]) -> Probe:
        """The probe with the fewest layers in float that holds the target.

        Args:
            told: called after each probe with how many may follow at most.

        Raises:
            ResultError: not even float holds it; the best probe is told.
        """
        low, high = 0, self.most
        if not self._probe(high, measure, told, 1 + self.most.bit_length()).holds(*self._target):
            best = self.probes[high]
            value = best.kl if self._target[0] == "kl" else best.exact_match
            what = f"with every layer in float {self._target[0]} is {value:.4g}, which does not hold {self._target[1]:g}"
            raise ResultError(what, where="auto", todo="lower the target, or look at the evaluation data")
        while low < high:
            middle = (low + high) // 2
            left = (high - low).bit_length()
            if self._probe(middle, measure, told, left).holds(*self._target):
                high = middle
            else:
                low = middle + 1
        return self.probes[high]

    def choice(self, level: int) -> dict[str, str]:
        """Layer -> scheme at a level."""
        return select.by_layer(self._units, select.fall_back(self._units, self._start, level).choice)

    def _probe(self, level: int, measure: Measure, told: Callable[[Probe, int], None], left: int) -> Probe:
        if level not in self.probes:
            point = select.fall_back(self._units, self._start, level)
            choice = select.by_layer(self._units, point.choice)
            kl, right = measure(choice)
            foretold, alone = self._scores.kl_of(choice | self._cached), point.kl + self._caches
            quantized = self._cached or any(scheme != FLOAT for scheme in choice.values())
            ratio = kl / alone if quantized and alone > 0 else 1.0
            made = Probe(level, kl, foretold, ratio, right, self._scores.sizes.total(point.bytes))
            self.probes[level] = made
            write_json(self._memory, {"key": self._key, "probes": [asdict(one) for one in self.probes.values()]})
            told(made, left)
        return self.probes[level]

    def _remembered(self) -> dict[int, Probe]:
        try:
            body = json.loads(self._memory.read_text(encoding="utf-8"))
            rows = body["probes"] if body["key"] == self._key else []
            return {row["level"]: Probe(**row) for row in rows}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
