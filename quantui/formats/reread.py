"""Whether a written folder holds what its source held: every layer dequantized, every other tensor byte for byte."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from quantui.errors import ResultError
from quantui.formats.base import LayerPart, OpenFolder, QuantizedLayer, TensorPart
from quantui.formats.stream import CONVERTED, ROWS, run_all
from quantui.formats.tensors import read_pieces

if TYPE_CHECKING:
    from torch import Tensor

RELATIVE = 2.0**-9
"""How far a weight may be off, as a share of itself: scales rounded to float16 or bfloat16 are off by half of this."""

ROWS_ELEMENTS = 1 << 22
"""Elements that are dequantized at once."""

SCALES = ("scale", "zero", "second", "divisor", "group_index")


def compare(source: OpenFolder, written: OpenFolder, told: Callable[[int, int], None] | None = None) -> float:
    """Compares every layer and tensor; returns the largest deviation of a weight, as a share of itself.

    Raises:
        ResultError: one is missing or another (named).
    """
    before = {part.name: part for part in source.parts}
    after = {part.name: part for part in written.parts}
    if missing := [name for name in before if name not in after]:
        raise ResultError("it is missing in what was written", where=missing[0], todo="please report this")
    off: list[float] = []
    done = 0

    def one(name: str) -> None:
        nonlocal done
        old, new = before[name], after[name]
        if isinstance(old, LayerPart) and isinstance(new, LayerPart):
            off.append(0.0 if _same(old, new) else _layer(old.load(False), new.load(False)))
        elif isinstance(old, TensorPart) and isinstance(new, TensorPart):
            _tensor(old, new)
        else:
            raise ResultError("it is quantized on one side only", where=name, todo="please report this")
        done += 1
        if told is not None:
            told(done, len(before))

    run_all(functools.partial(one, name) for name in before)
    _caches(source, written)
    return max(off, default=0.0)


def _same(old: LayerPart, new: LayerPart) -> bool:
    """Whether two layers are the same code for code and scale for scale, as far as that is seen without unpacking."""

    if old.light is None or new.light is None or old.outline.weights.kind != new.outline.weights.kind:
        return False
    one, two = old.light(), new.light()
    if not _equal(one.bias, two.bias, exact=False) or not all(_equal(getattr(one, f), getattr(two, f)) for f in SCALES):
        return False
    if one.codes.shape != two.codes.shape:
        return False
    if old.stored is not None and new.stored is not None:
        pieces = zip(read_pieces(old.stored), read_pieces(new.stored), strict=True)
    elif old.words is not None and new.words is not None:
        pieces = zip(old.words(ROWS), new.words(ROWS), strict=True)
    else:
        return False
    return all(_identical(a, b) for a, b in pieces)


def _layer(old: QuantizedLayer, new: QuantizedLayer) -> float:

    if old.codes.shape != new.codes.shape:
        what = f"it was {tuple(old.codes.shape)} and came back as {tuple(new.codes.shape)}"
        raise ResultError(what, where=old.name, todo="please report this")
    if _equal(old.bias, new.bias, exact=False) is False:
        raise ResultError("its bias came back otherwise", where=old.name, todo="please report this")
    same = _identical(old.codes, new.codes) and old.weights.kind == new.weights.kind
    if same and (old.scale is None or all(_equal(getattr(old, field), getattr(new, field)) for field in SCALES)):
        return 0.0
    limit = RELATIVE * (2 if old.weights.sparse else 1)  # W8A8S keeps a product that is rounded once more
    worst = 0.0
    for one, two in zip(_pieces(old), _pieces(new), strict=True):
        wanted, off = one.dequantize(), two.dequantize()
        size = wanted.abs()
        off.sub_(wanted).abs_()
        if not bool((off <= limit * size).all()):  # nor NaN
            share = float((off / size.clamp_(min=1e-30)).max())
            raise ResultError(f"a weight came back {share:.2%} of itself off", where=old.name, todo="please report this")
        worst = max(worst, float((off / size.clamp_(min=1e-30)).max()))
    return worst


def _identical(old: Tensor, new: Tensor) -> bool:
    """Whether two tensors of one shape hold the same bytes; numpy compares those seven times as fast as torch does."""
    import numpy as np
    import torch

    return np.array_equal(*(values.contiguous().view(torch.uint8).numpy() for values in (old, new)))


def _equal(old: Tensor | None, new: Tensor | None, *, exact: bool = True) -> bool:
    """Whether two tensors hold the same numbers; a missing one is all zeros."""
    if old is None or new is None:
        other = new if old is None else old
        return other is None or not bool(other.any())
    if old.numel() != new.numel():
        return False
    one, two = old.double().reshape(-1), new.double().reshape(-1)
    return bool((one == two).all()) if exact else bool(((one - two).abs() <= RELATIVE * one.abs() + 1e-7).all())


def _pieces(layer: QuantizedLayer) -> Iterator[QuantizedLayer]:
    """The layer, some rows at a time."""
    rows, columns = layer.codes.shape
    step = max(ROWS_ELEMENTS // columns, 1)
    if layer.weights.kind == "nf4" or layer.weights.strategy == "block" or step >= rows:
        yield layer
        return
    for start in range(0, rows, step):
        cut = slice(start, start + step)
        held = {field: getattr(layer, field) for field in ("scale", "zero", "second", "deq_scale")}
        parts = {f: t[cut] if t is not None and t.ndim and t.shape[0] == rows else t for f, t in held.items()}
        yield replace(layer, codes=layer.codes[cut], **parts)


def _tensor(old: TensorPart, new: TensorPart) -> None:

    if old.tensor.shape != new.tensor.shape:
        raise ResultError("it came back in another shape", where=old.name, todo="please report this")
    for one, two in zip(read_pieces(old.tensor, CONVERTED), read_pieces(new.tensor, CONVERTED), strict=True):
        wanted = one if one.dtype == two.dtype else one.float().to(two.dtype)  # as stream makes them
        if not _identical(wanted, two):
            raise ResultError("it came back otherwise than it was", where=old.name, todo="please report this")


def _caches(source: OpenFolder, written: OpenFolder) -> None:
    after = {cache.name: cache for cache in written.caches}
    for cache in source.caches:
        other = after.get(cache.name)
        fields = ("key_scale", "value_scale", "key_zero", "value_zero")
        if other is None or not all(_equal(getattr(cache, f), getattr(other, f), exact=False) for f in fields):
            raise ResultError("the scales of its K/V cache came back otherwise", where=cache.name, todo="please report this")
