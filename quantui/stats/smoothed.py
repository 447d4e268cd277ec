"""A layer's input after SmoothQuant, from the table's ranges and the model's weights on disk. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantui.checkpoint.columns import column_absmax
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import weight_tensors
from quantui.errors import CheckpointError
from quantui.numerics.smoothing import smoothing_scales
from quantui.stats.table import Array, Layer, StatsTable

AFTER_NORM = ("q", "k", "v", "qkv", "gate", "up", "gate_up")
"""Kinds whose input comes from a norm, which takes the scales in without a change of the result."""


@dataclass(frozen=True)
class Smoothed:
    """A layer's input before and after.

    Attributes:
        scales: (channels,) what the input is divided by.
        low, high: (channels,) range after.
        weight_before, weight_after: (channels,) largest magnitude of each weight column, over all layers of this input.
        usual: whether the usual mappings smooth this layer at all.
    """

    scales: Array
    low: Array
    high: Array
    weight_before: Array
    weight_after: Array
    usual: bool


def sharing(table: StatsTable, name: str) -> tuple[Layer, ...]:
    """The layers that read the same input, this one included."""
    site = table.entries[name, "input"]
    return tuple(layer for layer in table.layers if table.entries.get((layer.name, "input")) == site)


def smoothed(table: StatsTable, name: str, weight_absmax: Array, strength: float) -> Smoothed:
    """The input of a layer after smoothing.

    Args:
        weight_absmax: (channels,) as `weight_columns` gives it.
        strength: 0 to 1.
    """
    low, high = table.stat(name, "input", "min"), table.stat(name, "input", "max")
    scales = smoothing_scales(high - low, weight_absmax, strength)
    layer = next(one for one in table.layers if one.name == name)
    return Smoothed(scales, low / scales, high / scales, weight_absmax, weight_absmax * scales, layer.place.kind in AFTER_NORM)


def weight_columns(model: Path, layers: Sequence[Layer]) -> Array:
    """The largest magnitude of each column in any of these layers' weights, read from the model folder.

    Returns:
        (channels,) float32.

    Raises:
        CheckpointError: the folder or a weight is no longer there.
    """
    tensors = dict(weight_tensors(open_checkpoint(model)))
    found = []
    for layer in layers:
        tensor = tensors.get(layer.name)
        if tensor is None:
            what = f"the model folder has no tensor {layer.name}.weight, so smoothing cannot be shown"
            raise CheckpointError(what, where=str(model), todo="choose a layer that is stored on its own")
        found.append(column_absmax(tensor))
    return np.asarray(np.max(found, axis=0))
