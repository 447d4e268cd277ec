"""What msModelSlim calls its schemes, and which of them a layer is. No torch.

Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/llm_ptq_utils.py of 26.1.0, `QuantType`; the tensors of each in
docs/formats.md.
"""

from __future__ import annotations

from dataclasses import replace

from quantui.numerics.quantized import Inputs, Outline

FLOAT, CACHE, ATTENTION = "FLOAT", "C8", "FAQuant"
DYNAMIC_INT8 = Inputs("int", 8, "token", True, True)
STATIC_INT8 = Inputs("int", 8, "tensor", False, False)
GROUPS = (32, 64, 128, 256)

LEAVES = (
    "weight", "weight_scale", "weight_offset", "weight_scale_second", "weight_offset_second", "input_scale", "input_offset",
    "quant_bias", "deq_scale", "scale_bias",
)  # fmt: skip
"""What a quantized layer may own beside its bias, in the order it is written in."""

NEEDED: dict[str, tuple[str, ...]] = {
    "W8A8": ("weight", "input_scale", "input_offset", "quant_bias", "deq_scale"),
    "W8A8_MIX": ("weight", "input_scale", "input_offset", "quant_bias", "deq_scale"),
    "W8A8S": ("weight", "input_scale", "input_offset", "quant_bias", "deq_scale"),
    "W8A16": ("weight", "weight_scale", "weight_offset"),
    "W4A16": ("weight", "weight_scale", "weight_offset"),
    "W8A8_DYNAMIC": ("weight", "weight_scale", "weight_offset"),
    "W4A8_DYNAMIC": ("weight", "weight_scale", "weight_offset", "weight_scale_second", "weight_offset_second"),
    "NF4": ("weight",),
}
"""What a layer of each scheme owns at least."""


def of_rank(outline: Outline) -> Outline:
    """What each tensor-parallel rank has of a layer; the layer itself where none are simulated."""
    weights, inputs = outline.weights, outline.inputs
    by_rank = inputs is not None and inputs.by_rank
    columns = outline.columns // weights.ranks if weights.ranks else inputs.group_size if inputs and by_rank else None
    if not columns:
        return outline
    if weights.group_size == columns:
        weights = replace(weights, strategy="channel", group_size=None)
    return replace(outline, weights=replace(weights, ranks=0), inputs=STATIC_INT8 if by_rank else inputs, columns=columns)


def label_of(outline: Outline) -> str | None:
    """The scheme's name, or None where there is none for it."""
    outline = of_rank(outline)
    weights, inputs = outline.weights, outline.inputs
    if weights.kind == "nf4":
        return "NF4" if inputs is None else None
    if weights.kind != "int" or weights.strategy == "block":
        return None
    if weights.sparse:
        return "W8A8S"
    static = inputs is not None and (inputs.kind, inputs.bits, inputs.strategy, inputs.dynamic) == ("int", 8, "tensor", False)
    dynamic = inputs is not None and (inputs.kind, inputs.bits, inputs.strategy, inputs.dynamic) == ("int", 8, "token", True)
    if weights.two_stage:
        return "W4A8_DYNAMIC" if weights.bits == 4 and dynamic else None
    if weights.bits == 8 and weights.symmetric and weights.strategy != "group" and (static or dynamic):
        return "W8A8" if static else "W8A8_DYNAMIC"
    return f"W{weights.bits}A16" if inputs is None and weights.bits in (4, 8) else None


def refusal(outline: Outline, *, packed: bool) -> str | None:
    """Why a layer cannot be held, or None if it can.

    Args:
        packed: int4 goes in pairs, as ascend-v1 writes it.
    """
    outline = of_rank(outline)
    weights, shape = outline.weights, f"{outline.rows}x{outline.columns}"
    label = label_of(outline)
    if label is None and weights.kind == "int" and weights.bits == 4 and outline.inputs == DYNAMIC_INT8:
        return "W4A8_DYNAMIC has scales in two stages, and this layer in one: use the observer msmodelslim with stages: 2"
    if label is None and weights.kind == "int" and weights.bits == 8 and weights.strategy == "group" and outline.inputs:
        return "its int8 weight has a scale by group, and beside int8 inputs here a row has one"
    if label is None:
        return f"it is none of msModelSlim's schemes, which are {', '.join(dict.fromkeys(NEEDED))}"
    if outline.reordered:
        return "its columns are grouped out of their order (g_idx), which msModelSlim does not know"
    if label == "W8A8S" and weights.strategy != "channel":
        return "W8A8S has a scale by output channel"
    if weights.kind == "int" and weights.strategy == "group" and weights.group_size not in GROUPS:
        return f"its groups have {weights.group_size} columns, and msModelSlim has {', '.join(map(str, GROUPS))}"
    if label == "NF4" and outline.rows * outline.columns % 2:
        return f"NF4 goes in pairs, and {shape} is odd: leave it in float"
    if packed and weights.bits == 4 and weights.kind == "int":
        by_rows = weights.strategy == "group" and not _is_one_group(outline)
        if by_rows and outline.rows % 2:
            return f"int4 by group is stored in pairs of output rows, and {shape} has an odd number: leave it in float"
        if not by_rows and outline.columns % 2:
            return f"int4 by channel is stored in pairs of columns, and {shape} has an odd number: leave it in float"
        if label == "W4A8_DYNAMIC" and is_split(outline.name) and outline.columns % SPLIT:
            return f"its scale_bias has {SPLIT} parts, which do not divide {outline.columns} columns: leave it in float"
    return None


def _is_one_group(outline: Outline) -> bool:
    return outline.weights.group_size == outline.columns and not outline.weights.two_stage


SPLIT = 16
"""Into how many parts scale_bias is cut for layers whose input is dealt to tensor-parallel ranks."""

_DEALT = ("down_proj", "o_proj", "w2", "wo", "dense", "dense_4h_to_h", "out_proj", "proj", "fc2")


def is_split(name: str) -> bool:
    """Whether a layer's input is dealt to tensor-parallel ranks, by its name; InternLM2's and ChatGLM's names included."""
    return name.rpartition(".")[2] in _DEALT
