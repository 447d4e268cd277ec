"""Weights rounded by half-quadratic splitting, without data."""

from __future__ import annotations

from typing import Any

import torch
from compressed_tensors.quantization.utils import is_module_quantized
from compressed_tensors.utils import getattr_chain, update_offload_parameter
from llmcompressor.core import Event, State
from llmcompressor.modifiers.quantization import QuantizationModifier
from pydantic import PrivateAttr

from quantui.numerics.hqq import Settings, solve
from quantui.numerics.minmax import Sharing, blocks
from quantui.quantize.modifiers.feeds import FEEDS
from quantui.quantize.modifiers.outliers import groups_of

ROWS_ELEMENTS = 1 << 24
"""Elements of a weight solved for at once."""

LEAST = 1e-4
"""What the error of a channel counts at least, where the average is 1."""


class HQQModifier(QuantizationModifier):
    """The engine's quantization with scales and zero points of weights from HQQ instead of extremes.

    Where it is known which norm feeds a Linear, errors count by the square of that norm's weight: the size of an input, as far
    as it is known without data. Source: Badri and Shaji, mobiusml.github.io/hqq_blog; the fields are those of
    `quantui.recipe.methods.Hqq`.
    """

    iterations: int = 20
    lp_norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01

    _norms: dict[torch.nn.Module, torch.nn.Module] = PrivateAttr(default_factory=dict)

    def on_initialize(self, state: State, **kwargs: Any) -> bool:
        """Finds the norms that feed Linears, in models of a known type."""
        if state.model.config.get_text_config().model_type in FEEDS:
            groups = groups_of(state.model, [], only_norms=True)
            self._norms = {reader: group.source for group in groups for reader in group.readers}
        return bool(super().on_initialize(state, **kwargs))

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
        importance = None
        if module in self._norms:
            gain = self._norms[module].weight.float().square()
            importance = blocks((gain / gain.mean()).clamp(min=LEAST).unsqueeze(0), sharing)
        parts = [
            solve(blocks(weight[start : start + step].float(), sharing), args.num_bits, settings, importance)
            for start in range(0, weight.shape[0], step)
        ]
        scale, zero = (torch.cat(part) for part in zip(*parts, strict=True))
        update_offload_parameter(module, "weight_scale", scale.to(module.weight_scale.dtype))
        update_offload_parameter(module, "weight_zero_point", zero.to(module.weight_zero_point.dtype))
