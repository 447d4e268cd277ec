"""The outcome of quantization for one Linear, and for the K/V cache of one attention layer: what every format is about.

A weight comes back as `(codes - zero) * scale`, with a second scale where there are two. The codes stand one by one and
unpacked; how they are packed, named and laid out in files is the matter of `quantui.formats`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Kind = Literal["int", "float8", "float4", "nf4"]
"""What a code is: a signed integer, float8 e4m3, the number of a float4 e2m1 value, or of one of the 16 NF4 levels."""

Strategy = Literal["tensor", "channel", "group", "block"]
"""What one scale covers: the whole weight, an output row, some columns of a row, or a rectangle."""

FP4_LEVELS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Float4 e2m1 by its four bits, the sign in the highest. Source: OCP Microscaling Formats v1.0, section 5.3.3."""

NF4_LEVELS = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Quantiles of a normal distribution. Source: Dettmers et al. 2023, QLoRA, appendix E."""


@dataclass(frozen=True)
class Weights:
    """How the weight of a layer is quantized.

    Attributes:
        kind: what a code is.
        bits: width of a code.
        strategy: what one scale covers.
        group_size: columns it covers, where the strategy is group; elements of the flattened weight for nf4.
        symmetric: the zero point is 0 everywhere.
        block: rows and columns it covers, where the strategy is block.
        two_stage: integer group scales under one scale a row (W4A8_DYNAMIC), or float8 ones under one for the tensor (nvfp4).
        power_of_two: scales are powers of two (mxfp4, mxfp8).
        sparse: most codes fit into 4 bits, outliers take 8, and no scale but that of the accumulated products is kept (W8A8S).
        ranks: tensor-parallel ranks that the columns are dealt to, each with scales of its own; 0 where none are simulated.
    """

    kind: Kind = "int"
    bits: int = 8
    strategy: Strategy = "channel"
    group_size: int | None = None
    symmetric: bool = True
    block: tuple[int, int] | None = None
    two_stage: bool = False
    power_of_two: bool = False
    sparse: bool = False
    ranks: int = 0


@dataclass(frozen=True)
class Inputs:
    """How the input of a layer is quantized while the model runs.

    Attributes:
        kind: int, float8 or float4.
        bits: width of a code.
        strategy: what one scale covers: everything, one token, some of its channels, or those under one scale for everything.
        dynamic: taken from each input; "local" where only the scale for everything was calibrated.
        symmetric: the zero point is 0.
        group_size: channels a scale covers.
    """

    kind: Literal["int", "float8", "float4"] = "int"
    bits: int = 8
    strategy: Literal["tensor", "token", "group", "tensor_group"] = "tensor"
    dynamic: bool | Literal["local"] = False
    symmetric: bool = True
    group_size: int | None = None

    @property
    def by_rank(self) -> bool:
        """Whether every tensor-parallel rank has a static scale for its channels."""
        return self.kind == "int" and self.strategy == "group" and self.dynamic is False


@dataclass(frozen=True)
class Outline:
    """What is known of a quantized layer from a recipe or from headers, before any tensor is read.

    `reordered` columns belong to groups that are not neighbours.
    """

    name: str
    weights: Weights
    inputs: Inputs | None
    rows: int
    columns: int
    bias: bool = False
    reordered: bool = False


@dataclass(frozen=True, eq=False)
class QuantizedLayer:
    """One quantized Linear.

    Every tensor may also be on the meta device: shapes and dtypes then hold, and `codes` is what they are taken from.

    Attributes:
        name: of the module, "model.layers.0.self_attn.q_proj".
        weights: how its weight is quantized.
        inputs: how its input is, or None where it stays float.
        codes: (out, in): int8 for int, float8_e4m3fn for float8, uint8 in 0..15 for float4 and nf4.
        scale: () or (1,) by tensor, (out, 1) by channel, (out, groups) by group, (out blocks, in blocks) by block, (out * in /
            group_size,) for nf4 (the absmax of each block); any float dtype. None where the file does not keep it.
        zero: in the sense of the codes, of the shape of `scale` and any dtype; None means 0.
        second: (out, groups): multiplies `scale` where that is by channel (W4A8_DYNAMIC).
        divisor: (1,) float32: divides `scale` (nvfp4's global scale).
        group_index: (in,) int32: which group each column belongs to, where that is not its place divided by the group size.
        bias: (out,) of the layer, in the model's dtype.
        input_scale: (1,) of a static input, (ranks,) where each tensor-parallel rank has its own.
        input_zero: of that shape, in the sense of signed codes; None means 0.
        input_divisor: (1,) float32: the calibrated scale of a "local" input.
        quant_bias: (out,) int32: what is added to the accumulated products; None where a format has to compute it.
        deq_scale: (out,) float32: what they are multiplied by; None where a format has to compute it.
        reduce_scale: (ranks, out) or (1, out): of the int8 parts of an output that ranks send; None where they send floats.
        gather_scale: (out,): of the int8 sum that they send.
        dtype: of the float model, "bfloat16".
    """

    name: str
    weights: Weights
    inputs: Inputs | None
    codes: Tensor
    scale: Tensor | None
    zero: Tensor | None = None
    second: Tensor | None = None
    divisor: Tensor | None = None
    group_index: Tensor | None = None
    bias: Tensor | None = None
    input_scale: Tensor | None = None
    input_zero: Tensor | None = None
    input_divisor: Tensor | None = None
    quant_bias: Tensor | None = None
    deq_scale: Tensor | None = None
    reduce_scale: Tensor | None = None
    gather_scale: Tensor | None = None
    dtype: str = "float32"

    @property
    def outline(self) -> Outline:
        """Everything but the tensors."""
        rows, columns = self.codes.shape
        return Outline(self.name, self.weights, self.inputs, rows, columns, self.bias is not None, self.group_index is not None)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """The weight as it comes back, (out, in), in float32 or the dtype asked for; computed in float32.

        Raises:
            ValueError: the file it was read from does not keep its scales.
        """
        import torch

        made = self._values()
        scale = self._scale()
        if self.weights.kind == "nf4":
            made = (made.reshape(scale.numel(), -1) * scale.reshape(-1, 1)).reshape(made.shape)
        else:
            if self.zero is not None:
                made = made.sub_(spread(self.zero.float(), self.weights, made.shape, self.group_index))
            made = made.mul_(spread(scale, self.weights, made.shape, self.group_index))
        return made.to(dtype or torch.float32)

    def _values(self) -> Tensor:
        import torch

        if self.weights.kind in ("int", "float8"):
            return self.codes.to(torch.float32)
        levels = NF4_LEVELS if self.weights.kind == "nf4" else FP4_LEVELS
        return torch.tensor(levels, device=self.codes.device)[self.codes.to(torch.int32)]

    def _scale(self) -> Tensor:
        if self.scale is not None:
            scale = self.scale.float()
            if self.second is not None:
                scale = scale * self.second.float()
            return scale if self.divisor is None else scale / self.divisor.float()
        if self.deq_scale is not None and self.input_scale is not None:
            return (self.deq_scale.float() / self.input_scale.float()).reshape(-1, 1)
        raise ValueError(f"the scales of {self.name} are not kept")


TENSORS = tuple(item.name for item in fields(QuantizedLayer) if item.name not in ("name", "weights", "inputs", "dtype"))
"""The fields of a layer that hold tensors."""


def spread(values: Tensor, weights: Weights, shape: torch.Size | tuple[int, ...], group_index: Tensor | None = None) -> Tensor:
    """Values by tensor, channel, group or block, in a shape that broadcasts over a weight of `shape`, (out, in)."""
    rows, columns = shape
    if values.numel() == 1:
        return values.reshape(1, 1)
    if weights.strategy == "block":
        height, width = weights.block or (1, 1)
        return values.repeat_interleave(height, 0)[:rows].repeat_interleave(width, 1)[:, :columns]
    if values.ndim == 1 or values.shape[1] == 1:
        return values.reshape(-1, 1)
    if group_index is not None:
        return values[:, group_index.long()]
    size = weights.group_size or -(-columns // values.shape[1])
    return values.repeat_interleave(size, 1)[:, :columns]


@dataclass(frozen=True)
class CacheOutline:
    """What is known of a quantized K/V cache from a recipe; the fields are those of CacheScales."""

    kind: Literal["int", "float8"]
    bits: int
    strategy: Literal["tensor", "head", "channel"]
    before_rope: bool


@dataclass(frozen=True, eq=False)
class CacheScales:
    """What the keys and values of one attention layer are quantized with.

    q = round(x / scale) + zero, x = (q - zero) * scale.

    Attributes:
        name: of the attention module, "model.layers.0.self_attn".
        kind: int or float8.
        bits: width of a code.
        strategy: what one scale covers: everything, a head, or a channel of a head.
        before_rope: the keys are those that the projection gives, before they are rotated.
        key_scale, value_scale: (1,) by tensor, (heads,) by head, (heads * head_dim,) by channel.
        key_zero, value_zero: of that shape; None means 0.
        key, value: names of the linears they are named after where the format names them so, "....self_attn.k_proj".
    """

    name: str
    kind: Literal["int", "float8"]
    bits: int
    strategy: Literal["tensor", "head", "channel"]
    before_rope: bool
    key_scale: Tensor
    value_scale: Tensor
    key_zero: Tensor | None = None
    value_zero: Tensor | None = None
    key: str = ""
    value: str = ""
