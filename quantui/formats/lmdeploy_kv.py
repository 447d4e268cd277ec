"""lmdeploy's K/V scales: `layers.{i}.past_kv_scale.{rank}.weight`, raw float32, for its engines up to 0.3.

Four numbers, k_scale, k_zp, v_scale and v_zp, where x = q * scale + zp with q in -128..127; two, the scales alone, where
symmetric. Files from statistics are made by `kv-qparams`; here they are made of scales that a quantized model has already.
Source: lmdeploy v0.1.0, lmdeploy/lite/apis/kv_qparams.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quantui.errors import CheckpointError, OutputError
from quantui.formats.base import CacheOutline, CacheScales, OpenFolder, Outline
from quantui.numerics.sound import sound_cache

if TYPE_CHECKING:
    from torch import Tensor

FILE = re.compile(r"layers\.(\d+)\.past_kv_scale\.(\d+)\.weight")
LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


@dataclass(frozen=True)
class LmdeployKV:
    """The format."""

    name: str = "lmdeploy-kv"

    def opens(self, folder: Path) -> bool:
        """Whether there is such a file, and no weights."""
        return any(FILE.fullmatch(file.name) for file in folder.iterdir()) and not any(folder.glob("*.safetensors"))

    def open(self, folder: Path) -> OpenFolder:
        """See `Format.open`."""
        ranks: dict[int, dict[int, list[float]]] = {}
        for file in sorted(folder.iterdir()):
            if found := FILE.fullmatch(file.name):
                ranks.setdefault(int(found[1]), {})[int(found[2])] = _numbers(file)
        caches = []
        for layer, held in sorted(ranks.items()):
            if sorted(held) != list(range(len(held))) or len({len(numbers) for numbers in held.values()}) > 1:
                what = f"the files of layer {layer} are not those of ranks 0 to {len(held) - 1}, all symmetric or none"
                raise CheckpointError(what, where=str(folder), todo="copy the folder again")
            caches.append(sound_cache(_scales(layer, [held[rank] for rank in range(len(held))]), str(folder)))
        if len(counts := {len(held): layer for layer, held in ranks.items()}) > 1:
            (first, one), (second, two) = list(counts.items())[:2]
            what = f"layer {one} has files of {first} ranks, but layer {two} of {second}"
            raise CheckpointError(what, where=str(folder), todo="copy the folder again")
        return OpenFolder(folder, self.name, {}, (), tuple(caches))

    def refusal(self, outline: Outline) -> str | None:
        """See `Format.refusal`: weights are left where they are, so any will do."""
        return None

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """See `Format.refusal_of_cache`."""
        if cache.kind != "int" or cache.bits != 8:
            return f"its K/V cache is {cache.kind}, and lmdeploy's files are for int8"
        if cache.strategy == "channel" or cache.before_rope:
            return "its K/V scales are by channel before RoPE, and lmdeploy's are by tensor-parallel rank after it"
        return None

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """See `Format.write`; a scale by head becomes one file a head, for as many ranks."""
        import numpy as np

        if not source.caches:
            what = "its K/V cache is not quantized"
            raise OutputError(what, where=str(source.folder), todo="make the files from statistics with `kv-qparams`")
        for cache in source.caches:
            found = LAYER.search(f"{cache.name}.")
            if found is None:
                raise OutputError("its name does not tell which layer it is", where=cache.name, todo="choose another format")
            keys, values = (side.double().reshape(-1) for side in (cache.key_scale, cache.value_scale))
            for rank, (k, v) in enumerate(zip(keys, values, strict=True)):
                zeros = [_zp(cache.key_zero, rank, k), _zp(cache.value_zero, rank, v)]
                numbers = [k, v] if cache.key_zero is None else [k, zeros[0], v, zeros[1]]
                path = folder / f"layers.{found[1]}.past_kv_scale.{rank}.weight"
                np.array([float(number) for number in numbers], np.dtype("<f4")).tofile(path)


def _zp(zeros: Tensor | None, rank: int, scale: Tensor) -> Tensor | float:
    return 0.0 if zeros is None else -zeros.double().reshape(-1)[rank] * scale


def _numbers(file: Path) -> list[float]:
    import numpy as np

    size = file.stat().st_size
    if size not in (8, 16):
        raise CheckpointError(f"it has {size} bytes, and such a file has 8 or 16", where=str(file), todo="copy it again")
    return [float(number) for number in np.fromfile(file, np.dtype("<f4"))]


def _scales(layer: int, ranks: list[list[float]]) -> CacheScales:
    """What the files of one layer say, in float64: a zero point is a quotient that has to give the file's number again."""
    import torch

    rows = torch.tensor(ranks, dtype=torch.float64)
    strategy = "tensor" if len(ranks) == 1 else "head"
    name = f"model.layers.{layer}.self_attn"
    if rows.shape[1] == 2:
        return CacheScales(name, "int", 8, strategy, False, rows[:, 0], rows[:, 1])  # type: ignore[arg-type]
    zeros = (-rows[:, 1] / rows[:, 0], -rows[:, 3] / rows[:, 2])
    return CacheScales(name, "int", 8, strategy, False, rows[:, 0], rows[:, 2], *zeros)  # type: ignore[arg-type]
