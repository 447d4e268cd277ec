"""Quantized folders in compressed-tensors' own format, made without the engine: its state is for a process of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, apply_quantization_config
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam

from quantui.checkpoint.load import load_model
from quantui.quantize.save import copy_sidecars, write_both_ignores

Given = dict[str, Any]
INT8 = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "tensor", "dynamic": False}
FP8 = INT8 | {"type": "float"}
TOKEN = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token", "dynamic": True}
GROUP4 = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32, "dynamic": False}
NV = {"num_bits": 4, "type": "float", "symmetric": True, "strategy": "tensor_group", "group_size": 16,
      "scale_dtype": "torch.float8_e4m3fn", "zp_dtype": "torch.float8_e4m3fn"}  # fmt: skip

SCHEMES: dict[str, tuple[str, Given, Given | None, Given | None]] = {
    "fp8-kv8": ("float-quantized", FP8, FP8, FP8),
    "int8-static": ("int-quantized", INT8, INT8 | {"symmetric": False}, None),
    "int8-sym": ("int-quantized", INT8, INT8, None),
    "int8-dynamic": ("int-quantized", INT8 | {"strategy": "channel"}, TOKEN, None),
    "int8-one-scale": ("int-quantized", INT8, TOKEN | {"strategy": "tensor"}, None),
    "w4a16": ("pack-quantized", GROUP4, None, None),
    "nvfp4": ("nvfp4-pack-quantized", NV | {"dynamic": False}, NV | {"dynamic": "local"}, None),
    "kv-only": ("dense", {}, None, INT8),
}
"""Name -> format, weights, input activations, K/V cache."""


def save_quantized(
    source: Path, folder: Path, name: str, *, image_text: bool = False, largest: Mapping[str, float] | None = None
) -> Path:
    """A folder quantized by rounding to nearest.

    Args:
        largest: the largest magnitude of each layer's input; without it ranges are made up.
    """
    form, weights, inputs, cache = SCHEMES[name]
    model = load_model(source, image_text=image_text)
    group = {"targets": ["Linear"], "weights": weights, "input_activations": inputs, "format": form}
    ignore = ["lm_head", "re:.*vision_tower.*", "re:.*multi_modal_projector.*"]
    config = QuantizationConfig.model_validate(
        {"config_groups": {"group_0": group} if weights else {}, "ignore": ignore, "format": form, "kv_cache_scheme": cache}
    )
    apply_quantization_config(model, config, run_compressed=False)
    for module_name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        if scheme is not None:
            most = (largest or {}).get(module_name)
            _fill(module, scheme, (-2.0, 2.5) if most is None else (-most, most))
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(folder)
    compressor.update_config(str(folder))
    copy_sidecars(source, folder)
    float_ones = [
        n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and not hasattr(m, "quantization_scheme")
    ]
    write_both_ignores(folder / "config.json", float_ones)
    return folder


def _fill(module: Any, scheme: Any, ends_of_input: tuple[float, float]) -> None:
    """Scales of a module, as calibration would set them."""
    dtype = next(parameter.dtype for parameter in module.parameters() if parameter.dtype.is_floating_point)
    for role, low, high in (("input", *ends_of_input), ("k", -3.0, 2.0), ("v", -1.5, 1.5)):
        args = scheme.input_activations
        if args is None or not (hasattr(module, f"{role}_scale") or hasattr(module, f"{role}_global_scale")):
            continue
        ends = torch.tensor([low], dtype=dtype), torch.tensor([high], dtype=dtype)
        if hasattr(module, f"{role}_global_scale"):
            getattr(module, f"{role}_global_scale").data.copy_(generate_gparam(*ends))
        if hasattr(module, f"{role}_scale"):
            scale, zero = calculate_qparams(*ends, args)
            _set(module, role, scale, zero)
    if isinstance(module, torch.nn.Linear) and scheme.weights is not None:
        _fill_weight(module, scheme.weights)
    module.quantization_status = QuantizationStatus.FROZEN


def _fill_weight(module: Any, args: Any) -> None:
    weight, whole = module.weight.data, None
    if args.strategy in ("group", "tensor_group"):
        parts = weight.unflatten(-1, (-1, args.group_size))
        low, high = parts.amin(-1), parts.amax(-1)
    elif args.strategy == "channel":
        low, high = weight.amin(-1, keepdim=True), weight.amax(-1, keepdim=True)
    else:
        low, high = weight.amin().reshape(1), weight.amax().reshape(1)
    if args.strategy == "tensor_group":
        whole = generate_gparam(weight.amin().reshape(1), weight.amax().reshape(1))
        module.weight_global_scale.data.copy_(whole)
    _set(module, "weight", *calculate_qparams(low, high, args, global_scale=whole))


def _set(module: Any, role: str, scale: torch.Tensor, zero: torch.Tensor) -> None:
    own = getattr(module, f"{role}_scale")
    own.data.copy_(scale.reshape(own.shape).to(own.dtype))
    if (place := getattr(module, f"{role}_zero_point", None)) is not None:
        place.data.copy_(zero.reshape(place.shape).to(place.dtype))


def largest_inputs(source: Path, chats: Sequence[list[dict[str, str]]]) -> dict[str, float]:
    """The largest magnitude that the input of each Linear has on some chats."""
    from transformers import AutoTokenizer

    model, words = load_model(source, image_text=False), AutoTokenizer.from_pretrained(source)
    found: dict[str, float] = {}

    def look(name: str) -> Any:
        def hook(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            found[name] = max(found.get(name, 0.0), float(args[0].abs().max()))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(look(name))
    with torch.inference_mode():
        for chat in chats:
            text = words.apply_chat_template(chat, tokenize=False)
            model(**words(text, return_tensors="pt", add_special_tokens=False))
    return found
