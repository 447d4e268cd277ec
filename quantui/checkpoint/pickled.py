"""The tensor table of a pickled .bin file, read without torch and without running what the pickle asks for.

A torch file is a zip with `<name>/data.pkl` in it, and one stored, uncompressed entry `<name>/data/<key>` a storage, so that
every tensor is a range of bytes of the file. The unpickler here knows a few names, of which none does anything but
describe a tensor; any other name is refused, which is how a file that wants to run code is found before it is loaded.
Source: torch/serialization.py of torch 2.13, `_save` and `persistent_id`.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from quantui.errors import CheckpointError

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}  # fmt: skip
"""Storage classes of torch to dtype names of safetensors."""

DTYPES = {
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ", "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip
"""Dtypes that have no storage class of their own and are named by a version 3 tensor."""

PICKLE_LIMIT = 100_000_000
"""Largest data.pkl that is read, in bytes; the tensor table of a 100 000-tensor model is a tenth of it."""

ITEM_BYTES = {"F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2}
"""Bytes of one element, where it is not one."""

LOCAL_HEADER = struct.Struct("<26xHH")
"""The start of a zip entry: its last two fields say how long the name and the extra field behind it are (APPNOTE 4.3.7)."""


class Entry(NamedTuple):
    """One tensor of a .bin file: `offset` in bytes from the start of the file, `stride` in elements, None if contiguous."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    stride: tuple[int, ...] | None


Header = dict[str, Entry]


def read_header(file: Path) -> Header:
    """{tensor name: what it is and where it stands} of a .bin file.

    Raises:
        CheckpointError: it is no torch zip file, is cut short, holds no tensors, or its pickle asks for anything but tensors.
    """
    todo = "save it again with torch 1.6 or later, as safetensors if you can"
    try:
        data, storages = _data(file)
    except (zipfile.BadZipFile, zlib.error, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"it is truncated or not a torch file ({error})", where=str(file), todo=todo) from error
    try:
        body = _Unpickler(io.BytesIO(data), file).load()
    except CheckpointError:
        raise
    except Exception as error:  # a broken pickle may raise anything at all
        raise CheckpointError(f"its pickle is broken ({error})", where=str(file), todo=todo) from error
    entries = dict.items(body) if isinstance(body, dict) else ()  # a pickle may have put its own `items` on the object
    tensors = {str(key): value for key, value in entries if _is_tensor(value)}
    if not tensors:
        raise CheckpointError("it holds no state dict", where=str(file), todo=todo)
    try:
        return {name: _place(name, tensor, storages) for name, tensor in tensors.items()}
    except ValueError as error:
        raise CheckpointError(f"it is truncated or not a torch file ({error})", where=str(file), todo=todo) from error


def _data(file: Path) -> tuple[bytes, dict[str, tuple[int, int]]]:
    """The data.pkl of a torch file, and {key: (offset, bytes)} of its storages.

    Raises:
        ValueError: it has none, or one that is too large, or is of a big-endian machine.
    """
    with zipfile.ZipFile(file) as archive, file.open("rb") as raw:
        entry = next((entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")), None)
        if entry is None:
            raise ValueError("it has no data.pkl")
        if entry.file_size > PICKLE_LIMIT:
            raise ValueError(f"its data.pkl has {entry.file_size} bytes")
        root = entry.filename.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") == b"big":
            raise ValueError("it was written on a big-endian machine")
        storages: dict[str, tuple[int, int]] = {}
        for stored in archive.infolist():
            if stored.filename.startswith(f"{root}data/") and stored.compress_type == zipfile.ZIP_STORED:
                raw.seek(stored.header_offset)
                name, extra = LOCAL_HEADER.unpack(raw.read(LOCAL_HEADER.size))
                start = stored.header_offset + LOCAL_HEADER.size + name + extra
                storages[stored.filename.removeprefix(f"{root}data/")] = (start, stored.file_size)
        return archive.read(entry), storages


def _place(name: str, tensor: _Tensor, storages: dict[str, tuple[int, int]]) -> Entry:
    """Where a tensor stands in the file.

    Raises:
        ValueError: its storage is not there, or too small for it.
    """
    shape, stride, item = tensor.shape, tensor.stride, ITEM_BYTES.get(tensor.dtype, 1)
    if tensor.key not in storages:
        raise ValueError(f"the data of {name} are missing")
    start, size = storages[tensor.key]
    last = sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
    if prod(shape) and (tensor.offset + last + 1) * item > size:
        raise ValueError(f"the data of {name} are cut short")
    steps, dense = 1, []
    for length in reversed(shape):
        dense.append(steps)
        steps *= length
    # The step of an axis with one element is never taken, so it may be anything.
    plain = all(s == d or n == 1 for s, d, n in zip(stride, reversed(dense), shape, strict=True))
    return Entry(tensor.dtype, shape, start + tensor.offset * item, None if plain or not prod(shape) else stride)


@dataclass(frozen=True)
class _Tensor:
    """What the pickle says of one tensor: `key` names its storage, `offset` and `stride` count elements."""

    dtype: Any
    shape: Any
    key: Any
    offset: Any
    stride: Any


def _is_tensor(value: Any) -> bool:
    if not isinstance(value, _Tensor) or not isinstance(value.dtype, str) or not isinstance(value.key, str):
        return False
    if not isinstance(value.shape, tuple) or not isinstance(value.stride, tuple) or len(value.shape) != len(value.stride):
        return False
    return all(type(size) is int and size >= 0 for size in (*value.shape, *value.stride, value.offset))


class _Rebuild:
    """Stands in for one of torch's functions. An instance without a __dict__ has nothing that a pickle could change."""

    __slots__ = ("_make",)
    _make: Callable[..., Any]

    def __init__(self, make: Callable[..., Any]) -> None:
        object.__setattr__(self, "_make", make)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(name)

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)


REBUILD = {
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(
        lambda storage, offset, shape, stride, *_: _Tensor(storage[0], shape, storage[1], offset, stride)
    ),
    ("torch._utils", "_rebuild_tensor_v3"): _Rebuild(
        lambda storage, offset, shape, stride, _grad, _hooks, dtype, *_: _Tensor(dtype, shape, storage[1], offset, stride)
    ),
    ("torch._utils", "_rebuild_parameter"): _Rebuild(lambda tensor, *_: tensor),
}
"""The functions a state dict calls, each with a harmless stand-in."""


class _Unpickler(pickle._Unpickler):
    """pickle's Python version: the C one allocates whatever memory a single opcode names."""

    def __init__(self, data: io.BytesIO, file: Path) -> None:
        super().__init__(data)
        self._where = file

    def persistent_load(self, pid: Any) -> Any:
        """("storage", storage class, key, location, elements): the class tells the dtype, the key which entry of the zip."""
        return pid[1], pid[2]

    def find_class(self, module: str, name: str) -> Any:
        """The few names a state dict needs."""
        if module == "torch" and (name in STORAGES or name in DTYPES):
            return STORAGES.get(name) or DTYPES[name]
        if (module, name) == ("torch.storage", "UntypedStorage"):
            return name
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) not in REBUILD:
            raise CheckpointError(
                f"the pickle asks for {module}.{name}, which is not a tensor, so it is not opened",
                where=str(self._where),
                todo="get the weights from somebody you trust, as safetensors",
            )
        return REBUILD[(module, name)]
