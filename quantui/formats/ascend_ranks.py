"""Layers that msModelSlim stores for each tensor-parallel rank: the whole weight, and under `tp_list.<rank>` a layer of each.

A rank has its columns of the weight and scales of its own for them and for its part of the input; the first has the bias.
Source: msModelSlim 26.1.0, llm_ptq_tools/save/complex_quantifier.py, `generate_weight_of_tp_module`, without the scales of
`enable_communication_quant` for what ranks send one another, which are not measured here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace

from quantui.errors import CheckpointError
from quantui.formats.ascend_labels import STATIC_INT8
from quantui.formats.base import LayerPart, Outline, QuantizedLayer, Weights

RANKS = ".tp_list."
CHANNEL = Weights(strategy="channel")


def rank_layers(layer: QuantizedLayer) -> list[QuantizedLayer]:
    """The layer of each rank, by the names they have in the files."""
    assert layer.inputs is not None and layer.inputs.group_size is not None  # it is by rank
    assert layer.scale is not None and layer.input_scale is not None
    made = []
    for rank, codes in enumerate(layer.codes.split(layer.inputs.group_size, 1)):
        own = slice(rank, rank + 1)
        made.append(
            replace(
                layer,
                name=f"{layer.name}{RANKS}{rank}",
                weights=CHANNEL,
                inputs=STATIC_INT8,
                codes=codes.contiguous(),
                scale=layer.scale[:, own],
                input_scale=layer.input_scale[own],
                input_zero=None if layer.input_zero is None else layer.input_zero[own],
                bias=layer.bias if rank == 0 else None,
            )
        )
    return made


def ranks_of(layer: str, names: Iterable[str]) -> list[str]:
    """The layers of the ranks of a layer among others, in their order."""
    found = [name for name in names if name.startswith(f"{layer}{RANKS}")]
    return sorted(found, key=lambda name: (len(name), name))


def joined(layer: str, ranks: Sequence[LayerPart], columns: int) -> LayerPart:
    """The layer that ranks share.

    Args:
        columns: of its whole weight.

    Raises:
        CheckpointError: they are not W8A8, or do not make up the whole weight.
    """
    first = ranks[0].outline
    for part in ranks:
        outline = part.outline
        alike = (outline.weights, outline.inputs, outline.rows) == (first.weights, first.inputs, first.rows)
        if not alike or outline.columns * len(ranks) != columns or outline.inputs != STATIC_INT8 or outline.weights.sparse:
            what = (
                f"its {len(ranks)} tensor-parallel ranks are not equal parts of {columns} columns in W8A8, which alone are read"
            )
            raise CheckpointError(what, where=part.name, todo="quantize the model again without simulate_tp")
    weights = replace(first.weights, strategy="group", group_size=first.columns)
    inputs = replace(STATIC_INT8, strategy="group", group_size=first.columns)
    outline = replace(first, name=layer, weights=weights, inputs=inputs, columns=columns)
    return LayerPart(outline, functools.partial(_load, outline, ranks))


def _load(outline: Outline, ranks: Sequence[LayerPart], meta: bool) -> QuantizedLayer:
    import torch

    held = [part.load(meta) for part in ranks]
    return replace(
        held[0],
        name=outline.name,
        weights=outline.weights,
        inputs=outline.inputs,
        codes=torch.cat([rank.codes for rank in held], 1),
        scale=torch.cat([rank.scale.reshape(-1, 1).expand(outline.rows, 1) for rank in held if rank.scale is not None], 1),
        input_scale=torch.cat([rank.input_scale for rank in held if rank.input_scale is not None]),
        input_zero=torch.cat([rank.input_zero for rank in held if rank.input_zero is not None]),
        quant_bias=None,
        deq_scale=None,
    )
