"""The Muon optimizer in float32: momentum whose matrix is made orthogonal before it is applied.

torch.optim.Muon does the same in bfloat16, which is several times slower than float32 on most CPUs.
Source: Keller Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the update size of AdamW as in
Liu et al., "Muon is Scalable for LLM Training" (2025).
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz quintic
STEPS = 5


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the closest semi-orthogonal matrices; (count, rows, columns) in and out."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.mT


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, matrices of one shape handled together."""

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.05) -> None:
        """Every parameter has two axes."""
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update from the gradients."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, members in shapes.items():
                size = group["lr"] * 0.2 * math.sqrt(max(shape))
                for parameter, update in zip(members, orthogonal(self._momenta(members, group["momentum"])), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-size)

    def _momenta(self, members: list[nn.Parameter], momentum: float) -> Tensor:
        """The Nesterov momenta of parameters of one shape, stacked."""
        out = []
        for parameter in members:
            assert parameter.grad is not None
            state = self.state[parameter]
            buffer = state.setdefault("momentum", torch.zeros_like(parameter))
            buffer.lerp_(parameter.grad, 1 - momentum)
            out.append(parameter.grad.lerp(buffer, momentum))
        return torch.stack(out)
