"""A model folder on disk: config.json, shards, their index and tensor headers. Reads no tensor and imports no torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from quantui.checkpoint import pickled
from quantui.errors import CheckpointError

ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element by the dtype names of safetensors headers."""

HEADER_LIMIT = 100_000_000
"""Largest header the safetensors format allows, in bytes."""

COPY_AGAIN = "copy or download the file again"


@dataclass(frozen=True)
class Tensor:
    """One tensor of a shard. `dtype` is the name safetensors uses ("BF16"); `shape` is as stored."""

    name: str
    shard: Path
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.elements * ITEM_BYTES[self.dtype]


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
    is_pickled = shards[0].suffix != ".safetensors"
    tensors: dict[str, Tensor] = {}
    for shard in shards:
        tensors |= _pickle_tensors(shard) if is_pickled else read_header(shard)
    for name, file in index.items():
        if name not in tensors or tensors[name].shard.name != file:
            raise CheckpointError(f"the index says it holds {name}, but it does not", where=str(folder / file), todo=COPY_AGAIN)
    return Checkpoint(folder, config, tensors, is_pickled)


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
    body = _read_json(file)
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
                raise CheckpointError("the shard is truncated or is no safetensors file", where=str(shard), todo=COPY_AGAIN)
            header = json.loads(file.read(length))
        tensors, end = _tensors_of(header, shard)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the header of the shard is broken ({error})", where=str(shard), todo=COPY_AGAIN) from error
    except OSError as error:
        raise CheckpointError(f"the shard cannot be read ({error.strerror})", where=str(shard), todo=COPY_AGAIN) from error
    if size != 8 + length + end:
        what = f"the shard is truncated: {size} bytes where its header promises {8 + length + end}"
        raise CheckpointError(what, where=str(shard), todo=COPY_AGAIN)
    return tensors


def _tensors_of(header: Any, shard: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors a header lists, and the end of their data in bytes.

    Raises:
        ValueError: an offset does not fit the tensor's shape, or tensors overlap or leave a gap.
    """
    tensors: dict[str, Tensor] = {}
    spans: list[tuple[int, int, str]] = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        tensor = Tensor(name, shard, entry["dtype"], tuple(int(n) for n in entry["shape"]))
        start, stop = entry["data_offsets"]
        if tensor.dtype in ITEM_BYTES and stop - start != tensor.nbytes:
            raise ValueError(f"the offsets of {name} do not fit its shape")
        tensors[name] = tensor
        spans.append((start, stop, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise ValueError(f"the data of {name} does not begin where the tensor before it ends")
        end = stop
    return tensors, end


def _pickle_tensors(shard: Path) -> dict[str, Tensor]:
    return {name: Tensor(name, shard, dtype, shape) for name, (dtype, shape) in pickled.read_header(shard).items()}


def _shards(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """The weight files in order, and the index's {tensor: file} ({} without an index).

    Raises:
        CheckpointError: there are none, or the index names one that is missing.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index_file = folder / f"{single}.index.json"
        if index_file.is_file():
            index = _read_json(index_file).get("weight_map")
            if not isinstance(index, dict) or not index:
                raise CheckpointError("the index has no weight_map", where=str(index_file), todo=COPY_AGAIN)
            files = sorted(set(index.values()))
            missing = [name for name in files if not (folder / name).is_file()]
            if missing:
                raise CheckpointError(
                    f"{len(missing)} of {len(files)} shards missing: {', '.join(missing)}", where=str(folder), todo=COPY_AGAIN
                )
            return [folder / name for name in files], index
        if (folder / single).is_file():
            return [folder / single], {}
    lone = sorted(folder.glob("*.safetensors"))
    if len(lone) == 1:
        return lone, {}
    todo = "put model.safetensors, or its shards with their index, into the folder"
    raise CheckpointError("the folder has no weights", where=str(folder), todo=todo)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"it cannot be read ({error.strerror})", where=str(file), todo="check its permissions") from error
    except ValueError as error:
        raise CheckpointError(f"it is not valid JSON ({error})", where=str(file), todo=COPY_AGAIN) from error
    if not isinstance(body, dict):
        raise CheckpointError("it is not a JSON object", where=str(file), todo=COPY_AGAIN)
    return body
