"""Whether a quantized model is what its recipe asked for: the right layers, with scales that calibration really set."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from quantui.errors import ResultError
from quantui.quantize.outside import OUTSIDE

UNSET = "it was never calibrated"


def mark_unset_scales() -> None:
    """Makes the engine start every scale as NaN where it leaves uninitialised memory.

    A scale that no calibration reached is then found for certain, instead of when chance makes it look odd.
    """
    from llmcompressor.modifiers.quantization.quantization.mixin import QuantizationMixin

    initialize: Callable[..., None] = QuantizationMixin.initialize_quantization
    if getattr(initialize, "marks_unset", False):
        return

    def initialize_marked(self: Any, model: Any) -> None:
        initialize(self, model)
        for module in model.modules():
            if hasattr(module, "quantization_scheme"):
                for name, parameter in module.named_parameters(recurse=False):
                    if name.endswith("_scale") and parameter.dtype.is_floating_point:
                        _fill_nan(parameter)

    initialize_marked.marks_unset = True  # type: ignore[attr-defined]
    QuantizationMixin.initialize_quantization = initialize_marked


def check_scales(model: Any, *, signed: bool = False) -> int:
    """How many scales the model has.

    Args:
        signed: whether weights may have negative scales, as AutoRound gives them to use the 16th value of 4 bits.

    Raises:
        ResultError: one is not finite or not positive; the first five layers are named.
    """
    import torch

    count, bad = 0, []
    for module_name, module in model.named_modules():
        if not hasattr(module, "quantization_scheme"):
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if not name.endswith("_scale"):
                continue
            count += 1
            values = parameter.detach().to(torch.float32)
            if signed and name == "weight_scale":
                values = values.abs()
            if torch.isnan(values).any():
                bad.append(f"{module_name}.{name} ({UNSET})")
            elif not torch.isfinite(values).all() or (values <= 0).any():
                bad.append(f"{module_name}.{name} (not finite and positive)")
    if bad:
        more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
        todo = "calibrate with samples that reach these layers, or add them to ignore"
        raise ResultError(f"{len(bad)} of {count} scales are unusable: {', '.join(bad[:5])}{more}", where="check", todo=todo)
    return count


def check_layers(model: Any, expected: Collection[str], attention: Collection[str]) -> None:
    """Compares the layers that were quantized with the forecast.

    Args:
        expected: names of the Linears the recipe takes.
        attention: names of the attention layers whose K/V cache it takes.

    Raises:
        ResultError: the two differ; the first layers that do are named.
    """
    import torch

    from quantui.quantize.modifiers.kv_cache import KEPT

    schemes = {
        name: module for name, module in model.named_modules() if getattr(module, "quantization_scheme", None) is not None
    }
    linears = {name for name, module in schemes.items() if isinstance(module, torch.nn.Linear)}
    linears |= {name for name, module in model.named_modules() if hasattr(module, OUTSIDE)}
    caches = {name for name, module in schemes.items() if hasattr(module, "k_scale")}
    caches |= {name for name, module in model.named_modules() if hasattr(module, KEPT)}
    for what, found, forecast in (("layers", linears, set(expected)), ("K/V caches", caches, set(attention))):
        if found != forecast:
            odd = sorted(found ^ forecast)
            raise ResultError(
                f"{len(found)} {what} were quantized where the recipe takes {len(forecast)}, "
                f"and they differ in {', '.join(odd[:5])}",
                where="check",
                todo="this is a fault of the engine or of this program: please report it with the recipe",
            )


def _fill_nan(parameter: Any) -> None:
    import torch

    if parameter.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn):
        parameter.data.copy_(torch.full(parameter.shape, float("nan")).to(parameter.dtype))
