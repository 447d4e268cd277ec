"""Writing the parts of an open folder as tensors of another format, a few layers in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.write import Entry
from quantui.errors import OutputError
from quantui.formats.base import LayerPart, OpenFolder, QuantizedLayer, TensorPart
from quantui.formats.shards import Naming, ShardFiles, model_name, split
from quantui.formats.tensors import FLOATS, NAMES, STORED, read_pieces, stored_name, torch_dtype

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WORKERS = 2
"""Layers that are worked on at once, which bounds the memory: each is read, packed and written by one thread."""

CONVERTED = 1 << 18
"""Elements converted to another dtype at once: few enough to stay in the processor's cache."""

ROWS = 1024
"""Rows of packed codes read at once."""

Words = Callable[[int], Iterator["Tensor"]]
"""See `LayerPart.words`."""

Named = dict[str, "Tensor"]
"""Tensors by their full names, in the order in which the format writes them."""


@dataclass(frozen=True)
class Emission:
    """What a format makes of a model.

    Attributes:
        layer: the tensors of a quantized layer; also called with a layer on the meta device.
        before: further tensors that stand right before those of the module of this name (scales of a K/V cache).
        after: further tensors that stand right behind the weight of an untouched module.
        float_dtype: the dtype that untouched tensors of floating point are converted to; None leaves each as it is.
        naming: what shards are called.
        full_at_limit: see `shards.split`.
        part_bytes: most bytes of a shard.
        metadata: of every header.
        rename: the name of an untouched tensor.
        light: whether a layer may be given without its codes: what then stays on the meta device is copied from their file,
            or comes from `packed`.
        packed: what is stored of codes whose words a folder has, flattened, in pieces.
    """

    layer: Callable[[QuantizedLayer], Named]
    before: dict[str, Named]
    after: dict[str, Named] = field(default_factory=dict)
    float_dtype: str | None = None
    naming: Naming = model_name
    full_at_limit: bool = False
    part_bytes: int | None = None
    metadata: dict[str, str] | None = None
    rename: Callable[[str], str] = lambda name: name
    light: Callable[[LayerPart], bool] = lambda part: False
    packed: Callable[[LayerPart, Words], Iterator[Tensor]] = lambda part, words: words(ROWS)


def emit(source: OpenFolder, folder: Path, emission: Emission) -> tuple[list[Entry], ShardFiles]:
    """Writes every tensor; returns them in the order of the model, and where they went.

    Raises:
        OutputError: a tensor does not fit what was announced.
    """
    made: list[tuple[LayerPart | TensorPart | Named, list[Entry]]] = []
    before = dict(emission.before)
    for part in source.parts:
        owner = part.name if isinstance(part, LayerPart) else part.name.rpartition(".")[0]
        if named := before.pop(owner, None):
            made.append((named, [entry_of(name, tensor) for name, tensor in named.items()]))
        made.append((part, _entries(part, emission)))
        if named := emission.after.get(owner) if part.name.endswith(".weight") else None:
            made.append((named, [entry_of(name, tensor) for name, tensor in named.items()]))
    made += [(named, [entry_of(name, tensor) for name, tensor in named.items()]) for named in before.values()]
    entries = [entry for _, group in made for entry in group]
    groups = split(entries, emission.part_bytes, full_at_limit=emission.full_at_limit)
    with ShardFiles(folder, groups, emission.naming, emission.metadata) as files:
        work = ((lambda part=part, group=group: _write(part, group, files, emission)) for part, group in made)
        run_all(work)
    return entries, files


def _entries(part: LayerPart | TensorPart, emission: Emission) -> list[Entry]:
    if isinstance(part, LayerPart):
        return [entry_of(name, tensor) for name, tensor in emission.layer(part.load(True)).items()]
    tensor = part.tensor
    dtype = STORED[emission.float_dtype] if emission.float_dtype and NAMES.get(tensor.dtype) in FLOATS else tensor.dtype
    return [Entry(emission.rename(tensor.name), dtype, tensor.shape)]


def entry_of(name: str, tensor: Tensor) -> Entry:
    """Where a tensor that is at hand goes by name, dtype and shape."""
    return Entry(name, stored_name(tensor), tuple(tensor.shape))


def _write(part: LayerPart | TensorPart | Named, group: list[Entry], files: ShardFiles, emission: Emission) -> None:
    if isinstance(part, dict):
        for name, tensor in part.items():
            files.put(name, tensor)
    elif isinstance(part, LayerPart):
        layer = part.light() if part.light is not None and emission.light(part) else part.load(False)
        for name, tensor in emission.layer(layer).items():
            if not tensor.is_meta:
                files.put(name, tensor)
            elif part.stored is not None:
                files.copy(name, part.stored)
            elif part.words is not None:
                files.put_pieces(name, emission.packed(part, part.words))
    elif group[0].dtype == part.tensor.dtype:
        files.copy(group[0].name, part.tensor)
    else:
        dtype = torch_dtype(NAMES[group[0].dtype])
        files.put_pieces(group[0].name, (_converted(piece, dtype, part.name) for piece in read_pieces(part.tensor, CONVERTED)))


def _converted(piece: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """Some values in another dtype.

    Raises:
        OutputError: one of them is too large for it.
    """
    made = piece.float().to(dtype)  # half the time of going from bfloat16 to float16 at once
    low, high = (float(end) for end in made.aminmax())
    if not (math.isfinite(low) and math.isfinite(high)) and not bool((made.isfinite() == piece.isfinite()).all()):
        what = f"{name} has values that {str(dtype).removeprefix('torch.')} cannot hold, which this format is stored in"
        raise OutputError(what, todo="choose another format")
    return made


def run_all(work: Iterator[Callable[[], Any]]) -> None:
    """Every piece of work, WORKERS at a time; the first error ends the rest."""
    with ThreadPoolExecutor(WORKERS) as pool:
        running: set[Future[Any]] = set()
        try:
            for piece in work:
                running.add(pool.submit(piece))
                if len(running) > WORKERS:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            for future in running:
                future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
