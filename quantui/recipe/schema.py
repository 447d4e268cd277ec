"""The recipe: what is quantized, how, and what stays in float. Plain frozen data in no vocabulary but the field's own."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from quantui.recipe.args import (
    ACTIVATION_STRATEGIES,
    CACHE_STRATEGIES,
    WEIGHT_STRATEGIES,
    Dtype,
    Frozen,
    QuantArgs,
)
from quantui.recipe.methods import (
    AutoRound,
    Awq,
    AwqMapping,
    Fallback,
    Gptq,
    Hqq,
    OutlierSuppression,
    SmoothQuant,
    Sparse,
)
from quantui.recipe.rare import WITHOUT_DATA, EngineModifier

__all__ = [
    "CACHE_STRATEGIES", "AutoRound", "Awq", "AwqMapping", "Dtype", "EngineModifier", "Fallback", "Format", "Frozen", "Gptq",
    "Hqq", "OutlierSuppression", "QuantArgs", "QuantGroup", "Recipe", "SmoothQuant", "Sparse",
]  # fmt: skip

Format = Literal[
    "dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mxfp8-quantized",
]  # fmt: skip
ROUNDING = ("gptq", "autoround", "hqq")
"""Fields of Recipe of which one at most is set: how weights are rounded; none of them is rounding to nearest."""
SUPPRESSION = ("smoothquant", "awq", "outliers")
"""Fields of Recipe of which one at most is set: how outliers of activations are suppressed."""


class QuantGroup(Frozen):
    """Layers that are quantized alike.

    `targets` are class names ("Linear"), full module names, or `re:` patterns that match from the start of the name.
    None for weights, inputs or outputs leaves those in float.
    """

    name: str
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = ("Linear",)
    weights: QuantArgs | None = None
    input_activations: QuantArgs | None = None
    output_activations: QuantArgs | None = None
    format: Format | None = None

    @property
    def quantizes(self) -> bool:
        """Whether anything of its layers is quantized at all."""
        return any(args is not None for args in (self.weights, self.input_activations, self.output_activations))

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        weights = self.weights
        if weights is not None and (weights.strategy not in WEIGHT_STRATEGIES or weights.dynamic):
            raise ValueError(f"weights have strategy {', '.join(WEIGHT_STRATEGIES)} and are never dynamic")
        if weights is not None and weights.type == "float" and weights.num_bits == 4 and weights.group_size not in (16, 32):
            raise ValueError("4-bit float weights need groups of 16 (NVFP4) or 32 (MXFP4), or they cannot be stored")
        for args in filter(None, (self.input_activations, self.output_activations)):
            if args.strategy not in ACTIVATION_STRATEGIES:
                raise ValueError(f"activations have strategy {', '.join(ACTIVATION_STRATEGIES)}, not {args.strategy}")
            if args.strategy == "attn_head" and weights is not None:
                raise ValueError("strategy attn_head is for attention modules, which have no weights of their own")
            if args.actorder is not None:
                raise ValueError("actorder is for weights, not for activations")
        return self


class Recipe(Frozen):
    """One decision.

    Attributes:
        groups: what is quantized; a layer that several take goes by exact name, then pattern, then class, and among those
            by the alphabet of the targets, as the engine does it.
        ignore: layers that stay in float, written as targets are.
        kv_cache: how keys and values are cached, None for float.
        value_cache: how values are cached where that differs from keys; None is as `kv_cache` says.
        gptq: GPTQ for the weights.
        autoround: AutoRound for the weights.
        hqq: HQQ for the weights. None of the three rounds to nearest.
        smoothquant: SmoothQuant before quantization.
        awq: AWQ before quantization.
        outliers: another suppression of outliers before quantization.
        sparse: the largest weights apart from the others.
        fallback: sensitive layers stay in float by themselves.
        engine_modifiers: rotations, equalization and pruning of the engine, in the order they run in, before all others.
        bypass_divisibility_checks: let the engine take groups that do not divide a layer.
    """

    groups: tuple[QuantGroup, ...] = ()
    ignore: tuple[str, ...] = ()
    kv_cache: QuantArgs | None = None
    value_cache: QuantArgs | None = None
    gptq: Gptq | None = None
    autoround: AutoRound | None = None
    hqq: Hqq | None = None
    smoothquant: SmoothQuant | None = None
    awq: Awq | None = None
    outliers: OutlierSuppression | None = None
    sparse: Sparse | None = None
    fallback: Fallback | None = None
    engine_modifiers: tuple[EngineModifier, ...] = ()
    bypass_divisibility_checks: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _refuse_twice(self)
        for field in ("kv_cache", "value_cache"):
            args = getattr(self, field)
            if args is not None and args.strategy not in CACHE_STRATEGIES:
                raise ValueError(f"a K/V cache has strategy {', '.join(CACHE_STRATEGIES)}, not {args.strategy}")
        if self.value_cache is not None and self.kv_cache is None:
            raise ValueError("value_cache says how values differ from keys, so it needs a kv_cache beside it")
        for fields, what in ((ROUNDING, "way to round weights"), (SUPPRESSION, "way to suppress outliers")):
            given = [field for field in fields if getattr(self, field) is not None]
            if len(given) > 1:
                raise ValueError(f"a recipe has one {what}, not {' and '.join(given)}: keep one of them")
        if self.gptq is not None and self.gptq.actorder != "static":  # which is the default, and gives way to a group's own
            for group in self.groups:
                own = group.weights.actorder if group.weights is not None else None
                if own not in (None, self.gptq.actorder):
                    raise ValueError(f"GPTQModifier and group {group.name} name different actorders; keep one of the two")
        return self

    @property
    def quantizes(self) -> bool:
        """Whether it quantizes anything, of some model."""
        return self.kv_cache is not None or any(group.quantizes for group in self.groups)

    @property
    def needs_calibration(self) -> bool:
        """Whether anything static, or a method that looks at data, makes the recipe need samples."""
        static = [a for g in self.groups for a in (g.input_activations, g.output_activations) if a and a.dynamic is not True]
        kv = self.kv_cache is not None  # a dynamic one needs none, but the engine asks for samples all the same
        imatrix = any(g.weights and "imatrix" in (g.weights.observer or "") for g in self.groups)
        sent = any(g.weights and "sent" in g.weights.observer_kwargs for g in self.groups)  # what ranks send one another
        methods = (self.gptq, self.autoround, self.smoothquant, self.awq, self.outliers, self.fallback)
        rare = any(modifier.name not in WITHOUT_DATA for modifier in self.engine_modifiers)
        return bool(static) or kv or imatrix or sent or rare or any(method is not None for method in methods)

    @property
    def has_own_cache(self) -> bool:
        """Whether its K/V cache is one that the engine's kv_cache_scheme cannot say."""
        return self.value_cache is not None or (self.kv_cache is not None and self.kv_cache.strategy == "channel")

    @property
    def has_online_rotations(self) -> bool:
        """Whether rotations are left to run time, so that transformers computes something else from the saved folder."""
        return any(modifier.is_online for modifier in self.engine_modifiers)

    @property
    def arguments(self) -> tuple[QuantArgs, ...]:
        """Every QuantArgs in it."""
        of_groups = [a for g in self.groups for a in (g.weights, g.input_activations, g.output_activations)]
        return tuple(args for args in (*of_groups, self.kv_cache, self.value_cache) if args is not None)


def _refuse_twice(recipe: Recipe) -> None:
    """Refuses names that may stand once.

    Raises:
        ValueError: one stands twice.
    """
    names = [group.name for group in recipe.groups]
    if len(set(names)) != len(names):
        raise ValueError("two groups have the same name")
    targets = Counter(target for group in recipe.groups for target in group.targets)
    if twice := [target for target, count in targets.items() if count > 1]:
        raise ValueError(f"the target {twice[0]!r} stands twice, so that only the last of the two would count")
    modifiers = Counter(modifier.name for modifier in recipe.engine_modifiers)
    if twice := [name for name, count in modifiers.items() if count > 1]:
        raise ValueError(f"{twice[0]} stands twice; keep one of the two")
