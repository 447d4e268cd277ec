"""The recipe: what is quantized, how, and what stays in float. Plain frozen data in no vocabulary but the field's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Strategy = Literal["tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"]


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
            attention head, or a tensor and a group both (NVFP4). None leaves the choice to the engine.
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
    strategy: Strategy | None = None
    group_size: Annotated[int, Field(ge=1)] | None = None
    block_structure: tuple[int, int] | None = None
    dynamic: bool | Literal["local"] = False
    observer: str | None = None
    observer_kwargs: dict[str, Any] = Field(default_factory=dict)
    actorder: Literal["weight", "group", "static", "dynamic"] | bool | None = None
    scale_dtype: str | None = None
    zp_dtype: str | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.type == "float" and self.num_bits not in (4, 8):
            raise ValueError(f"float quantization has 4 or 8 bits, not {self.num_bits}")
        if self.strategy in ("group", "tensor_group") and self.group_size is None:
            raise ValueError(f"strategy {self.strategy} needs a group_size")
        if self.strategy == "block" and self.block_structure is None:
            raise ValueError("strategy block needs a block_structure, for example [128, 128]")
        return self


class QuantGroup(Frozen):
    """Layers that are quantized alike.

    `targets` are class names ("Linear"), full module names, or `re:` patterns that match from the start of the name.
    None for weights, inputs or outputs leaves those in float.
    """

    name: str
    targets: tuple[str, ...] = ("Linear",)
    weights: QuantArgs | None = None
    input_activations: QuantArgs | None = None
    output_activations: QuantArgs | None = None
    format: str | None = None


class SmoothQuant(Frozen):
    """Moves outliers from activations into weights before quantization (Xiao et al., arXiv 2211.10438).

    `strength` is alpha; `mappings` are pairs of (layers to balance, norm that feeds them), None to infer them.
    """

    strength: Annotated[float, Field(ge=0, le=1)] = 0.5
    mappings: tuple[tuple[tuple[str, ...], str], ...] | None = None
    ignore: tuple[str, ...] = ()


class Gptq(Frozen):
    """Rounds weights column by column against the inputs' second moments (Frantar et al., arXiv 2210.17323)."""

    block_size: Annotated[int, Field(ge=1)] = 128
    dampening_frac: Annotated[float, Field(gt=0)] = 0.01
    actorder: Literal["weight", "static", "dynamic"] | None = "static"


class Recipe(Frozen):
    """One decision.

    Attributes:
        groups: what is quantized; a layer that several take goes by exact name, then pattern, then class, then order.
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

    @property
    def needs_calibration(self) -> bool:
        """Whether anything static, or a method that looks at data, makes the recipe need samples."""
        static = [a for g in self.groups for a in (g.input_activations, g.output_activations) if a and a.dynamic is not True]
        kv = self.kv_cache is not None and not self.kv_cache.dynamic
        imatrix = any(g.weights and (g.weights.observer or "").startswith("imatrix") for g in self.groups)
        return bool(static) or kv or imatrix or self.gptq is not None or self.smoothquant is not None
