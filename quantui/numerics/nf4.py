"""NormalFloat 4: sixteen levels at quantiles of a normal distribution, scaled by the largest magnitude of a block.

Source: Dettmers et al., QLoRA, arXiv 2305.14314.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantui.numerics.quantized import NF4_LEVELS

if TYPE_CHECKING:
    from torch import Tensor


def round_weight(weight: Tensor, size: int = 64) -> tuple[Tensor, Tensor]:
    """A weight (out, in) in NF4, by blocks of `size` consecutive values of the flattened weight.

    Returns:
        codes, uint8 in 0..15, (out, in); and the largest magnitude of each block, (out * in / size,), in the weight's dtype.
    """
    import torch

    view = weight.reshape(-1, size).float()
    absmax = view.abs().amax(1, keepdim=True)
    levels = torch.tensor(NF4_LEVELS, device=weight.device)
    middles = (levels[1:] + levels[:-1]) / 2
    codes = torch.bucketize(view / absmax.clamp(min=torch.finfo(torch.float32).tiny), middles)
    return codes.to(torch.uint8).reshape(weight.shape), absmax.flatten().to(weight.dtype)
