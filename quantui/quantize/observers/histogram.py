"""The observers histogram (msModelSlim's act_method 2) and auto (act_method 3), for static activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from llmcompressor.observers.base import Observer

from quantui.devices import widest_float
from quantui.numerics.histogram import Histogram

PEAKED = 50.0
"""Reach over standard deviation from which `auto` keeps the extremes. Source: msModelSlim, llm_ptq_tools/quant_modules.py."""


@Observer.register("histogram")
class HistogramObserver(Observer):
    """One range for the tensor, or for each of its groups, cut where that loses least."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.histograms: list[Histogram] = []

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Counts the values; observed is (observations, *scales, values)."""
        shape = observed.shape[1:-1]
        self.histograms = self.histograms or [Histogram() for _ in range(shape.numel())]
        for histogram, values in zip(self.histograms, observed.flatten(1, -2).unbind(1), strict=True):
            histogram.add(values)
        self._device, self._dtype = observed.device, observed.dtype
        self.min_vals = self.max_vals = torch.zeros(shape, device=observed.device, dtype=observed.dtype)

    def get_qparams(self) -> Any:
        """Scale and zero point of the best range."""
        ends = torch.tensor([self.ends(number) for number in range(len(self.histograms))], dtype=torch.float64).to(
            self.min_vals
        )
        self.min_vals, self.max_vals = (side.reshape(self.min_vals.shape) for side in ends.unbind(1))
        self.histograms = []
        return super().get_qparams()

    def ends(self, number: int) -> tuple[float, float]:
        """The chosen range of a group."""
        return self.histograms[number].best_range(self.args.num_bits)


@Observer.register("auto")
class AutoObserver(HistogramObserver):
    """The best cut, or the extremes where values reach far beyond their spread, which is where outliers matter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sums: Any = 0.0

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Counts the values and sums them."""
        super().update_statistics_from_observed(observed)
        values = observed.detach().flatten(1, -2)
        values = values.to(widest_float(values.device))
        counts = values.new_full(values.shape[1:2], values.shape[0] * values.shape[2])
        self.sums = self.sums + torch.stack((counts, values.sum((0, 2)), values.square().sum((0, 2)))).cpu().double()

    def get_qparams(self) -> Any:
        """Scale and zero point of the best range."""
        found = super().get_qparams()
        self.sums = 0.0
        return found

    def ends(self, number: int) -> tuple[float, float]:
        """The chosen range of a group."""
        count, total, squares = self.sums[:, number].tolist()
        mean = total / count
        deviation = math.sqrt(max(squares / count - mean**2, 0.0))
        low, high = self.histograms[number].low, self.histograms[number].high
        if deviation and max(-low, high) / deviation > PEAKED:
            return low, high
        return super().ends(number)
