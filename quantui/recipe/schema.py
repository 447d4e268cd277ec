"""The recipe: what is quantized, how, and what stays in float. Plain frozen data in no vocabulary but the field's own."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Strategy = Literal["tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"]
Format = Literal[
    "dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized", "nvfp4-pack-quantized",
    "mxfp4-pack-quantized", "mxfp8-quantized",
]  # fmt: skip
Dtype = Literal[
    "torch.uint8", "torch.int8", "torch.int16", "torch.int32", "torch.float8_e4m3fn", "torch.float8_e5m2", "torch.float16",
    "torch.bfloat16", "torch.float32", "torch.float64",
]  # fmt: skip
ACTIVATION_STRATEGIES = ("token", "tensor", "group", "tensor_group", "attn_head")
WEIGHT_STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")
CACHE_STRATEGIES = ("tensor", "attn_head", "token")
DYNAMIC_STRATEGIES = ("token", "tensor", "group", "tensor_group")


class Frozen(BaseModel):
    """Base of all recipe data: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False)


class QuantArgs(Frozen):
    """How one kind of tensor (weights, activations or K/V cache) is quantized.

    Attributes:
        num_bits: 2 to 8 for integers; 8 or 4 for floats (fp8 e4m3, fp4 e2m1).
        type: integer or floating point.
        symmetric: whether the zero point is 0.
        strategy: what shares one scale: the tensor, an output channel, a group of input channels, a block, a token, an
            attention head, or a tensor and a group both (NVFP4).
        group_size: input channels that share a scale.
        block_structure: (rows, columns) that share a scale.
        dynamic: True computes the scale at run time, "local" only the group's; False fixes it by calibration.
        observer: how a static range is made from what calibration saw ("static_minmax", "mse", "minmax": moving average).
        observer_kwargs: that observer's own knobs.
        actorder: GPTQ's column order.
        scale_dtype: torch dtype the scales are stored in ("torch.float8_e4m3fn"), None for the model's.
        zp_dtype: torch dtype of the zero points.
    """

    num_bits: Annotated[int, Field(ge=2, le=8)] = 8
    type: Literal["int", "float"] = "int"
    symmetric: bool = True
    strategy: Strategy = "tensor"
    group_size: Annotated[int, Field(ge=1)] | None = None
    block_structure: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    dynamic: bool | Literal["local"] = False
    observer: str | None = None
    observer_kwargs: dict[str, Any] = Field(default_factory=dict)
    actorder: Literal["weight", "static"] | None = None
    scale_dtype: Dtype | None = None
    zp_dtype: Dtype | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_as_here(cls, data: Any) -> Any:
        """What the engine takes in several spellings, in one; a strategy that is not named is inferred as the engine does."""
        if not isinstance(data, dict):
            return data
        args = dict(data)
        for key in ("type", "strategy", "dynamic", "actorder"):
            if isinstance(args.get(key), str):
                args[key] = args[key].lower()
        for key in ("scale_dtype", "zp_dtype"):
            if isinstance(args.get(key), str):
                args[key] = f"torch.{args[key].removeprefix('torch.')}"
        if isinstance(args.get("block_structure"), str):
            args["block_structure"] = args["block_structure"].split("x")
        if args.get("actorder") is False:
            args["actorder"] = None
        if args.get("strategy") is None:
            size = args.get("group_size")
            args["strategy"] = "tensor" if size is None else "channel" if size == -1 else "group"
        if args.get("group_size") == -1 and args["strategy"] != "group":
            args["group_size"] = None  # the engine's old way to say channel
        return args

    @field_validator("actorder", mode="before")
    @classmethod
    def _actorder_that_is_left(cls, value: Any) -> Any:
        if value in (True, "group", "dynamic"):
            raise ValueError("reordering by group has been removed from the engine: use weight or static")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        grouped = self.strategy in ("group", "tensor_group")
        if self.type == "float" and self.num_bits not in (4, 8):
            raise ValueError(f"float quantization has 4 or 8 bits, not {self.num_bits}")
        if grouped and self.group_size is None:
            raise ValueError(f"strategy {self.strategy} needs a group_size")
        if self.group_size is not None and not grouped:
            raise ValueError(f"a group_size needs strategy group, not {self.strategy}")
        if self.strategy == "block" and self.block_structure is None:
            raise ValueError("strategy block needs a block_structure, for example [128, 128]")
        if self.block_structure is not None and self.strategy != "block":
            raise ValueError(f"a block_structure needs strategy block, not {self.strategy}")
        if self.strategy == "token" and not self.dynamic:
            raise ValueError("strategy token needs dynamic: true, since tokens come at run time")
        if self.dynamic and self.strategy not in DYNAMIC_STRATEGIES:
            raise ValueError(f"dynamic needs strategy token, tensor, group or tensor_group, not {self.strategy}")
        if self.dynamic == "local" and self.strategy != "tensor_group":
            raise ValueError(f"dynamic: local needs strategy tensor_group, not {self.strategy}")
        return self


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


class SmoothQuant(Frozen):
    """Moves outliers from activations into weights before quantization (Xiao et al., arXiv 2211.10438).

    `strength` is alpha; `mappings` are pairs of (layers to balance, norm that feeds them), None to infer them; `algorithm`
    chooses how the scales are made.
    """

    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    mappings: tuple[tuple[tuple[str, ...], str], ...] | None = None
    ignore: tuple[str, ...] = ()
    algorithm: Literal["smoothquant", "log_equalization"] = "smoothquant"


class Gptq(Frozen):
    """Rounds weights column by column against the inputs' second moments (Frantar et al., arXiv 2210.17323).

    `actorder` "static", the default, gives way to what a group says; `batched_quantization` is how many layers of one shape are
    solved at once: "auto" as many as fit, None one by one.
    """

    block_size: Annotated[int, Field(ge=1)] = 128
    dampening_frac: Annotated[float, Field(gt=0)] = 0.01
    actorder: Literal["weight", "static"] | None = "static"
    batched_quantization: Literal["auto"] | Annotated[int, Field(ge=1)] | None = "auto"

    @field_validator("actorder", mode="before")
    @classmethod
    def _actorder_that_is_left(cls, value: Any) -> Any:
        return QuantArgs._actorder_that_is_left(value.lower() if isinstance(value, str) else value)


class Recipe(Frozen):
    """One decision.

    Attributes:
        groups: what is quantized; a layer that several take goes by exact name, then pattern, then class, and among those
            by the alphabet of the targets, as the engine does it.
        ignore: layers that stay in float, written as targets are.
        kv_cache: how keys and values are cached, None for float.
        gptq: GPTQ for the weights; None rounds to nearest.
        smoothquant: SmoothQuant before quantization, or None.
        bypass_divisibility_checks: let the engine take groups that do not divide a layer.
    """

    groups: tuple[QuantGroup, ...] = ()
    ignore: tuple[str, ...] = ()
    kv_cache: QuantArgs | None = None
    gptq: Gptq | None = None
    smoothquant: SmoothQuant | None = None
    bypass_divisibility_checks: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError("two groups have the same name")
        targets = Counter(target for group in self.groups for target in group.targets)
        if twice := [target for target, count in targets.items() if count > 1]:
            raise ValueError(f"the target {twice[0]!r} stands twice, so that only the last of the two would count")
        if self.kv_cache is not None and self.kv_cache.strategy not in CACHE_STRATEGIES:
            raise ValueError(f"a K/V cache has strategy {', '.join(CACHE_STRATEGIES)}, not {self.kv_cache.strategy}")
        if self.gptq is not None and self.gptq.actorder != "static":  # which is the default, and gives way to a group's own
            for group in self.groups:
                own = group.weights.actorder if group.weights is not None else None
                if own not in (None, self.gptq.actorder):
                    raise ValueError(f"GPTQModifier and group {group.name} name different actorders; keep one of the two")
        return self

    @property
    def needs_calibration(self) -> bool:
        """Whether anything static, or a method that looks at data, makes the recipe need samples."""
        static = [a for g in self.groups for a in (g.input_activations, g.output_activations) if a and a.dynamic is not True]
        kv = self.kv_cache is not None  # a dynamic one needs none, but the engine asks for samples all the same
        imatrix = any(g.weights and "imatrix" in (g.weights.observer or "") for g in self.groups)
        return bool(static) or kv or imatrix or self.gptq is not None or self.smoothquant is not None
