"""msModelSlim's two layouts of safetensors: `msmodelslim` (its safe_tensor, for MindIE) and `ascend-v1` (for vLLM-Ascend)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantui.formats import ascend_labels as labels
from quantui.formats import ascend_read as reading
from quantui.formats import ascend_write as writing
from quantui.formats.base import CacheOutline, CacheScales, OpenFolder, Outline


@dataclass(frozen=True)
class Ascend:
    """The format, one instance for each layout."""

    name: str
    packed: bool

    def opens(self, folder: Path) -> bool:
        """Whether there is a description of this layout beside safetensors files."""
        found = reading.description_of(folder)
        return found is not None and bool(reading.weight_files(folder)) and ("version" in found[1]) == self.packed

    def open(self, folder: Path) -> OpenFolder:
        """See `Format.open`."""
        return reading.open_folder(folder, self.name)

    def refusal(self, outline: Outline) -> str | None:
        """See `Format.refusal`."""
        return labels.refusal(outline, packed=self.packed)

    def refusal_of_cache(self, cache: CacheOutline | CacheScales) -> str | None:
        """See `Format.refusal_of_cache`."""
        if cache.kind != "int" or cache.bits != 8:
            return f"its K/V cache is {cache.kind}, and msModelSlim's C8 is int8"
        if cache.strategy != "channel" or not cache.before_rope:
            return "its K/V scales are not those of the k and v projections by channel, before RoPE, which C8 is"
        return None

    def write(self, source: OpenFolder, folder: Path, *, part_bytes: int | None = None) -> None:
        """See `Format.write`."""
        writing.write(source, folder, part_bytes=part_bytes, packed=self.packed)
