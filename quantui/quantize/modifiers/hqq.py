"""Weights rounded by half-quadratic splitting, without data."""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization.utils import is_module_quantized
from compressed_tensors.utils import getattr_chain, update_offload_parameter
from llmcompressor.core import Event, State
from llmcompressor.modifiers.quantization import QuantizationModifier

from quantui.numerics.hqq import Settings, solve
from quantui.numerics.minmax import Sharing, blocks

ROWS_ELEMENTS = 1 << 24
"""Elements of a weight solved for at once."""


class HQQModifier(QuantizationModifier):
    """The engine's quantization with scales and zero points of weights from HQQ instead of extremes.

    Source: Badri and Shaji, mobiusml.github.io/hqq_blog; the fields are those of `quantui.recipe.methods.Hqq`.
    """

    iterations: int = 20
    lp_norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01

    def on_sequential_epoch_end(self, state: State, event: Event, modules: list[torch.nn.Module], **kwargs: Any) -> None:
        """Rounds what the engine has just rounded by extremes anew."""
        super().on_sequential_epoch_end(state, event, modules, **kwargs)
        for module in modules:
            args = getattr_chain(module, "quantization_scheme.weights", None) if is_module_quantized(module) else None
            if args is not None and args.type == "int" and not args.symmetric and args.strategy in ("group", "channel"):
                self._solve(module, args)

    @torch.no_grad()
    def _solve(self, module: torch.nn.Module, args: Any) -> None:
        settings = Settings(self.iterations, self.lp_norm, self.beta, self.kappa)
        weight = module.weight
        step = max(ROWS_ELEMENTS // weight.shape[1], 1)
        sharing: Sharing = args.group_size if args.strategy == "group" else "channel"
        parts = [
            solve(blocks(weight[start : start + step].float(), sharing), args.num_bits, settings)
            for start in range(0, weight.shape[0], step)
        ]
        scale, zero = (torch.cat(part) for part in zip(*parts, strict=True))
        update_offload_parameter(module, "weight_scale", scale.to(module.weight_scale.dtype))
        update_offload_parameter(module, "weight_zero_point", zero.to(module.weight_zero_point.dtype))
