"""From what a pass found to the table of scores; the finished one, or one that shows how far the pass is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantui.checkpoint.inspect import Linear
from quantui.recipe.words import FLOAT
from quantui.sensitivity.candidates import Candidate, stored_bytes
from quantui.sensitivity.exact import Divergences
from quantui.sensitivity.fisher import Products
from quantui.sensitivity.local import Local
from quantui.sensitivity.scores import Array, Row, Scores, Sizes, estimate
from quantui.sensitivity.sharing import grouped


@dataclass(frozen=True)
class Frame:
    """What a table holds beside what is measured.

    Attributes:
        layers: those that are scored, in order.
        known: the schemes.
        sizes: of the model.
        meta: hashes, paths and notes.
        caches: keys and values of each layer that are scored too, and what the scheme of each is called.
    """

    layers: Sequence[Linear]
    known: Sequence[Candidate]
    sizes: Sizes
    meta: Mapping[str, Any]
    caches: Mapping[str, str] = field(default_factory=dict)

    def of_products(self, found: Products) -> Scores:
        """The table of a fisher pass."""
        samples = {part: _stacked(rows) for part, rows in found.rows.items()}
        parts = {part: np.square(array.astype(np.float64)).mean(1) / 2 for part, array in samples.items()}
        return self._scores("fisher", found.columns, parts, found.samples, found.tokens, samples)

    def of_divergences(self, method: str, found: Divergences) -> Scores:
        """The table of an exact or a path pass."""
        parts = {part: _stacked(rows) for part, rows in found.rows.items()}
        samples = {part: array[:, None].astype(np.float32) for part, array in parts.items()}
        return self._scores(method, found.columns, parts, found.samples, found.tokens, samples)

    def of_local(self, found: Local) -> Scores:
        """The table of a pass without gradients: relative errors take the place of KL."""
        errors, outputs = _stacked(found.errors), _stacked(found.outputs)
        share = errors / np.maximum(outputs.mean(0, keepdims=True), 1e-300)
        extra = {name: one.scores() | _level(found, name) for name, one in found.inputs.items()}
        made = self._scores("local", found.columns, {"text": share}, found.samples, found.tokens, {}, counts=[1] * len(share))
        return Scores(made.method, made.rows, made.schemes, made.sizes, made.meta, {}, extra)

    def _scores(
        self,
        method: str,
        columns: Sequence[tuple[str, int]],
        parts: Mapping[str, Array],
        numbers: Sequence[int],
        tokens: Sequence[int],
        samples: Mapping[str, Array],
        counts: Sequence[int] | None = None,
    ) -> Scores:
        sums = sum(parts.values())
        mean, error = estimate(np.asarray(sums), counts or tokens)
        by_part = {part: estimate(array, tokens)[0] for part, array in parts.items()} if len(parts) > 1 else {}
        place = {(name, self.caches.get(name) or self.known[scheme].name): i for i, (name, scheme) in enumerate(columns)}
        group_of = {name: group for group, names in grouped(layer.name for layer in self.layers).items() for name in names}
        rows = []
        for layer in self.layers:
            for candidate in self.known:
                i = place.get((layer.name, candidate.name))
                if i is not None:
                    each = {f"kl_{part}": float(values[i]) for part, values in by_part.items()}
                    numbers_of = float(mean[i]), float(error[i]), stored_bytes(layer, candidate)
                    rows.append(Row(layer.name, group_of[layer.name], candidate.name, *numbers_of, each))
            rows.append(Row(layer.name, group_of[layer.name], FLOAT, 0.0, 0.0, stored_bytes(layer, None)))
        for name, scheme in self.caches.items():
            i = place.get((name, scheme))
            if i is not None:
                each = {f"kl_{part}": float(values[i]) for part, values in by_part.items()}
                rows.append(Row(name, name, scheme, float(mean[i]), float(error[i]), 0, each))
        meta = {**self.meta, "samples": len(numbers), "tokens": int(sum(tokens)), "sample_tokens": list(map(int, tokens))}
        meta["sample_numbers"] = list(numbers)
        return Scores(method, tuple(rows), tuple(self.known), self.sizes, meta, samples)


def _level(found: Local, name: str) -> dict[str, float]:
    """The score its own fallback goes by, from the first samples alone; nothing until they have passed."""
    first = found.first.get(name)
    return {} if first is None else {"level": first.scores()["std"]}


def _stacked(rows: Sequence[Any]) -> Array:
    return np.concatenate([one.numpy() for one in rows])
