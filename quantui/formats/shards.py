"""Safetensors files whose tensors arrive in any order: where every byte goes is settled first, then each goes to its place.

Headers, order of data and padding are those that the safetensors library makes, so that files agree byte for byte.
Source: safetensors/src/tensor.rs of 0.8.0, `prepare`: widest dtypes first, then by name.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.files import Tensor
from quantui.checkpoint.write import NO_COPY, READ, Entry
from quantui.errors import OutputError

if TYPE_CHECKING:
    import torch

DTYPES = (
    "BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16",
    "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64",
)  # fmt: skip
"""From the last in a file to the first. Source: as above, `Dtype`."""

_RANK = {name: rank for rank, name in enumerate(DTYPES)}

Naming = Callable[[int, int], str]
"""(number from 1, how many) -> the name of a shard."""


def model_name(number: int, total: int) -> str:
    """What transformers calls a shard."""
    return "model.safetensors" if total == 1 else f"model-{number:05}-of-{total:05}.safetensors"


def split(entries: Sequence[Entry], part_bytes: int | None, *, full_at_limit: bool) -> list[list[Entry]]:
    """Tensors in their order, cut into shards.

    Args:
        part_bytes: most bytes of a shard; None makes one.
        full_at_limit: a shard that would be exactly full is too full, as msModelSlim counts.
    """
    groups: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        after = size + entry.nbytes
        if part_bytes is not None and groups[-1] and (after > part_bytes or (full_at_limit and after == part_bytes)):
            groups.append([])
            after = entry.nbytes
        groups[-1].append(entry)
        size = after
    return groups


class ShardFiles:
    """The shards of one model while they are written.

    Args:
        folder: where they go.
        groups: the tensors of each.
        naming: what each is called.
        metadata: goes into every header; None leaves it out.
    """

    def __init__(
        self, folder: Path, groups: Sequence[Sequence[Entry]], naming: Naming, metadata: dict[str, str] | None
    ) -> None:
        self.weight_map: dict[str, str] = {}
        self.total = 0
        self._places: dict[str, tuple[int, int, Entry]] = {}
        self._files: list[int] = []
        try:
            for number, group in enumerate(groups, 1):
                self._add(folder / naming(number, len(groups)), group, metadata)
        except BaseException:
            self._close()
            raise
        self._left = set(self._places)

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        if kind is None and self._left:
            raise OutputError(f"{min(self._left)} was announced but never written", todo="please report this")

    def _close(self) -> None:
        for file in self._files:
            os.close(file)
        self._files = []

    def _add(self, path: Path, group: Sequence[Entry], metadata: dict[str, str] | None) -> None:
        header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
        end = 0
        for entry in sorted(group, key=lambda entry: (-_RANK[entry.dtype], entry.name)):
            header[entry.name] = {
                "dtype": entry.dtype,
                "shape": list(entry.shape),
                "data_offsets": [end, end + entry.nbytes],
            }
            end += entry.nbytes
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._files.append(file)
        _write(file, struct.pack("<Q", len(text)) + text, 0)
        begin = 8 + len(text)
        os.truncate(file, begin + end)
        for entry in group:
            self._places[entry.name] = (file, begin + header[entry.name]["data_offsets"][0], entry)
            self.weight_map[entry.name] = path.name
        self.total += end

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Writes a tensor to its place; may be called from several threads.

        Raises:
            OutputError: it is another than was announced.
        """
        import torch

        from quantui.formats.tensors import stored_name

        file, offset, entry = self._places[name]
        if stored_name(tensor) != entry.dtype or tuple(tensor.shape) != entry.shape:
            what = f"{name} became {stored_name(tensor)} {tuple(tensor.shape)} where {entry.dtype} {entry.shape} was announced"
            raise OutputError(what, todo="please report this")
        if tensor.numel():
            flat = tensor.reshape(-1).clone(memory_format=torch.contiguous_format) if tensor.numel() == 1 else tensor
            _write(file, memoryview(flat.contiguous().reshape(-1).view(torch.uint8).numpy()), offset)
        self._left.discard(name)

    def put_pieces(self, name: str, pieces: Iterable[torch.Tensor]) -> None:
        """Writes a tensor to its place that comes in flattened pieces."""
        import torch

        file, offset, _ = self._places[name]
        for piece in pieces:
            offset += _write(file, memoryview(piece.contiguous().view(torch.uint8).numpy()), offset)
        self._left.discard(name)

    def copy(self, name: str, tensor: Tensor) -> None:
        """Writes a tensor to its place as it stands in another file, copied by the kernel where it can."""
        file, offset, entry = self._places[name]
        if (tensor.dtype, tensor.shape) != (entry.dtype, entry.shape):
            raise OutputError(f"{name} would be copied from {tensor.dtype} {tensor.shape}", todo="please report this")
        with tensor.shard.open("rb") as opened:
            start, left = tensor.offset, entry.nbytes
            while left:
                got = _copy(opened.fileno(), file, left, start, offset)
                if not got:
                    raise OutputError(f"the shard ends within {name}", where=str(tensor.shard), todo="copy the file again")
                start, offset, left = start + got, offset + got, left - got
        self._left.discard(name)


def _copy(source: int, target: int, count: int, start: int, offset: int) -> int:
    try:
        return os.copy_file_range(source, target, count, start, offset)
    except OSError as error:
        if error.errno not in NO_COPY:
            raise
    except AttributeError:  # not on this system
        pass
    return _write(target, os.pread(source, min(count, READ), start), offset)


def _write(file: int, data: bytes | memoryview, offset: int) -> int:
    view, done = memoryview(data), 0
    while done < len(view):
        done += os.pwrite(file, view[done:], offset + done)
    return done
