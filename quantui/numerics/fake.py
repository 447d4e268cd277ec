"""What quantizing and dequantizing makes of a tensor, with the engine's own arithmetic.

Scales are those of its minmax observer. Source: compressed_tensors/quantization/utils/helpers.py and lifecycle/forward.py of
0.19.0, which are called here; integer activations take a shorter way to the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantui.numerics.float8 import castable
from quantui.recipe.schema import QuantArgs

if TYPE_CHECKING:
    from torch import Tensor


def fake_weight(weight: Tensor, args: QuantArgs) -> Tensor:
    """A weight (out, in) as it comes back from being quantized, in its own dtype."""
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils.helpers import calculate_qparams, generate_gparam

    theirs = engine_args(args)
    with torch.no_grad():
        if (grid := Grid.of(weight, args)) is not None:
            return grid.back(grid.codes(weight))
        device, weight = weight.device, castable(weight) if args.type == "float" else weight
        low, high = _extremes(weight, args)
        whole = generate_gparam(weight.amin(), weight.amax()) if args.strategy == "tensor_group" else None
        scale, zero = calculate_qparams(low, high, theirs, global_scale=whole)
        made: Tensor = fake_quantize(weight, scale, zero, theirs, global_scale=whole)
    return made.to(device, weight.dtype)


@dataclass(frozen=True)
class Grid:
    """The grid of a symmetric integer weight: fewer passes over it than the engine's own way to the same numbers.

    Attributes:
        steps: what a code is worth, of a shape that divides the weight, or its groups (out, groups, in each).
        bits: of a code.
        is_grouped: whether steps are those of groups.
    """

    steps: Tensor
    bits: int
    is_grouped: bool

    @classmethod
    def of(cls, weight: Tensor, args: QuantArgs) -> Grid | None:
        """The grid of a weight (out, in); None where the scheme is of another kind."""
        from compressed_tensors.quantization.utils.helpers import calculate_qparams

        if args.type != "int" or not args.symmetric or args.strategy not in ("tensor", "channel", "group"):
            return None
        scale, _ = calculate_qparams(*_extremes(weight, args), engine_args(args))
        grouped = args.strategy == "group"
        return cls(scale.unsqueeze(-1) if grouped else scale, args.num_bits, grouped)

    def codes(self, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """Whole numbers in the weight's dtype, by groups where there are some."""
        import torch

        half: int = 2 ** (self.bits - 1)
        made = torch.div(self._view(weight), self.steps, out=None if out is None else self._view(out))
        return made.round_().clamp_(-half, half - 1)

    def back(self, codes: Tensor, out: Tensor | None = None) -> Tensor:
        """The weight (out, in) of codes of any dtype; those of the weight's own dtype are written over."""
        made = codes.to(self.steps.dtype) if out is None or codes.dtype == self.steps.dtype else self._view(out).copy_(codes)
        made.mul_(self.steps)
        return made.flatten(1) if self.is_grouped else made

    def _view(self, weight: Tensor) -> Tensor:
        return weight.unflatten(1, (self.steps.shape[1], -1)) if self.is_grouped else weight


def fake_activation(x: Tensor, args: QuantArgs, low: Any = None, high: Any = None) -> Tensor:
    """An activation (..., channels) as it comes back from being quantized, in its own dtype.

    Args:
        low: smallest value of a static range, a tensor of no dimensions or a float; not read where the scale is dynamic.
        high: its largest value.
    """
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils.helpers import calculate_qparams, compute_dynamic_scales_and_zp, generate_gparam

    with torch.no_grad():
        if args.type == "int" and args.symmetric and args.strategy in ("tensor", "token"):
            return _symmetric(x, args, low, high)
        theirs = engine_args(args)
        whole, device = None, x.device
        x = castable(x) if args.type == "float" else x
        if args.strategy == "tensor_group":
            bounds = (x.amin(), x.amax()) if low is None else (_like(low, x), _like(high, x))
            whole = generate_gparam(*bounds)
        if args.dynamic:
            view = x if x.dim() > 2 else x.unsqueeze(0)  # the engine reduces all but the first two axes
            scale, zero = compute_dynamic_scales_and_zp(view, theirs, None, global_scale=whole)
            return fake_quantize(view, scale, zero, theirs, global_scale=whole).reshape(x.shape).to(device, x.dtype)
        scale, zero = calculate_qparams(_like(low, x).reshape(1), _like(high, x).reshape(1), theirs, global_scale=whole)
        return fake_quantize(x, scale, zero, theirs, global_scale=whole).to(device, x.dtype)


def fake_cache(x: Tensor, args: QuantArgs, low: Tensor, high: Tensor) -> Tensor:
    """Keys or values (rows, heads, tokens, dims) with static scales, as their cache gives them back.

    Args:
        low: smallest values by head and dim, (heads, dims).
        high: largest values, the same shape.
    """
    import torch
    from compressed_tensors.quantization.utils.helpers import calculate_qparams, calculate_range

    if args.strategy == "tensor":
        low, high = low.amin().reshape(1, 1, 1), high.amax().reshape(1, 1, 1)
    elif args.strategy == "attn_head":
        low, high = low.amin(1)[:, None, None], high.amax(1)[:, None, None]
    else:
        low, high = low[:, None, :], high[:, None, :]
    theirs = engine_args(args)
    device = x.device
    with torch.no_grad():
        if args.type == "float":
            x, low, high = castable(x), castable(low), castable(high)
        scale, zero = calculate_qparams(low, high, theirs)
        lowest, highest = calculate_range(theirs, x.device)
        codes = x / scale + zero.to(x.dtype)
        if args.type == "float":
            codes = codes.clamp(lowest, highest).to(torch.float8_e4m3fn).to(x.dtype)
        else:
            codes = codes.round_().clamp_(lowest, highest)
        return ((codes - zero.to(x.dtype)) * scale).to(device)


def engine_args(args: QuantArgs) -> Any:
    """The engine's object for the same numbers."""
    from compressed_tensors.quantization import QuantizationArgs

    fields = args.model_dump(exclude={"observer_kwargs", "observer", "actorder"}, exclude_none=True)
    if "block_structure" in fields:
        fields["block_structure"] = list(fields["block_structure"])
    return QuantizationArgs(**fields)


def _symmetric(x: Tensor, args: QuantArgs, low: Any, high: Any) -> Tensor:
    import torch

    if args.strategy == "token":
        reach = x.abs().amax(-1, keepdim=True)
    elif args.dynamic:
        reach = x.abs().amax()
    else:
        reach = torch.maximum(_like(low, x).abs(), _like(high, x).abs())
    half = (2**args.num_bits - 1) / 2
    scale = reach / half
    scale = torch.where(scale == 0, torch.finfo(scale.dtype).eps, scale)
    lowest, highest = -(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1) - 1
    return (x / scale).round_().clamp_(lowest, highest).mul_(scale)


def _like(value: Any, x: Tensor) -> Tensor:
    import torch

    return torch.as_tensor(value, dtype=x.dtype, device=x.device)


def _extremes(weight: Tensor, args: QuantArgs) -> tuple[Tensor, Tensor]:
    """Smallest and largest value of what shares a scale, in the shape the engine keeps scales in."""
    if args.strategy == "tensor":
        return weight.amin().reshape(1), weight.amax().reshape(1)
    if args.strategy == "channel":
        return weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    if args.strategy == "block" and args.block_structure is not None:
        import torch

        rows, columns = args.block_structure
        gaps = (0, -weight.shape[1] % columns, 0, -weight.shape[0] % rows)
        tiles = torch.nn.functional.pad(weight, gaps).unflatten(0, (-1, rows)).unflatten(2, (-1, columns))
        return tiles.amin((1, 3)), tiles.amax((1, 3))
    assert args.group_size is not None
    groups = weight.unflatten(1, (-1, args.group_size))
    return groups.amin(-1), groups.amax(-1)
