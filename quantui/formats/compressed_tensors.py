"""compressed-tensors: what transformers and vLLM load, compressed, or dense with the weights in float beside their scales."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from quantui.formats import compressed_tensors_read as reading
from quantui.formats import compressed_tensors_write as writing
from quantui.formats.base import CacheOutline, CacheScales, OpenFolder, Outline
from quantui.numerics.layerfiles import FOLDER


@dataclass(frozen=True)
class CompressedTensors:
    """The format, one instance for compressed and one for dense."""

    name: str
    dense: bool = False

    def opens(self, folder: Path) -> bool:
        """Whether config.json names the method, or quantized layers stand in files of their own."""
        try:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        body = config.get("quantization_config") if isinstance(config, dict) else None
        if not isinstance(body, dict):
            return (folder / FOLDER).is_dir() and not self.dense
        is_dense = body.get("format") == "dense" or body.get("quantization_status") == "frozen"
        return body.get("quant_method") == "compressed-tensors" and is_dense == self.dense

    def open(self, folder: Path) -> OpenFolder:
        """See `Format.open`."""
        return reading.open_folder(folder, self.name)

    def refusal(self, outline: Outline) -> str | None:
        """See `Format.refusal`."""
        return writing.refusal(outline)

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """See `Format.refusal_of_cache`."""
        return writing.refusal_of_cache(cache)

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """See `Format.write`."""
        writing.write(source, folder, part_bytes=part_bytes, dense=self.dense)
