"""Writing safetensors shards by streaming: where every byte goes is settled first, then bytes are copied, one tensor at a time.

Source: the format's description in the README of safetensors 0.8, and transformers' names for shards and their index.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from quantui.checkpoint.files import HEADER_LIMIT, ITEM_BITS
from quantui.errors import OutputError
from quantui.workspace import write_json

ALIGNMENT = 8
"""The data of a shard begin at a multiple of this, which the header is padded for with spaces."""


@dataclass(frozen=True)
class Entry:
    """One tensor to be written. `dtype` is the name safetensors uses."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * ITEM_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Shard:
    """One file to be written: its name, its header, and its tensors in the order of their data."""

    name: str
    header: bytes
    entries: tuple[Entry, ...]


Chunk = bytes | bytearray | memoryview
Stream = Callable[[Entry], Iterable[Chunk]]
"""The data of a tensor, in chunks that may be overwritten once the next is asked for."""


def lay_out(entries: Sequence[Entry], max_shard_bytes: int) -> list[Shard]:
    """Settles which tensor goes where.

    A tensor larger than the limit gets a shard of its own. Within a shard the widest dtypes come first, so that every
    tensor is aligned to its own elements.

    Args:
        entries: the tensors, in the order that reading them goes best.
        max_shard_bytes: how many bytes of data a file may hold.

    Raises:
        OutputError: a header would be larger than the format allows.
    """
    groups: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if groups[-1] and size + entry.nbytes > max_shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += entry.nbytes
    names = [f"model-{number + 1:05}-of-{len(groups):05}.safetensors" for number in range(len(groups))]
    if len(groups) == 1:
        names = ["model.safetensors"]
    return [_shard(name, group) for name, group in zip(names, groups, strict=True)]


def _shard(name: str, entries: list[Entry]) -> Shard:
    ordered = sorted(entries, key=lambda entry: -ITEM_BITS[entry.dtype])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.nbytes],
        }
        end += entry.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > HEADER_LIMIT:
        raise OutputError(f"the header of {name} would be too large", todo="choose a smaller --max-shard-size")
    return Shard(name, struct.pack("<Q", len(text)) + text, tuple(ordered))


def write_shards(folder: Path, shards: Sequence[Shard], stream: Stream) -> None:
    """Writes every shard and, if there are several, their index.

    Raises:
        OutputError: a stream gave another number of bytes than its tensor has.
    """
    for shard in shards:
        with (folder / shard.name).open("xb", buffering=0) as file:
            _write(file.write, shard.header)
            for entry in shard.entries:
                written = 0
                for chunk in stream(entry):
                    written += _write(file.write, chunk)
                if written != entry.nbytes:
                    what = f"{written} bytes came for {entry.name} where {entry.nbytes} belong"
                    raise OutputError(what, where=shard.name, todo="please report this")
    if len(shards) > 1:
        weight_map = {entry.name: shard.name for shard in shards for entry in shard.entries}
        total = sum(entry.nbytes for shard in shards for entry in shard.entries)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "model.safetensors.index.json", index)


def _write(write: Callable[[Chunk], int | None], chunk: Chunk) -> int:
    """All of a chunk, since an unbuffered file may take less than it is given; returns its size in bytes."""
    view = memoryview(chunk).cast("B")
    done = 0
    while done < len(view):
        done += write(view[done:]) or 0
    return len(view)
