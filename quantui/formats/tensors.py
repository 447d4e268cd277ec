"""Tensors of safetensors files as torch tensors, read one by one without holding the file."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.files import COPY_AGAIN, Tensor
from quantui.errors import CheckpointError

if TYPE_CHECKING:
    import torch

NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32", "I16": "int16",
    "I8": "int8", "U8": "uint8", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""The dtype names of safetensors headers, as torch calls them."""

STORED = {name: stored for stored, name in NAMES.items()}
FLOATS = ("float64", "float32", "float16", "bfloat16")


def torch_dtype(name: str) -> torch.dtype:
    """The dtype that torch calls so."""
    import torch

    made: torch.dtype = getattr(torch, name)
    return made


def stored_name(tensor: torch.Tensor) -> str:
    """What safetensors calls the dtype of a tensor."""
    return STORED[str(tensor.dtype).removeprefix("torch.")]


def need(entry: Tensor, *dtypes: str, shape: tuple[int, ...] | None = None, why: str = "") -> None:
    """Refuses a tensor that is not what is about to be unpacked.

    Args:
        dtypes: those that it may have, as safetensors calls them.
        shape: that it has to have; None is any of two dimensions.
        why: what asks for that, "for groups of 64".

    Raises:
        CheckpointError: it has another dtype or shape.
    """
    fits = entry.shape == shape if shape else len(entry.shape) == 2 and entry.elements
    if entry.dtype not in dtypes or not fits:
        wanted = shape or "of two dimensions"
        what = f"{entry.name} is {entry.dtype} {entry.shape}, where {' or '.join(dtypes)} {wanted} belongs{why and ' '}{why}"
        raise CheckpointError(what, where=str(entry.shard), todo="copy the files again, or quantize the model again")


def named_dtype(config: Mapping[str, Any], tensors: Iterable[Tensor]) -> str:
    """The dtype of the float model: what its config names, else what most of these tensors have."""
    for key in ("dtype", "torch_dtype"):
        if (named := str(config.get(key)).removeprefix("torch.")) in FLOATS:
            return named
    floats = [NAMES[tensor.dtype] for tensor in tensors if NAMES.get(tensor.dtype) in FLOATS]
    return max(dict.fromkeys(floats), key=floats.count) if floats else "float32"


def read_tensor(entry: Tensor, *, meta: bool = False) -> torch.Tensor:
    """One tensor; with meta only its shape and dtype.

    Raises:
        CheckpointError: the file ends early, or has a dtype that torch has not.
    """
    import torch

    dtype = _dtype(entry)
    if meta:
        return torch.empty(entry.shape, dtype=dtype, device="meta")
    return _bytes(entry, 0, entry.nbytes).view(dtype).reshape(entry.shape)


def read_pieces(entry: Tensor, elements: int = 1 << 22) -> Iterator[torch.Tensor]:
    """One tensor, flattened, some elements at a time; they stay in the file, and memory is taken where one is written to.

    Raises:
        CheckpointError: as `read_tensor`.
    """
    dtype = _dtype(entry)
    size = elements * dtype.itemsize
    for start in range(0, entry.nbytes, size):
        yield _mapped(entry, start, min(size, entry.nbytes - start)).view(dtype)


def _dtype(entry: Tensor) -> torch.dtype:
    if entry.dtype not in NAMES:
        what, todo = f"{entry.name} has the dtype {entry.dtype}, which cannot be read", "quantize the model again"
        raise CheckpointError(what, where=str(entry.shard), todo=todo)
    return torch_dtype(NAMES[entry.dtype])


def _bytes(entry: Tensor, start: int, count: int) -> torch.Tensor:
    import torch

    raw = torch.empty(count, dtype=torch.uint8)
    with entry.shard.open("rb", buffering=0) as file:
        file.seek(entry.offset + start)
        view, done = memoryview(raw.numpy()), 0
        while done < count:
            got = file.readinto(view[done:])
            if not got:
                raise CheckpointError(f"the shard ends within {entry.name}", where=str(entry.shard), todo=COPY_AGAIN)
            done += got
    return raw


def _mapped(entry: Tensor, start: int, count: int) -> torch.Tensor:
    import torch

    before = (entry.offset + start) % mmap.ALLOCATIONGRANULARITY
    with entry.shard.open("rb", buffering=0) as file:
        try:
            held = mmap.mmap(file.fileno(), before + count, access=mmap.ACCESS_COPY, offset=entry.offset + start - before)
        except ValueError as error:
            raise CheckpointError(f"the shard ends within {entry.name}", where=str(entry.shard), todo=COPY_AGAIN) from error
    return torch.frombuffer(held, dtype=torch.uint8, count=count, offset=before)
