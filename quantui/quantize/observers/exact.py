"""Observers that give exactly the numbers of another program: msmodelslim and lmdeploy."""

from __future__ import annotations

from typing import Any

import torch
from llmcompressor.observers.base import Observer

from quantui.numerics import lmdeploy, two_stage
from quantui.numerics.minmax import absmax_scale, range_scale


@Observer.register("msmodelslim")
class MsModelSlimObserver(Observer):
    """Weights by their extremes, activations by the mean of the extremes of batches.

    With `stages: 2` among the observer's knobs, weights by group go in two stages (W4A8_DYNAMIC).
    Source: msModelSlim 26.1.0, llm_ptq_tools/save/complex_quantifier.py and StatMinMaxObserver.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.batches = 0
        self.min_vals: torch.Tensor
        self.max_vals: torch.Tensor
        self.two: two_stage.TwoStage | None = None

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Looks at a weight or a batch, (observations, *scales, values)."""
        low, high = observed.amin((0, -1)), observed.amax((0, -1))
        self.dtype = observed.dtype
        if self.is_weight_obs:
            if self.args.observer_kwargs.get("stages") == 2:
                self.two = two_stage.round_weight(observed[0].flatten(1), observed.shape[-1])
        else:
            self.batches += 1
            low, high = low.float(), high.float()
            if self.batches > 1:
                low = self.min_vals + (low - self.min_vals) / self.batches
                high = self.max_vals + (high - self.max_vals) / self.batches
        self.min_vals, self.max_vals = low, high

    def get_qparams(self) -> Any:
        """Scale and zero point."""
        low, high, two = self.min_vals.to(self.dtype), self.max_vals.to(self.dtype), self.two
        self.batches, self.two = 0, None
        self.delete_statistics()
        if two is not None:
            scale = two.scale * two.second
            return {"scale": scale, "zero_point": torch.zeros_like(scale), "global_scale": None}
        if self.args.symmetric:
            scale = absmax_scale(low, high, self.args.num_bits)
            return {"scale": scale, "zero_point": torch.zeros_like(scale), "global_scale": None}
        scale, zero = range_scale(low, high, self.args.num_bits)
        zero = zero.clamp(max=2 ** (self.args.num_bits - 1) - 1)  # one beyond is reached among float16's least numbers
        return {"scale": scale, "zero_point": zero.to(torch.int8), "global_scale": None}


@Observer.register("nf4")
class NF4Observer(Observer):
    """Weights for the levels of NF4, which are made of them after the engine has run: it holds integers alone."""

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Looks at a weight, (1, out, groups, values)."""
        self.min_vals, self.max_vals = observed.amin((0, -1)), observed.amax((0, -1))


@Observer.register("lmdeploy")
class LmdeployObserver(Observer):
    """Weights as `lmdeploy lite` rounds them: int4 of auto_awq, with 0 counted into every range, and int8 of smooth_quant."""

    def update_statistics_from_observed(self, observed: torch.Tensor) -> None:
        """Looks at a weight, (1, out, groups, values)."""
        self.min_vals, self.max_vals = observed.amin((0, -1)), observed.amax((0, -1))

    def get_qparams(self) -> Any:
        """Scale and zero point, the latter in the sense of signed codes."""
        if self.args.type == "float":
            return super().get_qparams()
        if self.args.symmetric:
            made = absmax_scale(self.min_vals, self.max_vals, self.args.num_bits)
            self.delete_statistics()
            return {"scale": made, "zero_point": torch.zeros_like(made), "global_scale": None}
        scale, zero = lmdeploy.group_scale(self.min_vals, self.max_vals, self.args.num_bits)
        self.delete_statistics()
        return {"scale": scale, "zero_point": (zero - 2 ** (self.args.num_bits - 1)).to(torch.int8), "global_scale": None}
