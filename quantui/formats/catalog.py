"""Every format by its name, and which one a folder has. No torch."""

from __future__ import annotations

from pathlib import Path

from quantui.errors import CheckpointError, InputError
from quantui.formats.ascend import Ascend
from quantui.formats.awq import Awq
from quantui.formats.base import Format, OpenFolder
from quantui.formats.compressed_tensors import CompressedTensors
from quantui.formats.lmdeploy import LmdeployW8A8
from quantui.formats.lmdeploy_kv import LmdeployKV
from quantui.formats.numpy_dictionaries import NumpyDictionaries

FORMATS: dict[str, Format] = {
    "compressed-tensors": CompressedTensors("compressed-tensors"),
    "compressed-tensors-dense": CompressedTensors("compressed-tensors-dense", dense=True),
    "msmodelslim": Ascend("msmodelslim", packed=False),
    "ascend-v1": Ascend("ascend-v1", packed=True),
    "numpy": NumpyDictionaries(),
    "awq": Awq(),
    "lmdeploy-w8a8": LmdeployW8A8(),
    "lmdeploy-kv": LmdeployKV(),
}


def format_named(name: str) -> Format:
    """The format of this name.

    Raises:
        InputError: there is none; all are listed.
    """
    if name not in FORMATS:
        raise InputError(f"there is no format {name!r}", where="--format", todo=f"choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def open_quantized(folder: Path) -> OpenFolder:
    """A folder of quantized weights of any format.

    Raises:
        CheckpointError: it is none, or is damaged.
    """
    if not folder.is_dir():
        raise CheckpointError("there is no such folder", where=str(folder), todo="check the path")
    for held in FORMATS.values():
        if held.opens(folder):
            return held.open(folder)
    what = f"this is no folder of quantized weights in a format that is known here ({', '.join(FORMATS)})"
    raise CheckpointError(what, where=str(folder), todo="give the result of a quantize run, or such a folder")
