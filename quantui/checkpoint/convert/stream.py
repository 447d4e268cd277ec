"""The bytes of a move: read from the source in pieces, computed where the dtype changes, and hashed.

Memory stays at a few CHUNKs however large a tensor is; only of a pickled tensor that is not contiguous all is read at once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy
import xxhash

from quantui.checkpoint.convert.layout import Rows
from quantui.checkpoint.convert.plan import TORCH_DTYPES, Move
from quantui.checkpoint.files import ITEM_BITS, Checkpoint, Tensor
from quantui.checkpoint.inspect import section
from quantui.checkpoint.write import Chunk, Origin, Span
from quantui.errors import CheckpointError

CHUNK = 1 << 20
"""Bytes that are read at once: few enough to stay in the processor's cache until they are hashed."""

SPAN = 64 << 20
"""Bytes that the kernel is asked to copy at once, so that progress can be told in between."""


class Source:
    """The tensors of a checkpoint, read by rows; a context manager that closes its files."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._tensors = checkpoint.tensors
        blocks = section(checkpoint.config, "quantization_config").get("weight_block_size")
        self._blocks = tuple(blocks) if isinstance(blocks, list) else (128, 128)
        self._files: dict[Path, int] = {}
        self._of_thread = threading.local()

    def __enter__(self) -> Source:
        for tensor in self._tensors.values():
            if tensor.shard not in self._files:
                self._files[tensor.shard] = os.open(tensor.shard, os.O_RDONLY)
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def origin(self, move: Move) -> Origin:
        """Where the first byte of a target tensor is read."""
        rows = move.parts[0]
        tensor = self._tensors[rows.tensor]
        return Origin(tensor.shard, _span(tensor, rows)[0])

    def pieces(self, move: Move) -> Iterator[Chunk | Span]:
        """What a target tensor is written from: spans of the source's files where bytes move as they are, else chunks."""
        for rows in move.parts:
            tensor = self._tensors[rows.tensor]
            if tensor.dtype != move.target.dtype or tensor.stride is not None:
                yield from self._values(rows, move)
                continue
            start, length = _span(tensor, rows)
            while length:
                size = min(length, SPAN)
                yield Span(self._files[tensor.shard], start, size)
                start, length = start + size, length - size

    def stream(self, move: Move) -> Iterator[Chunk]:
        """The bytes of a target tensor, in chunks that the next one overwrites.

        Raises:
            CheckpointError: a shard became shorter than it was.
        """
        for rows in move.parts:
            yield from self._values(rows, move)

    def _values(self, rows: Rows, move: Move) -> Iterator[Chunk]:
        same = self._tensors[rows.tensor].dtype == move.target.dtype
        yield from self.raw(rows) if same else self._computed(rows, move)

    def raw(self, rows: Rows) -> Iterator[Chunk]:
        """The bytes of some rows as they are stored."""
        tensor = self._tensors[rows.tensor]
        if tensor.stride is not None:
            yield from self._gathered(tensor, rows, tensor.stride)
            return
        yield from self._range(tensor.shard, *_span(tensor, rows))

    def _gathered(self, tensor: Tensor, rows: Rows, stride: tuple[int, ...]) -> Iterator[Chunk]:
        """Rows of a tensor whose elements do not lie one behind the other, a few at a time."""
        item, count = ITEM_BITS[tensor.dtype] // 8, rows.stop - rows.start
        shape, steps = (count, *tensor.shape[1:]), tuple(step * item for step in stride)
        length = sum((size - 1) * step for size, step in zip(shape, steps, strict=True)) + item
        region = self._range(tensor.shard, tensor.offset + rows.start * steps[0], length)
        data = bytearray().join(bytes(chunk) for chunk in region)
        values: Any = numpy.ndarray(shape, dtype=f"u{item}", buffer=data, strides=steps)
        few = max(CHUNK // (prod(shape[1:]) * item), 1)
        for begin in range(0, count, few):
            rows_here: Any = numpy.ascontiguousarray(values[begin : begin + few])
            yield memoryview(rows_here.view(numpy.uint8).reshape(-1))

    def digest(self, name: str, told: Callable[[int], None] = lambda size: None) -> str:
        """xxh3_128 of one tensor's bytes, in hexadecimal; `told` hears of every chunk's size."""
        tensor = self._tensors[name]
        hashed = xxhash.xxh3_128()
        for chunk in self.raw(Rows(name, 0, tensor.shape[0] if tensor.shape else 1)):
            hashed.update(chunk)
            told(len(chunk))
        return hashed.hexdigest()

    def _range(self, shard: Path, start: int, length: int) -> Iterator[Chunk]:
        file, buffer = self._files[shard], self._buffer()
        while length:
            got = os.preadv(file, [buffer[: min(length, CHUNK)]], start)
            if not got:
                raise CheckpointError("the shard became shorter while it was read", where=str(shard), todo="start again")
            yield buffer[:got]
            start, length = start + got, length - got

    def _buffer(self) -> memoryview:
        """The calling thread's own."""
        if not hasattr(self._of_thread, "buffer"):
            self._of_thread.buffer = memoryview(bytearray(CHUNK))
        buffer: memoryview = self._of_thread.buffer
        return buffer

    def _computed(self, rows: Rows, move: Move) -> Iterator[Chunk]:
        """Rows in another dtype, scaled where the move names a scale."""
        import torch

        tensor = self._tensors[rows.tensor]
        width = prod(tensor.shape[1:])
        step = max(4 * CHUNK // max(width, 1), 1)
        scale = self.tensor(move.scale) if move.scale else None
        if scale is not None:
            step = max(step // self._blocks[0], 1) * self._blocks[0]
        target = getattr(torch, TORCH_DTYPES[move.target.dtype])
        for begin in range(rows.start, rows.stop, step):
            values = self.tensor(rows.tensor, begin, min(begin + step, rows.stop)).to(torch.float32)  # (rows, ...)
            if scale is not None:
                values *= _spread(scale, begin, values.shape, self._blocks)
            made = values.to(target)
            if target is torch.float16 and not torch.equal(made.isfinite(), values.isfinite()):
                what = f"{rows.tensor} holds values that fp16 has no room for: they end at 65504"
                raise CheckpointError(what, where=str(tensor.shard), todo="convert it to bf16")
            yield memoryview(made.contiguous().view(torch.uint8).numpy().reshape(-1))

    def floats(self, name: str) -> Any:
        """A source tensor as float32, with its block scales applied where it has any."""
        import torch

        values = self.tensor(name).to(torch.float32)
        scale = f"{name}_scale_inv"
        if self._tensors[name].dtype == "F8_E4M3" and scale in self._tensors:
            values *= _spread(self.tensor(scale), 0, values.shape, self._blocks)
        return values

    def tensor(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        """Some rows of a source tensor as a torch tensor (rows, ...); a scalar is (1,)."""
        import torch

        tensor = self._tensors[name]
        rows = tensor.shape[0] if tensor.shape else 1
        data = bytearray().join(bytes(chunk) for chunk in self.raw(Rows(name, start, rows if stop is None else stop)))
        dtype = getattr(torch, TORCH_DTYPES[tensor.dtype])
        return torch.frombuffer(data, dtype=dtype).reshape(-1, *tensor.shape[1:]) if data else torch.empty(0, dtype=dtype)


def _span(tensor: Tensor, rows: Rows) -> tuple[int, int]:
    """Where some rows of a contiguous tensor begin in its file, and how many bytes they have."""
    width = prod(tensor.shape[1:]) * ITEM_BITS[tensor.dtype] // 8
    return tensor.offset + rows.start * width, (rows.stop - rows.start) * width


def _spread(scale: Any, row: int, shape: Any, blocks: tuple[int, ...]) -> Any:
    """The block scales (rows / block, columns / block) of some rows as a factor for each of their values (rows, columns).

    `row` is the first of them, at the beginning of a block.
    """
    import torch

    first, last = row // blocks[0], -(-(row + shape[0]) // blocks[0])
    tall = scale[first:last].to(torch.float32).repeat_interleave(blocks[0], 0)[: shape[0]]
    return tall.repeat_interleave(blocks[1], 1)[:, : shape[1]]
