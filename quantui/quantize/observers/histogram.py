"""The observers histogram (msModelSlim's act_method 2) and auto (act_method 3), for static activations."""

from __future__ import annotations

import math
from typing import Any

import torch
from llmcompressor.observers.base import Observer

from quantui.numerics.histogram import Histogram

PEAKED = 50.0
"""Reach over standard deviation from which `auto` keeps the extremes. Source: msModelSlim, llm_ptq_tools/quant_modules.py."""


@Observer.register("histogram")
class HistogramObserver(Observer):
    """One range for the tensor, cut where that loses least."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.histogram = Histogram()

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Counts the values; observed is (observations, *scales, values)."""
        self.histogram.add(observed)
        self._device, self._dtype = observed.device, observed.dtype
        self.min_vals = self.max_vals = torch.zeros(observed.shape[1:-1], device=observed.device, dtype=observed.dtype)

    def get_qparams(self) -> Any:
        """Scale and zero point of the best range."""
        low, high = self.ends()
        self.min_vals = torch.full_like(self.min_vals, low)
        self.max_vals = torch.full_like(self.max_vals, high)
        self.histogram = Histogram()
        return super().get_qparams()

    def ends(self) -> tuple[float, float]:
        """The chosen range."""
        return self.histogram.best_range(self.args.num_bits)


@Observer.register("auto")
class AutoObserver(HistogramObserver):
    """The best cut, or the extremes where values reach far beyond their spread, which is where outliers matter."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Counts the values and sums them."""
        super().update_statistics_from_observed(observed)
        values = observed.detach().double()
        self.count += values.numel()
        self.total += float(values.sum())
        self.squares += float(values.square().sum())

    def ends(self) -> tuple[float, float]:
        """The chosen range."""
        mean = self.total / self.count
        deviation = math.sqrt(max(self.squares / self.count - mean**2, 0.0))
        low, high = self.histogram.low, self.histogram.high
        self.count, self.total, self.squares = 0, 0.0, 0.0
        if deviation and max(-low, high) / deviation > PEAKED:
            return low, high
        return self.histogram.best_range(self.args.num_bits)
