"""The tensor table of a pickled .bin file, read without torch and without running what the pickle asks for.

A torch file is a zip with `<name>/data.pkl` in it. The unpickler here knows a few names, of which none does anything but
describe a tensor; any other name is refused, which is how a file that wants to run code is found before it is loaded.
Source: torch/serialization.py of torch 2.13, `_save` and `persistent_id`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

Header = dict[str, tuple[str, tuple[int, ...]]]


def read_header(file: Path) -> Header:
    """{tensor name: (dtype, shape)} of a .bin file.

    Raises:
        CheckpointError: it is no torch zip file, holds no tensors, or its pickle asks for anything but tensors.
    """
    todo = "save it again with torch 1.6 or later, as safetensors if you can"
    try:
        data = _data(file)
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
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}


def _data(file: Path) -> bytes:
    """The data.pkl of a torch file.

    Raises:
        ValueError: it has none, or one that is too large.
    """
    with zipfile.ZipFile(file) as archive:
        entry = next((entry for entry in archive.infolist() if entry.filename.endswith("/data.pkl")), None)
        if entry is None:
            raise ValueError("it has no data.pkl")
        if entry.file_size > PICKLE_LIMIT:
            raise ValueError(f"its data.pkl has {entry.file_size} bytes")
        return archive.read(entry)


@dataclass(frozen=True)
class _Tensor:
    """What the pickle says of one tensor."""

    dtype: Any
    shape: Any


def _is_tensor(value: Any) -> bool:
    known = isinstance(value, _Tensor) and isinstance(value.dtype, str) and isinstance(value.shape, tuple)
    return known and all(type(size) is int and size >= 0 for size in value.shape)


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
    ("torch._utils", "_rebuild_tensor_v2"): _Rebuild(lambda storage, _offset, shape, *_: _Tensor(storage, shape)),
    ("torch._utils", "_rebuild_tensor_v3"): _Rebuild(
        lambda _storage, _offset, shape, _stride, _grad, _hooks, dtype, *_: _Tensor(dtype, shape)
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
        """("storage", storage class, key, location, elements): only the class matters here."""
        return pid[1]

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
