"""Sparse weights (W8A8S): 4-bit codes with outliers that keep 8."""

from __future__ import annotations

from typing import Any

from compressed_tensors.utils import getattr_chain
from llmcompressor.core import Event, State
from llmcompressor.modifiers import Modifier

SPARSE = "has_sparse_weights"
"""The attribute of a Linear whose weights are sparse."""


class SparseModifier(Modifier):
    """Gives every layer with int4 weights and int activations codes of int8 on a scale that most of them use 4 bits of.

    The layers are those of the quantizing modifier after it. The fields are those of `quantui.recipe.methods.Sparse`.
    """

    fraction: float = 0.01
    sigma: float | None = None

    def on_initialize(self, state: State, **kwargs: Any) -> bool:
        """Nothing to prepare: the schemes are attached by the quantizing modifier."""
        return True

    def on_calibration_start(self, state: State, event: Event, **kwargs: Any) -> None:
        """Has the weights of those layers observed as sparse ones."""
        knobs = {"fraction": self.fraction, "sigma": self.sigma}
        for module in state.model.modules():
            weights = getattr_chain(module, "quantization_scheme.weights", None)
            inputs = getattr_chain(module, "quantization_scheme.input_activations", None)
            if weights is None or inputs is None or (weights.type, weights.num_bits) != ("int", 4):
                continue
            changes = {"num_bits": 8, "strategy": "channel", "group_size": None, "observer": "sparse", "observer_kwargs": knobs}
            made = type(weights).model_validate(weights.model_dump() | changes)
            setattr(module, SPARSE, True)
            module.quantization_scheme = module.quantization_scheme.model_copy(update={"weights": made})
