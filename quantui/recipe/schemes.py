"""The preset schemes llm-compressor knows by name, written out.

Source: compressed_tensors/quantization/quant_scheme.py of compressed-tensors 0.19.0; a test compares them one by one.
"""

from __future__ import annotations

from quantui.recipe.schema import QuantArgs, QuantGroup


def _int_weights(bits: int) -> QuantArgs:
    return QuantArgs(num_bits=bits, strategy="group", group_size=128)


def _int_token(bits: int) -> QuantArgs:
    return QuantArgs(num_bits=bits, strategy="token", dynamic=True)


_FP8_TENSOR = QuantArgs(type="float", strategy="tensor")
_FP8_CHANNEL = QuantArgs(type="float", strategy="channel")
_FP8_TOKEN = QuantArgs(type="float", strategy="token", dynamic=True)
_FP8_BLOCK = QuantArgs(type="float", strategy="block", block_structure=(128, 128))
_FP8_GROUP = QuantArgs(type="float", strategy="group", group_size=128, dynamic=True)
_NVFP4 = QuantArgs(
    num_bits=4,
    type="float",
    strategy="tensor_group",
    group_size=16,
    scale_dtype="torch.float8_e4m3fn",
    zp_dtype="torch.float8_e4m3fn",
)
_MXFP8 = QuantArgs(type="float", strategy="group", group_size=32, scale_dtype="torch.uint8", zp_dtype="torch.uint8")
_MXFP4 = _MXFP8.model_copy(update={"num_bits": 4})
_INT8_CHANNEL = QuantArgs(strategy="channel")

PRESETS: dict[str, tuple[QuantArgs | None, QuantArgs | None]] = {
    "UNQUANTIZED": (None, None),
    "W8A8": (_INT8_CHANNEL, _int_token(8)),
    "INT8": (_INT8_CHANNEL, _int_token(8)),
    "W4A16_ASYM": (QuantArgs(num_bits=4, symmetric=False, strategy="group", group_size=128, zp_dtype="torch.int8"), None),
    "W4AFP8": (_int_weights(4), _FP8_TOKEN),
    "FP8": (_FP8_TENSOR, _FP8_TENSOR.model_copy(update={"observer": "static_minmax"})),
    "FP8_DYNAMIC": (_FP8_CHANNEL, _FP8_TOKEN),
    "FP8_BLOCK": (_FP8_BLOCK, _FP8_GROUP),
    "NVFP4A16": (_NVFP4, None),
    "NVFP4": (_NVFP4, _NVFP4.model_copy(update={"dynamic": "local", "observer": "static_minmax"})),
    "MXFP4A16": (_MXFP4, None),
    "MXFP4": (_MXFP4, _MXFP4.model_copy(update={"dynamic": True})),
    "MXFP8A16": (_MXFP8, None),
    "MXFP8": (_MXFP8, _MXFP8.model_copy(update={"dynamic": True})),
} | {
    f"W{w}A{a}": (_int_weights(w), _int_token(a) if a < 16 else None)
    for w, widths in {2: (4, 8, 16), 3: (4, 8, 16), 4: (4, 8, 16), 5: (8, 16), 6: (8, 16), 7: (8, 16), 8: (16,)}.items()
    for a in widths
}
"""Name to (weights, input activations)."""


def preset_group(name: str, targets: tuple[str, ...], index: int = 0) -> QuantGroup:
    """The group that a preset stands for.

    Raises:
        KeyError: there is no such preset; names count without case.
    """
    weights, inputs = PRESETS[name.upper()]
    return QuantGroup(name=f"group_{index}", targets=targets, weights=weights, input_activations=inputs)
