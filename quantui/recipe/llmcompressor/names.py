"""Modifiers by name and their fields, those of the engine, our own and those of earlier days.

Source: llm-compressor 0.14.0.1, modifiers/quantization/quantization/mixin.py, modifiers/gptq/base.py,
modifiers/autoround/base.py, modifiers/transform/awq/base.py, modifiers/transform/smoothquant/base.py; a test compares them.
"""

from __future__ import annotations

from quantui.recipe.methods import AutoRound, Fallback, Gptq, Hqq, OutlierSuppression, Sparse
from quantui.recipe.rare import RARE

QUANTIZATION_FIELDS = (
    "config_groups", "targets", "ignore", "scheme", "kv_cache_scheme", "weight_observer", "input_observer",
    "output_observer", "observer", "bypass_divisibility_checks",
)  # fmt: skip
QUANTIZERS = {
    "QuantizationModifier": None,
    "GPTQModifier": "gptq",
    "AutoRoundModifier": "autoround",
    "HQQModifier": "hqq",
}
"""Modifiers that hold the groups, and the field of a recipe that holds their other settings."""

KNOBS: dict[str, tuple[str, ...]] = {
    "GPTQModifier": tuple(Gptq.model_fields),
    "AutoRoundModifier": tuple(AutoRound.model_fields),
    "HQQModifier": tuple(Hqq.model_fields),
}
FIELDS: dict[str, tuple[str, ...]] = {
    **{name: (*QUANTIZATION_FIELDS, *KNOBS.get(name, ())) for name in QUANTIZERS},
    "SmoothQuantModifier": ("smoothing_strength", "mappings", "ignore", "algorithm", "num_calibration_steps"),
    "AWQModifier": ("mappings", "offload_device", "duo_scaling", "n_grid"),
    **{name: tuple(model.model_fields) for name, model in RARE.items()},
    "OutlierSuppressionModifier": tuple(OutlierSuppression.model_fields),
    "SparseModifier": tuple(Sparse.model_fields),
    "FallbackModifier": tuple(Fallback.model_fields),
    "KVCacheModifier": ("keys", "values"),
}
"""Every modifier that can stand in a recipe, and its fields."""

OWN = ("HQQModifier", "OutlierSuppressionModifier", "SparseModifier", "FallbackModifier", "KVCacheModifier")
"""Those the engine does not have."""

ORDER = (
    *RARE, "OutlierSuppressionModifier", "SmoothQuantModifier", "AWQModifier", "SparseModifier", "FallbackModifier",
    "KVCacheModifier", *QUANTIZERS,
)  # fmt: skip
"""The order in which modifiers are written, and so run; rare ones keep that of the recipe among themselves."""

REMOVED = {
    "IMatrixGatherer": "the engine removed it: name the observer imatrix_mse for the weights instead",
    "DistillationModifier": "the engine removed distillation: leave it out",
    "OutputDistillationModifier": "the engine removed distillation: leave it out",
}

_TIMES = "it is for training, and a recipe is run once"
_UNUSED = "the engine reads and does not use it: the calibration file says how many samples there are"
DROPPED: dict[str, str] = {
    "start": _TIMES, "end": _TIMES, "update": _TIMES, "index": _TIMES, "group": _TIMES,
    "num_calibration_steps": _UNUSED,
    "calibration_function": "a Python function cannot stand in a recipe",
    "disable_quantization_observer_epoch": _TIMES,
    "freeze_bn_stats_epoch": _TIMES,
    "sequential_update": "the engine always goes layer by layer now",
    "sequential_targets": "the engine finds the decoder layers by itself",
    "offload_hessians": "the engine does so by itself where memory is short",
    "max_chunk_memory": "the engine splits the work by itself now",
    "requires_calibration_data": "a recipe's needs follow from what it says",
}  # fmt: skip
"""Fields of earlier versions, or of training, that are left out with a note where a modifier has no such field."""

RENAMED = {
    "percdamp": "dampening_frac",
    "blocksize": "block_size",
    "act_order": "actorder",
    "smooth_strength": "smoothing_strength",
}
"""Fields under the names of other tools, and what the modifiers call them."""
