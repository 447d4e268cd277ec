"""Routed experts: transformers stacks the weights of a layer's, the engine takes them as Linears of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from quantui.checkpoint.inspect import Linear
from quantui.checkpoint.load import Outline
from quantui.errors import RecipeError
from quantui.recipe.schema import QuantGroup
from quantui.stats.experts import expert_weights, is_fused

PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "up_proj": ("up_proj",), "down_proj": ("down_proj",)}
"""What a stacked weight holds, by its name."""

NOT_APPLIED = (
    "transformers stacks routed experts again when it opens the folder, and leaves out that their inputs are quantized; vLLM "
    "quantizes them"
)


def with_experts(outline: Outline, model: Any) -> Outline:
    """The outline with a Linear for every projection of every stacked expert, named as the engine names it."""
    dtype = next((linear.dtype for linear in outline.linears), "F32")
    found = tuple(
        Linear(part, weight.shape[0], weight.shape[1], dtype)
        for name, module in model.named_modules()
        if is_fused(module)
        for part, weight in expert_weights(name, module)
    )
    return replace(outline, linears=outline.linears + found) if found else outline


def check_openable(experts: Collection[str], taken: Mapping[str, QuantGroup]) -> None:
    """Refuses recipes whose result transformers could not open, where it stacks experts.

    Source: transformers 5.17.0, quantizers/quantizer_compressed_tensors.py, `update_weight_conversions`, which expects all
    experts as its first group of layers: float8, or packed symmetric integers.

    Args:
        experts: names of the Linears that are stacked.
        taken: group of every Linear that is quantized, by name.

    Raises:
        RecipeError: the recipe is of another kind.
    """
    every = [group.weights for group in taken.values() if group.weights is not None]
    if all(weights.type == "float" and weights.num_bits == 8 for weights in every):
        return
    plain = all(weights.type == "int" and weights.symmetric for weights in every)
    if plain and taken.keys() >= set(experts) and all(group.input_activations is None for group in taken.values()):
        return
    what = f"transformers stacks experts such as {next(iter(experts))} and opens results of such a model in some schemes only"
    todo = "quantize to float8 throughout, or all experts and other layers to symmetric integers with float inputs"
    raise RecipeError(what, where="recipe", todo=todo)


def unstack(model: Any) -> None:
    """Makes Linears of stacked experts, as the engine would of itself: before it, so that what watches a model sees them.

    They are saved under the names that the model's own files have. The engine knows those of some kinds of model only, and
    writes its own for the others, w1 of Mixtral as gate_proj, which nobody reads. Source: llm-compressor 0.14.0.1,
    modeling/moe/conversion_mappings.py.
    """
    from llmcompressor.modeling.moe.conversion_mappings import set_save_conversion_mapping
    from llmcompressor.modeling.moe.linearize import get_non_linearized_moes, linearize_moe
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    if not get_non_linearized_moes(model):
        return
    linearize_moe(model)
    kept, renamed = [], []
    for one in get_checkpoint_conversion_mapping(model.config.get_text_config().model_type) or []:
        parts = PARTS.get(str(one.target_patterns[0]).rpartition(".")[2], ())
        if not parts or len(parts) != len(one.source_patterns):
            kept.append(one)
            continue
        for part, source in zip(parts, one.source_patterns, strict=True):
            leaf = source.removesuffix(".weight").rpartition(".")[2]
            renamed.append(WeightRenaming(rf"\.experts\.(\d+)\.{leaf}\.", rf".experts.\1.{part}."))
    if renamed:
        set_save_conversion_mapping(model, [*kept, *renamed])


@contextlib.contextmanager
def as_opened(model: Any, names: Collection[str]) -> Iterator[None]:
    """The model as transformers opens what is saved of it: without quantized inputs of these layers, while the block runs."""
    modules = [module for name, module in model.named_modules() if name in names]
    schemes = [module.quantization_scheme for module in modules]
    try:
        for module, scheme in zip(modules, schemes, strict=True):
            module.quantization_scheme = scheme.model_copy(update={"input_activations": None})
        yield
    finally:
        for module, scheme in zip(modules, schemes, strict=True):
            module.quantization_scheme = scheme
