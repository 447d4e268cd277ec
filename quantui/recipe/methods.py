"""What is done to a model around rounding: outlier suppression, the ways to round, automatic fallback, sparse weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from quantui.recipe.args import Frozen, actorder_that_is_left

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]


class SmoothQuant(Frozen):
    """Moves outliers from activations into weights before quantization (Xiao et al., arXiv 2211.10438).

    `strength` is alpha; `mappings` are pairs of (layers to balance, norm that feeds them), None to infer them; `algorithm`
    chooses how the scales are made.
    """

    strength: Share = 0.5
    mappings: tuple[tuple[tuple[str, ...], str], ...] | None = None
    ignore: tuple[str, ...] = ()
    algorithm: Literal["smoothquant", "log_equalization"] = "smoothquant"


class AwqMapping(Frozen):
    """A layer whose output channels are scaled, and the layers that undo it; `activation_hook_target` says where to look on."""

    smooth_layer: str
    balance_layers: Annotated[tuple[str, ...], Field(min_length=1)]
    activation_hook_target: str | None = None


class Awq(Frozen):
    """Scales input channels by a grid search so that the salient weights round well (Lin et al., arXiv 2306.00978).

    `duo_scaling` looks at weights as well as activations, "both" tries either; `n_grid` is how many strengths are tried;
    `mappings` None infers them; `offload_device` None keeps cached inputs where they are, "default" lets the engine choose.
    """

    duo_scaling: bool | Literal["both"] = True
    n_grid: Count = 20
    mappings: tuple[AwqMapping, ...] | None = None
    offload_device: Literal["default"] | None = "default"


class OutlierSuppression(Frozen):
    """msModelSlim's ways to move outliers into weights: m1, m2, m4 (iterative smooth), m5 and m6 (flex smooth).

    m1 is SmoothQuant with that program's own scales, and m3 is AWQ; lmdeploy is AWQ with a fixed strength as that program does
    it. `alpha` and `beta` are the exponents of activations and
    weights (alpha alone for m5, neither for m2), None for what the method itself chooses or searches; layers in `ignore` are
    left as they are.
    """

    method: Literal["m1", "m2", "m4", "m5", "m6", "lmdeploy"]
    alpha: Share | None = None
    beta: Share | None = None
    ignore: tuple[str, ...] = ()


class Gptq(Frozen):
    """Rounds weights column by column against the inputs' second moments (Frantar et al., arXiv 2210.17323).

    `actorder` "static", the default, gives way to what a group says; `batched_quantization` is how many layers of one shape are
    solved at once: "auto" as many as fit, None one by one.
    """

    block_size: Count = 128
    dampening_frac: Annotated[float, Field(gt=0)] = 0.01
    actorder: Literal["weight", "static"] | None = "static"
    batched_quantization: Literal["auto"] | Count | None = "auto"

    @field_validator("actorder", mode="before")
    @classmethod
    def _actorder_that_is_left(cls, value: Any) -> Any:
        return actorder_that_is_left(value.lower() if isinstance(value, str) else value)


class AutoRound(Frozen):
    """Learns rounding and clipping block by block with signed gradients (Cheng et al., arXiv 2309.05516).

    `iters` steps a block; `lr` None is 1 / iters; `device_ids` spreads a block over devices ("0,1"); `disable_opt_rtn` leaves
    out the better rounding to nearest that is used where iters is 0.
    """

    iters: Annotated[int, Field(ge=0)] = 200
    batch_size: Count = 8
    enable_torch_compile: bool = True
    lr: Annotated[float, Field(gt=0)] | None = None
    device_ids: str | None = None
    disable_opt_rtn: bool = False


class Hqq(Frozen):
    """Finds zero points by half-quadratic splitting, without data (Badri and Shaji, mobiusml.github.io/hqq_blog).

    `lp_norm` below 1 makes it forgive outliers; `beta` is the first penalty and `kappa` what each iteration multiplies it by.
    """

    iterations: Count = 20
    lp_norm: Annotated[float, Field(gt=0, le=1)] = 0.7
    beta: Annotated[float, Field(gt=0)] = 10.0
    kappa: Annotated[float, Field(ge=1)] = 1.01


class Sparse(Frozen):
    """4-bit weights with the few largest kept at 8 bits beside them (W4A8S).

    The outliers are a `fraction` of all weights, or those beyond `sigma` standard deviations where that is given.
    """

    fraction: Annotated[float, Field(ge=0.01, le=0.1)] = 0.01
    sigma: Annotated[float, Field(ge=1, le=6)] | None = None


class Fallback(Frozen):
    """Layers that go back to float by themselves, the most sensitive first.

    Either `level`, how many of them (L0 is none), or `bits_per_weight`, which the whole model may have on average.
    """

    level: Annotated[int, Field(ge=0)] | None = None
    bits_per_weight: Annotated[float, Field(ge=2, le=16)] | None = None

    @model_validator(mode="after")
    def _says_one_of_them(self) -> Self:
        if (self.level is None) == (self.bits_per_weight is None):
            raise ValueError("automatic fallback goes by a level or by bits_per_weight: give one of the two")
        return self
