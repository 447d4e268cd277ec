"""How one kind of tensor is quantized: the numbers of one scheme for weights, activations or a K/V cache."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Strategy = Literal["tensor", "channel", "group", "block", "token", "tensor_group", "attn_head"]
Dtype = Literal[
    "torch.uint8", "torch.int8", "torch.int16", "torch.int32", "torch.float8_e4m3fn", "torch.float8_e5m2", "torch.float16",
    "torch.bfloat16", "torch.float32", "torch.float64",
]  # fmt: skip
ACTIVATION_STRATEGIES = ("token", "tensor", "group", "tensor_group", "attn_head")
WEIGHT_STRATEGIES = ("tensor", "channel", "group", "block", "tensor_group")
CACHE_STRATEGIES = ("tensor", "attn_head", "channel", "token")
DYNAMIC_STRATEGIES = ("token", "tensor", "group", "tensor_group")
ENGINE_OBSERVERS = (
    "static_minmax", "minmax", "memoryless_minmax", "mse", "memoryless_mse", "imatrix_mse",
    "nvfp4_expanded_mse", "fouroversix", "nvfp4_expanded_imatrix",
)  # fmt: skip
OWN_OBSERVERS = ("histogram", "auto")
"""Ranges this program finds itself: the histogram's best cut, and the better of that and the extremes, layer by layer."""
EXACT_OBSERVERS = ("msmodelslim", "lmdeploy")
"""Scales exactly as other programs make them: weights by msModelSlim's or lmdeploy's formulas, activations as the former's
act_method 1, which averages the extremes of batches."""
LEVELS_OBSERVER = "nf4"
"""Weights go to the 16 levels of NF4 under the largest magnitude of each group instead of to integers."""
OBSERVERS = (*ENGINE_OBSERVERS, *OWN_OBSERVERS, *EXACT_OBSERVERS, LEVELS_OBSERVER)


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
        observer: how a static range is made from what calibration saw ("static_minmax", "mse", "minmax": moving average;
            "histogram" and "auto" are ours, "msmodelslim" and "lmdeploy" do as those programs,
            "nf4" rounds 4-bit weights to the levels of NF4).
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
        return actorder_that_is_left(value)

    @field_validator("observer")
    @classmethod
    def _observer_that_exists(cls, value: str | None) -> str | None:
        return None if value is None else known_observer(value)

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


def known_observer(name: str) -> str:
    """The observer's name as it is spelled here; the engine takes any case, and dashes or spaces for underscores.

    Raises:
        ValueError: there is none of that name; the nearest is named.
    """
    known = re.sub(r"[- ]", "_", name.lower())
    if known in OBSERVERS:
        return known
    close = difflib.get_close_matches(known[:100], OBSERVERS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise ValueError(f"unknown observer {name[:100]!r}: {hint}valid are {', '.join(OBSERVERS)}")


def actorder_that_is_left(value: Any) -> Any:
    """The value, unless it is a column order that the engine no longer has.

    Raises:
        ValueError: it is.
    """
    if value in (True, "group", "dynamic"):
        raise ValueError("reordering by group has been removed from the engine: use weight or static")
    return value
