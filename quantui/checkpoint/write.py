"""Writing safetensors shards by streaming: where every byte goes is settled first, then bytes are copied, one tensor at a time.

Source: the format's description in the README of safetensors 0.8, and transformers' names for shards and their index.
"""

from __future__ import annotations

import errno
import json
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

from quantui.checkpoint.files import HEADER_LIMIT, ITEM_BITS
from quantui.errors import OutputError
from quantui.workspace import write_json

NO_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
"""How the kernel says that it does not copy between these two files, though reading and writing them works."""

READ = 1 << 20
"""Bytes that are read at once where it does not: few enough to stay in the processor's cache until they are written."""

ALIGNMENT = 8
"""The data of a shard begin at a multiple of this, which the header is padded for with spaces."""

PAGE = 4096
"""Bytes the kernel copies at once: half as slow again where they begin at another place of a page in either file."""


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


class Span(NamedTuple):
    """Bytes that stand in an open file already, so that the kernel can copy them without bringing them here."""

    file: int
    start: int
    length: int


Chunk = bytes | bytearray | memoryview
Stream = Callable[[Entry], Iterable[Chunk | Span]]
"""The data of a tensor, in pieces; a chunk may be overwritten once the next is asked for. Called from several threads."""

WRITERS = 2
"""Shards that are written at once: one thread does not fill a disk, and more of them get in each other's way."""


class Origin(NamedTuple):
    """The file that a tensor is copied from, and where its first byte stands there."""

    file: Path
    start: int


def lay_out(entries: Sequence[Entry], max_shard_bytes: int, origins: Mapping[str, Origin] | None = None) -> list[Shard]:
    """Settles which tensor goes where.

    A tensor larger than the limit gets a shard of its own. Within a shard the widest dtypes come first, so that every
    tensor is aligned to its own elements. Tensors of different files do not share a shard: that is how their owner divided
    them, and shards can then be copied page by page, several at once.

    Args:
        entries: the tensors, in the order that reading them goes best.
        max_shard_bytes: how many bytes of data a file may hold.
        origins: where tensors come from, by name.

    Raises:
        OutputError: a header would be larger than the format allows.
    """
    groups: list[list[Entry]] = []
    filled: dict[Path | None, tuple[list[Entry], int]] = {}  # file -> the group it goes on in, and the bytes of that
    for entry in entries:
        file = origins[entry.name].file if origins else None
        group, size = filled.get(file, ([], 0))
        if not group or size + entry.nbytes > max_shard_bytes:
            group, size = [], 0
            groups.append(group)
        group.append(entry)
        filled[file] = group, size + entry.nbytes
    groups = groups or [[]]
    names = [f"model-{number + 1:05}-of-{len(groups):05}.safetensors" for number in range(len(groups))]
    if len(groups) == 1:
        names = ["model.safetensors"]
    return [_shard(name, group, origins or {}) for name, group in zip(names, groups, strict=True)]


def _shard(name: str, entries: list[Entry], origins: Mapping[str, Origin]) -> Shard:
    ordered = sorted(entries, key=lambda entry: -ITEM_BITS[entry.dtype])
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    places = Counter[int]()  # place in a page where the data would best begin -> bytes of which that is true
    end = 0
    for entry in ordered:
        header[entry.name] = {
            "dtype": entry.dtype,
            "shape": list(entry.shape),
            "data_offsets": [end, end + entry.nbytes],
        }
        if entry.name in origins and (place := (origins[entry.name].start - end) % PAGE) % ALIGNMENT == 0:
            places[place] += entry.nbytes
        end += entry.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    place, unit = (places.most_common(1)[0][0], PAGE) if places else (0, ALIGNMENT)
    text += b" " * ((place - len(text) - 8) % unit)
    if len(text) > HEADER_LIMIT:
        raise OutputError(f"the header of {name} would be too large", todo="choose a smaller --max-shard-size")
    return Shard(name, struct.pack("<Q", len(text)) + text, tuple(ordered))


def write_shards(folder: Path, shards: Sequence[Shard], stream: Stream) -> None:
    """Writes every shard and, if there are several, their index.

    Raises:
        OutputError: a stream gave another number of bytes than its tensor has.
    """
    with ThreadPoolExecutor(WRITERS) as writers:
        jobs = [writers.submit(_write_shard, folder / shard.name, shard, stream) for shard in shards]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            writers.shutdown(wait=True, cancel_futures=True)
            raise
    if len(shards) > 1:
        weight_map = {entry.name: shard.name for shard in shards for entry in shard.entries}
        total = sum(entry.nbytes for shard in shards for entry in shard.entries)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / "model.safetensors.index.json", index)


def _write_shard(path: Path, shard: Shard, stream: Stream) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        _write(file, shard.header)
        for entry in shard.entries:
            written = 0
            for piece in stream(entry):
                written += _copy(file, piece) if isinstance(piece, Span) else _write(file, piece)
            if written != entry.nbytes:
                what = f"{written} bytes came for {entry.name} where {entry.nbytes} belong"
                raise OutputError(what, where=path.name, todo="check that nothing changes the source meanwhile")
    finally:
        os.close(file)


def _write(file: int, chunk: Chunk) -> int:
    """All of a chunk, since a file may take less than it is given; returns its size in bytes."""
    view = memoryview(chunk).cast("B")
    done = 0
    while done < len(view):
        done += os.write(file, view[done:])
    return len(view)


def _copy(file: int, span: Span) -> int:
    """The bytes of a span, copied by the kernel where it can; returns how many there were."""
    start, left = span.start, span.length
    while left:
        try:
            got = os.copy_file_range(span.file, file, left, start)
        except OSError as error:
            if error.errno not in NO_COPY:
                raise
            got = _write(file, os.pread(span.file, min(left, READ), start))
        except AttributeError:  # not on this system
            got = _write(file, os.pread(span.file, min(left, READ), start))
        if not got:
            break
        start, left = start + got, left - got
    return span.length - left
