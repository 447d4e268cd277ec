"""The tensor table of a pickled .bin file, read without torch and without running what the pickle asks for.

A torch file is a zip with `<name>/data.pkl` in it. The unpickler here knows four names, of which none does anything but
describe a tensor; any other name is refused, which is how a file that wants to run code is found before it is loaded.
Source: torch/serialization.py of torch 2.13, `_save` and `persistent_id`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from quantui.errors import CheckpointError

STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
    "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
}  # fmt: skip
"""Storage classes of torch to dtype names of safetensors."""

Header = dict[str, tuple[str, tuple[int, ...]]]


def read_header(file: Path) -> Header:
    """{tensor name: (dtype, shape)} of a .bin file.

    Raises:
        CheckpointError: it is no torch zip file, or its pickle asks for anything but tensors.
    """
    todo = "save it again with torch 1.6 or later, as safetensors if you can"
    try:
        with zipfile.ZipFile(file) as archive:
            name = next((n for n in archive.namelist() if n.endswith("/data.pkl")), None)
            if name is None:
                raise CheckpointError("it is not a file that torch.save wrote", where=str(file), todo=todo)
            body = _Unpickler(io.BytesIO(archive.read(name)), file).load()
    except (zipfile.BadZipFile, OSError) as error:
        raise CheckpointError(f"it is truncated or not a torch file ({error})", where=str(file), todo=todo) from error
    except (pickle.UnpicklingError, EOFError, AttributeError, ValueError, TypeError, IndexError, KeyError) as error:
        raise CheckpointError(f"its pickle is broken ({error})", where=str(file), todo=todo) from error
    if not isinstance(body, dict):
        raise CheckpointError("it holds no state dict", where=str(file), todo=todo)
    return {str(key): value for key, value in body.items() if isinstance(value, tuple)}


def _tensor(storage: str, _offset: int, shape: tuple[int, ...], *_: Any) -> tuple[str, tuple[int, ...]]:
    return storage, tuple(shape)


def _parameter(tensor: tuple[str, tuple[int, ...]], *_: Any) -> tuple[str, tuple[int, ...]]:
    return tensor


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: io.BytesIO, file: Path) -> None:
        super().__init__(data)
        self._where = file

    def persistent_load(self, pid: Any) -> Any:
        """("storage", storage class, key, location, elements): only the class matters here."""
        return pid[1]

    def find_class(self, module: str, name: str) -> Any:
        """The few names a state dict needs, each with a harmless stand-in."""
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        known: dict[tuple[str, str], Any] = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) not in known:
            raise CheckpointError(
                f"the pickle asks for {module}.{name}, which is not a tensor, so it is not opened",
                where=str(self._where),
                todo="get the weights from somebody you trust, as safetensors",
            )
        return known[(module, name)]
