"""A model folder on disk: config.json, shards, their index and tensor headers. Reads no tensor and imports no torch."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, TypeGuard

from quantui.checkpoint import pickled
from quantui.errors import CheckpointError

ITEM_BITS = {
    "C64": 64, "F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I8": 8, "U8": 8, "BOOL": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
"""Bits of one element by the dtype names of safetensors headers. Source: safetensors/src/tensor.rs of 0.8.0, `Dtype`."""

HEADER_LIMIT = 100_000_000
"""Largest header the safetensors format allows, in bytes."""

COPY_AGAIN = "copy or download the file again"
SHARD = re.compile(r"[^/\0][^\0]{0,200}")
"""What an index may name: a file inside the folder."""
PART = re.compile(r"-\d+-of-(?!0*1\.)\d+\.safetensors$")
"""How the name of a shard ends that is one of several."""
LFS_POINTER = b"version https://git-lfs"
"""How the small text file begins that git leaves in the place of weights it has not fetched."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a shard. `dtype` is the name safetensors uses ("BF16"); `shape` is as stored.

    `offset` is where its first byte stands in the file. `stride` counts elements, and is given only where a pickled tensor
    is not contiguous.
    """

    name: str
    shard: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0
    stride: tuple[int, ...] | None = None

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.elements * ITEM_BITS[self.dtype] // 8


@dataclass(frozen=True)
class Checkpoint:
    """A model folder whose config parses and whose shards are all there and whole.

    Attributes:
        folder: where it is.
        config: config.json as it stands.
        tensors: by name, in the order of the shards.
        pickled: True when the weights are .bin files.
    """

    folder: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]
    pickled: bool

    @cached_property
    def nbytes(self) -> int:
        """Size of all weight files in bytes."""
        return sum(shard.stat().st_size for shard in {tensor.shard for tensor in self.tensors.values()})


def open_checkpoint(folder: Path) -> Checkpoint:
    """Reads config.json and every tensor header.

    Raises:
        CheckpointError: the path is no model folder, or a shard is missing, truncated or has a broken header (named).
    """
    config = read_config(folder)
    shards, index = _shards(folder)
    tensors = tensors_of(folder, shards, index)
    if not tensors:
        raise CheckpointError("the weights hold no tensors", where=str(shards[0]), todo=COPY_AGAIN)
    return Checkpoint(folder, config, tensors, shards[0].suffix != ".safetensors")


def tensors_of(folder: Path, shards: Sequence[Path], index: Mapping[str, str]) -> dict[str, Tensor]:
    """The tensors of shards by name; one that stands in several is taken from the one its index names.

    Raises:
        CheckpointError: a shard is damaged, or lacks what the index says it holds (named).
    """
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        for name, tensor in (read_header if shard.suffix == ".safetensors" else _pickle_tensors)(shard).items():
            if name not in tensors or folder / index.get(name, "") == shard:
                tensors[name] = tensor
    for name, file in index.items():
        if name not in tensors or tensors[name].shard != folder / file:
            raise CheckpointError(f"the index says it holds {name}, but it does not", where=str(folder / file), todo=COPY_AGAIN)
    return tensors


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder.

    Raises:
        CheckpointError: there is no such folder or file, or it is not a JSON object.
    """
    if not folder.exists():
        raise CheckpointError("there is no such folder", where=str(folder), todo="check the path of the model")
    file = folder / "config.json"
    if not folder.is_dir() or not file.is_file():
        todo = "give the folder that holds config.json and the weights"
        raise CheckpointError("this is not a model folder: it has no config.json", where=str(folder), todo=todo)
    body = read_object(file)
    if "model_type" not in body and "architectures" not in body:
        raise CheckpointError(
            "it names neither model_type nor architectures", where=str(file), todo="restore the original config.json"
        )
    return body


def read_header(shard: Path) -> dict[str, Tensor]:
    """The tensors of one safetensors file, from its header alone.

    Raises:
        CheckpointError: the file is missing, cut short, or its header cannot be read or lies about the data.
    """
    try:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if not 2 <= length <= min(HEADER_LIMIT, max(size - 8, 0)):
                raise _no_header(shard, prefix + file.read(len(LFS_POINTER)))
            header = json.loads(file.read(length).decode("utf-8"))
        tensors, end = _tensors_of(header, shard, 8 + length)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header of the shard is broken ({error})", where=str(shard), todo=COPY_AGAIN) from error
    except OSError as error:
        raise CheckpointError(f"the shard cannot be read ({error.strerror})", where=str(shard), todo=COPY_AGAIN) from error
    if size != 8 + length + end:
        state = "truncated" if size < 8 + length + end else "longer than it should be"
        what = f"the shard is {state}: {size} bytes where its header promises {8 + length + end}"
        raise CheckpointError(what, where=str(shard), todo=COPY_AGAIN)
    return tensors


def _no_header(shard: Path, start: bytes) -> CheckpointError:
    if start.startswith(LFS_POINTER):
        what = "this is the pointer that git leaves in the place of a large file, not the weights"
        return CheckpointError(what, where=str(shard), todo="run `git lfs pull` in the folder")
    return CheckpointError("the shard is truncated or is no safetensors file", where=str(shard), todo=COPY_AGAIN)


def _tensors_of(header: Any, shard: Path, data: int) -> tuple[dict[str, Tensor], int]:
    """The tensors a header lists, and the end of their data in bytes; `data` is where that begins in the file.

    Raises:
        ValueError: an entry is malformed, an offset does not fit the tensor's shape, or tensors overlap or leave a gap.
    """
    if not isinstance(header, dict):
        raise ValueError("it is not a JSON object")
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensors[name] = tensor = _tensor_of(name, entry, shard, data)
        start, stop = entry["data_offsets"]
        if stop - start != tensor.nbytes:
            raise ValueError(f"the offsets of {name} do not fit its shape")
        spans.append((start, stop, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise ValueError(f"the data of {name} does not begin where the tensor before it ends")
        end = stop
    return tensors, end


def _tensor_of(name: str, entry: Any, shard: Path, data: int) -> Tensor:
    if not isinstance(entry, dict):
        raise ValueError(f"the entry of {name} is not a JSON object")
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in ITEM_BITS:
        raise ValueError(f"the dtype of {name} is unknown: {dtype!r}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"the shape or offsets of {name} are not whole numbers")
    return Tensor(name, shard, dtype, tuple(shape), data + offsets[0])


def _are_sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _pickle_tensors(shard: Path) -> dict[str, Tensor]:
    return {name: Tensor(name, shard, *entry) for name, entry in pickled.read_header(shard).items()}


def _shards(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files in order, and the index's {tensor: file} ({} without an index).

    Raises:
        CheckpointError: there are none, or the index names one that is missing.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index_file = folder / f"{single}.index.json"
        if index_file.is_file():
            return indexed(folder, index_file)
        if (folder / single).is_file():
            return [folder / single], {}
    lone = sorted(folder.glob("*.safetensors"))
    if len(lone) == 1 and not PART.search(lone[0].name):
        return lone, {}
    if lone:
        what = f"there are shards ({lone[0].name} ...), but no model.safetensors.index.json that says what they hold"
        raise CheckpointError(what, where=str(folder), todo="copy the index and every shard it names from the original")
    todo = "put model.safetensors, or its shards with their index, into the folder"
    raise CheckpointError("the folder has no weights", where=str(folder), todo=todo)


def indexed(folder: Path, index_file: Path) -> tuple[list[Path], dict[str, str]]:
    """The shards that an index names, and its {tensor: file}.

    Raises:
        CheckpointError: the index is malformed, or a shard is missing.
    """
    index = read_object(index_file).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise CheckpointError("the index has no weight_map", where=str(index_file), todo=COPY_AGAIN)
    for file in index.values():
        if not isinstance(file, str) or not SHARD.fullmatch(file) or ".." in file.split("/"):
            raise CheckpointError(f"the index names {file!r}, which is no shard", where=str(index_file), todo=COPY_AGAIN)
    files = sorted(set(index.values()))
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        what = f"{len(missing)} of {len(files)} shards missing: {', '.join(missing[:5])}{more}"
        raise CheckpointError(what, where=str(folder), todo=COPY_AGAIN)
    return [folder / name for name in files], index


def read_object(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        CheckpointError: it cannot be read, or holds none.
    """
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"it cannot be read ({error.strerror})", where=str(file), todo="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"it is not valid JSON ({error})", where=str(file), todo=COPY_AGAIN) from error
    if not isinstance(body, dict):
        raise CheckpointError("it is not a JSON object", where=str(file), todo=COPY_AGAIN)
    return body
