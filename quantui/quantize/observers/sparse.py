"""The observer of sparse weights, which SparseModifier puts in."""

from __future__ import annotations

from typing import Any

import torch
from llmcompressor.observers.base import Observer

from quantui.numerics.sparse import round_weight


@Observer.register("sparse")
class SparseObserver(Observer):
    """A scale an output channel that 4 bits of most weights go by."""

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Looks at a weight, given as (1, out, 1, in)."""
        knobs = self.args.observer_kwargs
        rows = observed[0, :, 0]
        self.scale = round_weight(rows, knobs.get("fraction", 0.01), knobs.get("sigma")).scale
        self.min_vals, self.max_vals = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)

    def get_qparams(self) -> Any:
        """That scale; outliers saturate at int8."""
        self.delete_statistics()
        return {"scale": self.scale, "zero_point": torch.zeros_like(self.scale), "global_scale": None}
