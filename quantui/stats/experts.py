"""Routed experts that transformers keeps as one module of stacked weights, looked at as the Linears they are.

Covered are the classes transformers marks with `use_experts_implementation` (Mixtral, Qwen MoE, DeepSeek, GPT-OSS and others):
their pass is done expert by expert, with the same products in the same order as their own eager code. Experts that are Linears
in a ModuleList need nothing of this. Other stacked classes are only seen from outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quantui.stats.collect import Collector

if TYPE_CHECKING:
    from torch import Tensor


def is_fused(module: Any) -> bool:
    """Whether a module is stacked experts of the kind covered here."""
    marks = ("is_transposed", "has_bias", "has_gate", "num_experts", "down_proj")
    down = getattr(module, "down_proj", None)
    return all(hasattr(module, mark) for mark in marks) and getattr(down, "ndim", 0) == 3


@contextmanager
def observed(name: str, module: Any, collector: Collector) -> Iterator[None]:
    """The module runs its experts one by one, and shows their inputs and outputs, while the block runs."""

    def forward(hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor, *_: Any, **__: Any) -> Tensor:
        return _forward(name, module, collector, hidden_states, top_k_index, top_k_weights)

    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def expert_weights(name: str, module: Any) -> Iterator[tuple[str, Tensor]]:
    """Every expert's projections as (name, weight of (out, in)), views of the stacked ones."""
    for number in range(module.num_experts):
        for projection, stacked in _stacks(module):
            weight = stacked[number].T if module.is_transposed else stacked[number]
            for part, rows in _parts(module, projection, weight.T):
                yield f"{name}.{number}.{part}", rows.T


def _stacks(module: Any) -> list[tuple[str, Tensor]]:
    first = "gate_up_proj" if module.has_gate else "up_proj"
    return [(first, getattr(module, first)), ("down_proj", module.down_proj)]


def _parts(module: Any, projection: str, x: Tensor) -> list[tuple[str, Tensor]]:
    """The projections a stacked one holds side by side in the last axis."""
    if projection != "gate_up_proj":
        return [(projection, x)]
    if getattr(module, "is_concatenated", True):
        gate, up = x.chunk(2, dim=-1)
    else:
        gate, up = x[..., ::2], x[..., 1::2]
    return [("gate_proj", gate), ("up_proj", up)]


def _forward(name: str, module: Any, collector: Collector, hidden: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """The pass of all experts.

    Args:
        hidden: (tokens, hidden).
        index: (tokens, k) the experts of each token.
        weights: (tokens, k) what each counts.
    """
    import torch

    shape = hidden.shape
    hidden = hidden.reshape(-1, shape[-1])
    result = torch.zeros_like(hidden)
    for number in torch.unique(index).tolist():
        if not 0 <= number < module.num_experts:
            continue  # a token that goes nowhere
        slot, token = torch.where((index == number).T)
        x = hidden[token]
        made = _project(module, _stacks(module)[0][0], x, number)
        _show(collector, name, module, number, _stacks(module)[0][0], x, made, token)
        inner = module._apply_gate(made) if module.has_gate else module.act_fn(made)
        out = _project(module, "down_proj", inner, number)
        _show(collector, name, module, number, "down_proj", inner, out, token)
        result.index_add_(0, token, (out * weights[token, slot, None]).to(result.dtype))
    return result.reshape(shape)


def _project(module: Any, projection: str, x: Tensor, number: int) -> Tensor:
    import torch

    weight = getattr(module, projection)[number]
    bias = getattr(module, f"{projection}_bias")[number] if module.has_bias else None
    return torch.nn.functional.linear(x, weight.T if module.is_transposed else weight, bias)


def _show(
    collector: Collector, name: str, module: Any, number: int, projection: str, x: Tensor, made: Tensor, token: Tensor
) -> None:
    for part, output in _parts(module, projection, made):
        collector.see(f"{name}.{number}.{part}", "input", x, tokens=token)
        collector.see(f"{name}.{number}.{part}", "output", output, tokens=token)
