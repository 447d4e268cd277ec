"""StatsTable: what calibration saw, as one safetensors file and one JSON file. Readable without torch.

Channels of all observed tensors ("sites") stand one after the other in flat arrays, `channel/max` and so on; a site is a
stretch of them. An entry is a module's input, output, key or value, and names the site it saw; entries whose tensor was the
same (q, k and v of one norm) name the same site. Arrays of one number a site are made when the table is, so that pages over all
layers read those alone, and the large arrays are read from the disk only where they are looked at.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quantui.errors import CheckpointError
from quantui.stats.grid import even_edges
from quantui.stats.kinds import Place, place_of

VERSION = 1
TENSORS, META = "stats.safetensors", "stats.json"
DTYPES = {"F32": np.float32, "F64": np.float64, "F16": np.float16, "I32": np.int32, "I64": np.int64, "U8": np.uint8}

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A Linear of the table.

    Attributes:
        name: module name.
        place: its kind, block and expert.
        inputs: input channels.
        outputs: output channels.
        weights: where its output channels begin in `weight/*`; None if its weight was not looked at.
    """

    name: str
    place: Place
    inputs: int
    outputs: int
    weights: int | None


@dataclass(frozen=True)
class Cause:
    """What set an extreme.

    Attributes:
        channel: in the flattened channels.
        value: the extreme.
        sample: number of the sample, -1 where it is not known (an imported table).
        token: position in the sample; of a vision tower the number of the patch; -1 where it is not known.
        patch: whether it is that of a patch.
        where: the file and line the sample came from.
        word: text of the token, "" where there is none.
    """

    channel: int
    value: float
    sample: int
    token: int
    patch: bool
    where: str
    word: str


class StatsTable:
    """A finished table.

    Args:
        arrays: by name, as `quantui.stats.build` makes them or memory maps of a file.
        meta: what stats.json holds.
    """

    def __init__(self, arrays: Mapping[str, Array], meta: dict[str, Any]) -> None:
        self.arrays, self.meta = arrays, meta

    @classmethod
    def load(cls, folder: Path) -> StatsTable:
        """Opens a table; its arrays are read when they are looked at.

        Raises:
            CheckpointError: there is none, it is damaged, or of a newer version.
        """
        todo = "run `python -m quantui stats` again, or check the path"
        try:
            meta = json.loads((folder / META).read_text(encoding="utf-8"))
            arrays = _mapped(folder / TENSORS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"this is no statistics table ({error})", where=str(folder), todo=todo) from error
        if not isinstance(meta, dict) or meta.get("format") != "quantui-stats":
            raise CheckpointError("stats.json is not of a statistics table", where=str(folder), todo=todo)
        if meta.get("version") != VERSION:
            what = f"the table has version {meta.get('version')}, this program reads version {VERSION}"
            raise CheckpointError(what, where=str(folder), todo="collect the statistics again")
        table = cls(arrays, meta)
        try:
            fits = table._fits()
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"this is no statistics table ({error!r})", where=str(folder), todo=todo) from error
        if not fits:
            what = f"{META} and {TENSORS} are not of one table"
            raise CheckpointError(what, where=str(folder), todo="collect the statistics again")
        return table

    def _fits(self) -> bool:
        """Whether every entry names a site, and every site its channels."""
        sizes, ends = self.arrays["site/size"], self.arrays["site/start"] + self.arrays["site/size"]
        shapes = [int(np.prod(shape)) for shape in self.meta["shapes"]]
        named = all(0 <= site < len(sizes) for site in self.entries.values()) and isinstance(self.layers, tuple)
        return named and shapes == sizes.tolist() and int(ends.max(initial=0)) <= len(self.arrays["channel/max"])

    def save(self, folder: Path) -> None:
        """Writes both files into an existing folder."""
        from safetensors.numpy import save_file

        save_file({name: np.ascontiguousarray(array) for name, array in self.arrays.items()}, str(folder / TENSORS))
        (folder / META).write_text(json.dumps(self.meta, ensure_ascii=False), encoding="utf-8")

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every Linear: in the order of the forward pass, those no token reached last."""
        return tuple(
            Layer(row["name"], place_of(row["name"]), row["in"], row["out"], row["weights"]) for row in self.meta["linears"]
        )

    @cached_property
    def entries(self) -> dict[tuple[str, str], int]:
        """(module, role) -> its site, in the order of the forward pass."""
        return {(name, role): site for name, role, site in self.meta["entries"]}

    @cached_property
    def attention(self) -> tuple[str, ...]:
        """Names of the attention layers whose keys and values were seen, in order."""
        return tuple(name for name, role in self.entries if role == "key")

    def has(self, name: str, role: str) -> bool:
        """Whether that tensor was seen."""
        return (name, role) in self.entries

    def site(self, name: str, role: str) -> int:
        """The site of an entry.

        Raises:
            KeyError: no token reached it.
        """
        return self.entries[name, role]

    def tokens(self, name: str, role: str) -> int:
        """How many rows (tokens; patches in a vision tower) that tensor had; 0 for experts no token was routed to."""
        return int(self.arrays["site/rows"][self.entries[name, role]]) if self.has(name, role) else 0

    def stat(self, name: str, role: str, stat: str) -> Array:
        """One statistic of a tensor by channel.

        Args:
            stat: max, min, absmax, mean, absmean; std, kurtosis (`--detail`; std of keys and values always); max_sample,
                max_token, min_sample, min_token.

        Returns:
            (channels,), or (heads, head_dim) for role key and value; float32 or int32.

        Raises:
            KeyError: that tensor or statistic is not in the table.
        """
        site = self.entries[name, role]
        start, size = int(self.arrays["site/start"][site]), int(self.arrays["site/size"][site])
        if stat == "absmax":
            low, high = self._channels("min", start, size), self._channels("max", start, size)
            found = np.maximum(np.abs(low), np.abs(high))
        elif stat in ("std", "kurtosis"):
            at = int(self.arrays["site/moments_start"][site])
            if at < 0 or f"moments/{stat}" not in self.arrays:
                raise KeyError(f"{stat} of {name}: collect with --detail")
            found = np.asarray(self.arrays[f"moments/{stat}"][at : at + size])
        else:
            found = self._channels(stat, start, size)
        return found.reshape(self.meta["shapes"][site])

    def histogram(self, name: str, role: str = "input") -> tuple[Array, Array] | None:
        """Counts (2048,) and bin edges (2049,) of all values of a tensor; None without `--detail`."""
        row = self._spread_row(name, role)
        if row is None:
            return None
        return np.asarray(self.arrays["spread/even"][row]), even_edges(float(self.arrays["spread/reach"][row]))

    def quantiles(self, name: str, role: str = "input") -> dict[float, float] | None:
        """Share -> value below which that share of all values lies; None without `--detail`."""
        row = self._spread_row(name, role)
        if row is None:
            return None
        return dict(zip(self.meta["levels"], map(float, self.arrays["spread/quantiles"][row]), strict=True))

    def outlier_share(self, name: str, role: str = "input") -> float | None:
        """Share of all values farther than 6 standard deviations from the mean; None without `--detail`."""
        row = self._spread_row(name, role)
        return None if row is None else float(self.arrays["spread/outliers"][row])

    def cause(self, name: str, role: str, *, side: str = "absmax", channel: int | None = None) -> Cause:
        """Which sample and token set the max, min or absmax of a tensor, or of one of its channels."""
        high, low = self.stat(name, role, "max").reshape(-1), self.stat(name, role, "min").reshape(-1)
        if side == "absmax":
            at = int(np.argmax(np.maximum(high, -low))) if channel is None else channel
            side = "max" if high[at] >= -low[at] else "min"
        else:
            at = int(np.argmax(high) if side == "max" else np.argmin(low)) if channel is None else channel
        sample = int(self.stat(name, role, f"{side}_sample").reshape(-1)[at])
        token = int(self.stat(name, role, f"{side}_token").reshape(-1)[at])
        value = float((high if side == "max" else low)[at])
        text = bool(self.arrays["site/on_tokens"][self.entries[name, role]])
        return Cause(at, value, sample, token, not text, self.where(sample), self.word(sample, token) if text else "")

    def where(self, sample: int) -> str:
        """The file and line a sample came from."""
        wheres = self.meta["samples"]
        return str(wheres[sample]) if 0 <= sample < len(wheres) else ""

    def words(self, sample: int) -> list[str]:
        """A sample as the texts of its tokens, to be joined; [] where it is not known."""
        if not 0 <= sample < len(self.meta["samples"]):
            return []
        starts, pieces = self.arrays["samples/starts"], self.meta["pieces"]
        return [pieces.get(str(number), "") for number in self.arrays["samples/ids"][starts[sample] : starts[sample + 1]]]

    def word(self, sample: int, token: int) -> str:
        """The text of one token."""
        if not 0 <= sample < len(self.meta["samples"]):
            return ""
        start, end = map(int, self.arrays["samples/starts"][sample : sample + 2])
        inside = 0 <= token < end - start
        return str(self.meta["pieces"].get(str(self.arrays["samples/ids"][start + token]), "")) if inside else ""

    def weight(self, layer: Layer, stat: str) -> Array:
        """min, max or absmax of a weight by output channel, (outputs,) float32.

        Raises:
            KeyError: weights were not looked at.
        """
        if layer.weights is None:
            raise KeyError(f"the weight of {layer.name} was not looked at")
        part = slice(layer.weights, layer.weights + layer.outputs)
        if stat == "absmax":
            return np.maximum(np.abs(self.arrays["weight/min"][part]), np.abs(self.arrays["weight/max"][part]))
        return np.asarray(self.arrays[f"weight/{stat}"][part])

    def weight_errors(self, layer: Layer) -> dict[str, float]:
        """Scheme -> |W - Q(W)|^2 / |W|^2 of the layer's weight; {} where weights were not looked at."""
        if layer.weights is None:
            return {}
        row = next(i for i, other in enumerate(self.layers) if other.name == layer.name)
        return dict(zip(self.meta["schemes"], map(float, self.arrays["weight/errors"][row]), strict=True))

    def channel_errors(self, layer: Layer) -> dict[str, Array]:
        """Scheme -> |w - Q(w)| / |w| of every output channel of the layer's weight, (outputs,) float32, to three digits.

        The square is the share of the channel's energy that is lost, as `weight_errors` has it of the whole weight. {} where
        weights were not looked at, or by a program that did not keep this.
        """
        if layer.weights is None or "weight/channel_errors" not in self.arrays:
            return {}
        part = self.arrays["weight/channel_errors"][:, layer.weights : layer.weights + layer.outputs]
        return dict(zip(self.meta["schemes"], part.astype(np.float32), strict=True))

    def _channels(self, stat: str, start: int, size: int) -> Array:
        return np.asarray(self.arrays[f"channel/{stat}"][start : start + size])

    def _spread_row(self, name: str, role: str) -> int | None:
        if "spread/even" not in self.arrays:
            return None
        row = int(self.arrays["site/spread_row"][self.entries[name, role]])
        return None if row < 0 else row


def _mapped(path: Path) -> dict[str, Array]:
    """The tensors of a safetensors file as views of a memory map."""
    with path.open("rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    arrays = {}
    for name, row in header.items():
        if name == "__metadata__":
            continue
        begin, end = row["data_offsets"]
        dtype = np.dtype(DTYPES[row["dtype"]])
        flat: Array = np.frombuffer(data, dtype, (end - begin) // dtype.itemsize, 8 + length + begin)
        arrays[name] = flat.reshape(row["shape"])
    return arrays
