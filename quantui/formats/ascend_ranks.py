"""Layers that msModelSlim stores for each tensor-parallel rank: the whole weight, and under `tp_list.<rank>` a layer of each.

A rank has its columns of the weight and scales of its own for them and for its part of a static input; the first has the bias.
Of what ranks send one another there are `reduce_scale`, one of each rank or one of all, and `gather_scale`, before the weight.
Where int4 is packed the whole weight is the packed parts side by side. Source: msModelSlim 26.1.0, llm_ptq_tools/simulate_tp.py
and save/complex_quantifier.py, `generate_weight_of_tp_module`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from quantui.checkpoint.files import Tensor
from quantui.errors import CheckpointError
from quantui.formats.ascend_labels import STATIC_INT8, of_rank
from quantui.formats.base import LayerPart, Outline, QuantizedLayer
from quantui.formats.tensors import need, read_tensor
from quantui.numerics.sound import sound_layer

if TYPE_CHECKING:
    import torch

RANKS = ".tp_list."
SENT = re.compile(r"(.*)\.(reduce_scale|gather_scale)(?:\.(\d+))?")
"""Names of scales of what ranks send one another."""


def rank_layers(layer: QuantizedLayer) -> list[QuantizedLayer]:
    """The layer of each rank, by the names they have in the files; none where no ranks are simulated."""
    one = of_rank(layer.outline)
    ranks = layer.codes.shape[1] // one.columns
    if one.columns == layer.codes.shape[1]:
        return []
    parts = {
        "codes": layer.codes.split(one.columns, 1),
        "scale": _dealt(layer.scale, ranks, 1),
        "zero": _dealt(layer.zero, ranks, 1),
        "input_scale": _dealt(layer.input_scale, ranks, 0),
        "input_zero": _dealt(layer.input_zero, ranks, 0),
    }
    made = []
    for rank in range(ranks):
        own = {name: held[rank] if held[rank] is None else held[rank].contiguous() for name, held in parts.items()}
        bias = layer.bias if rank == 0 else None
        name = f"{layer.name}{RANKS}{rank}"
        made.append(replace(layer, name=name, weights=one.weights, inputs=one.inputs, bias=bias, **own))
    return made


def sent_tensors(layer: QuantizedLayer) -> dict[str, torch.Tensor]:
    """The scales of what ranks send one another, by their names."""
    reduce, gather = layer.reduce_scale, layer.gather_scale
    if reduce is None or gather is None:
        return {}
    made = {f"{layer.name}.gather_scale": gather}
    if reduce.shape[0] == 1:
        return made | {f"{layer.name}.reduce_scale": reduce[0]}
    return made | {f"{layer.name}.reduce_scale.{rank}": scale.clone() for rank, scale in enumerate(reduce)}


def sent_of(tensors: Mapping[str, Tensor], layers: Collection[str]) -> dict[str, Tensor]:
    """Those of the scales of what ranks send one another that belong to layers of ranks."""
    found = ((SENT.fullmatch(name), tensor) for name, tensor in tensors.items())
    return {name[0]: tensor for name, tensor in found if name and f"{name[1]}{RANKS}0" in layers}


def _dealt(values: torch.Tensor | None, ranks: int, axis: int) -> Sequence[torch.Tensor | None]:
    """What each rank has of scales; one that stands for all is every rank's."""
    if values is None or values.shape[axis] < ranks:
        return [values] * ranks
    dealt: Sequence[torch.Tensor] = values.chunk(ranks, axis)
    return dealt


def ranks_of(layer: str, names: Iterable[str]) -> list[str]:
    """The layers of the ranks of a layer among others, in their order."""
    found = [name for name in names if name.startswith(f"{layer}{RANKS}")]
    return sorted(found, key=lambda name: (len(name), name))


def joined(
    layer: str, ranks: Sequence[LayerPart], stored: Sequence[Tensor], whole: Tensor, sent: Mapping[str, Tensor]
) -> LayerPart:
    """The layer that ranks share.

    Args:
        stored: the weight of each rank as it stands in the files.
        whole: the one of all.
        sent: scales of what ranks send one another, of this layer and of others, by name.

    Raises:
        CheckpointError: they are not of a scheme that can be dealt, do not make up the whole weight, or one but the first has
            a bias.
    """
    first = ranks[0].outline
    schemes = {(replace(o.weights, symmetric=True), o.inputs, o.rows, o.columns) for o in (part.outline for part in ranks)}
    known = first.weights.kind == "int" and not first.weights.two_stage and not first.weights.sparse
    known = known and not any(part.outline.bias for part in ranks[1:])
    if len(schemes) > 1 or sum(part.shape[-1] for part in stored) != whole.shape[-1] or not known:
        what = (
            f"its {len(ranks)} tensor-parallel ranks are not equal parts of it in one of "
            "W8A8, W8A8_DYNAMIC, W8A16 and W4A16, which alone are read"
        )
        raise CheckpointError(what, where=layer, todo="quantize the model again without simulate_tp")
    symmetric = all(part.outline.weights.symmetric for part in ranks)
    size = first.weights.group_size or first.columns
    weights = replace(first.weights, strategy="group", group_size=size, ranks=len(ranks), symmetric=symmetric)
    inputs = first.inputs
    if inputs == STATIC_INT8:
        inputs = replace(STATIC_INT8, strategy="group", group_size=first.columns)
    outline = replace(first, name=layer, weights=weights, inputs=inputs, columns=first.columns * len(ranks))
    return LayerPart(outline, functools.partial(_load, outline, ranks, sent, str(whole.shard)))


def _load(outline: Outline, ranks: Sequence[LayerPart], sent: Mapping[str, Tensor], where: str, meta: bool) -> QuantizedLayer:
    import torch

    held = [part.load(meta) for part in ranks]

    def by_row(values: torch.Tensor) -> torch.Tensor:
        return (values.reshape(-1, 1) if values.numel() == 1 or values.ndim == 1 else values).expand(outline.rows, -1)

    scales = [by_row(rank.scale) for rank in held if rank.scale is not None]
    zeros = [
        torch.zeros_like(scale) if rank.zero is None else by_row(rank.zero) for rank, scale in zip(held, scales, strict=True)
    ]
    names = [name for name in sorted(sent, key=_place) if name.startswith(f"{outline.name}.reduce_scale")]
    for name in names:
        need(sent[name], "F32", "F16", "BF16", shape=(outline.rows,))
    reduce = [read_tensor(sent[name], meta=meta) for name in names]
    gather = sent.get(f"{outline.name}.gather_scale")
    layer = replace(
        held[0],
        name=outline.name,
        weights=outline.weights,
        inputs=outline.inputs,
        codes=torch.cat([rank.codes for rank in held], 1),
        scale=torch.cat(scales, 1),
        zero=None if outline.weights.symmetric else torch.cat(zeros, 1),
        input_scale=_in_order([rank.input_scale for rank in held]),
        input_zero=_in_order([rank.input_zero for rank in held]),
        quant_bias=None,
        deq_scale=None,
        reduce_scale=torch.stack(reduce) if reduce else None,
        gather_scale=read_tensor(gather, meta=meta) if gather else None,
    )
    return sound_layer(layer, where)


def _place(name: str) -> tuple[int, str]:
    return len(name), name  # of which .10 stands behind .9


def _in_order(values: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    import torch

    there = [value for value in values if value is not None]
    return torch.cat([value.reshape(-1) for value in there]) if there else None
