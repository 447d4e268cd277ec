"""The table of scores: what every layer costs in every scheme, with what it was made of. Readable without torch.

scores.json holds the rows and hashes; scores.safetensors holds what every sample said, `samples/PART` of (samples, draws,
columns) float32, so that the damage of any choice can be foretold from it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantui.errors import InputError
from quantui.recipe.words import FLOAT
from quantui.sensitivity.candidates import Candidate

VERSION = 1
SCORES, SAMPLES = "scores.json", "scores.safetensors"
METHODS = ("fisher", "path", "exact", "local")
UNITS = dict.fromkeys(METHODS, "nats/token") | {"local": "relative output error"}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Row:
    """A layer in a scheme.

    Attributes:
        name: module name.
        group: what it shares its format with; its own name where it is alone.
        scheme: a candidate's name, or "float".
        kl: in the unit of the method.
        stderr: standard error of it over the samples.
        bytes: of the weight in that scheme.
        parts: the same KL by tokens of text and of pictures, where there are both.
    """

    name: str
    group: str
    scheme: str
    kl: float
    stderr: float
    bytes: int
    parts: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Sizes:
    """What sizes are computed from, in bytes and weights.

    Attributes:
        other: everything but the scored layers, as it is stored.
        other_linear: Linears that are not scored, of that.
        linear_weights: weights of all Linears.
    """

    other: int
    other_linear: int
    linear_weights: int

    def bits(self, scored: int) -> float:
        """Bits per weight over all Linears, where the scored ones take so many bytes."""
        return 8 * (self.other_linear + scored) / max(self.linear_weights, 1)

    def total(self, scored: int) -> int:
        """Bytes of the model."""
        return self.other + scored


@dataclass(frozen=True, eq=False)  # one table is itself alone, so that what is made of it can be kept
class Scores:
    """A finished table, or one that grows.

    Attributes:
        method: how it was made.
        rows: layer by layer, schemes in order, float last; then keys and values, which have no float row and no bytes.
        schemes: the candidates.
        sizes: of the model.
        meta: hashes, paths, counts, notes and the noise floor.
        samples: part -> (samples, draws, columns); columns are the rows that are not float, in their order.
        extra: layer -> further numbers (msModelSlim's std, quantile and kurtosis).
    """

    method: str
    rows: tuple[Row, ...]
    schemes: tuple[Candidate, ...]
    sizes: Sizes
    meta: dict[str, Any]
    samples: Mapping[str, Array] = field(default_factory=dict)
    extra: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The layers, in order."""
        return tuple(row.name for row in self.rows if row.scheme == FLOAT)

    @cached_property
    def caches(self) -> tuple[Row, ...]:
        """Keys and values of every attention layer in the recipe's cache scheme; they are chosen all together."""
        layers = set(self.names)
        return tuple(row for row in self.rows if row.name not in layers)

    @cached_property
    def by_layer(self) -> dict[tuple[str, str], Row]:
        """(layer, scheme) -> row."""
        return {(row.name, row.scheme): row for row in self.rows}

    @cached_property
    def _columns(self) -> dict[tuple[str, str], int]:
        return {(row.name, row.scheme): i for i, row in enumerate(row for row in self.rows if row.scheme != FLOAT)}

    def kl_of(self, choice: Mapping[str, str]) -> float:
        """The KL foretold for a choice of layer -> scheme; what is in no known scheme counts as float.

        With the products of a fisher pass it is 1/2 E[(sum of products)^2], so that errors that add up, or cancel, are seen;
        else the sum over the layers.
        """
        picked = [item for item in choice.items() if item in self._columns]
        if self.method != "fisher" or not self.samples:
            return float(
                sum(max(self.by_layer[item].kl, 0.0) if self.method == "exact" else self.by_layer[item].kl for item in picked)
            )
        columns = [self._columns[item] for item in picked]
        tokens = float(np.sum(self.meta["sample_tokens"]))
        return sum(float(np.square(part[:, :, columns].sum(-1)).mean(1).sum()) for part in self.samples.values()) / 2 / tokens

    def bytes_of(self, choice: Mapping[str, str]) -> int:
        """Bytes of the scored layers in a choice; what is in no known scheme counts as float."""
        return sum(self.by_layer.get((name, choice.get(name, FLOAT)), self.by_layer[name, FLOAT]).bytes for name in self.names)

    def as_json(self) -> dict[str, Any]:
        """What scores.json holds."""
        head = {"format": "quantui-scores", "version": VERSION, "method": self.method, "unit": UNITS[self.method]}
        layers = [asdict(row) | row.parts for row in self.rows]
        for row in layers:
            del row["parts"]
        schemes = [candidate.as_json() for candidate in self.schemes]
        return head | {
            "schemes": schemes,
            "sizes": asdict(self.sizes),
            **self.meta,
            "layers": layers,
            "extra": dict(self.extra),
        }

    def save(self, folder: Path) -> None:
        """Writes both files into an existing folder."""
        from safetensors.numpy import save_file

        (folder / SCORES).write_text(json.dumps(self.as_json(), ensure_ascii=False), encoding="utf-8")
        arrays = {f"samples/{part}": np.ascontiguousarray(array) for part, array in self.samples.items()}
        save_file(arrays, str(folder / SAMPLES))


def load_scores(path: Path) -> Scores:
    """Opens scores: a folder, or its scores.json.

    Raises:
        InputError: there are none, they are damaged, or of another version.
    """
    from safetensors.numpy import load_file

    file = path / SCORES if path.is_dir() else path
    todo = "run `python -m quantui sensitivity` again, or check the path"
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        if body.get("format") != "quantui-scores" or body.get("version") != VERSION:
            raise ValueError(f"it is not of version {VERSION}")
        samples = file.parent / SAMPLES
        arrays = (
            {key.removeprefix("samples/"): value for key, value in load_file(str(samples)).items()} if samples.is_file() else {}
        )
        return from_json(body, arrays)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"these are no scores ({error})", where=str(file), todo=todo) from error


KEYS = frozenset({"format", "version", "method", "unit", "schemes", "sizes", "layers", "extra"})
_ROW = ("name", "group", "scheme", "kl", "stderr", "bytes")


def from_json(body: dict[str, Any], samples: Mapping[str, Array] | None = None) -> Scores:
    """The reverse of `Scores.as_json`."""
    rows = tuple(
        Row(**{key: row[key] for key in _ROW}, parts={key: value for key, value in row.items() if key not in _ROW})
        for row in body["layers"]
    )
    schemes = tuple(map(Candidate.from_json, body["schemes"]))
    meta = {key: value for key, value in body.items() if key not in KEYS}
    return Scores(body["method"], rows, schemes, Sizes(**body["sizes"]), meta, samples or {}, body.get("extra", {}))


def estimate(sums: Array, tokens: Iterable[int]) -> tuple[Array, Array]:
    """Mean per token and its standard error over the samples, a ratio of two sums.

    Args:
        sums: (samples, columns), what each sample's tokens come to.
        tokens: of each sample.

    Returns:
        both (columns,) float64; the error is 0 where there is one sample.
    """
    counts = np.asarray(list(tokens), np.float64)
    total, number = counts.sum(), len(counts)
    mean = sums.sum(0) / total
    if number < 2:
        return mean, np.zeros_like(mean)
    spread = np.square(sums - mean * counts[:, None]).sum(0)
    return mean, np.sqrt(spread * number / (number - 1)) / total
