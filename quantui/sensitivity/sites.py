"""Where a model multiplies by a weight that can be quantized: its Linears, and experts that are kept stacked.

While a block `routed` runs, each of these products is done by a function of the caller's, which may do another one, look at
it, or both; keys and values pass through a second function on their way to the cache.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.inspect import Linear
from quantui.stats.experts import expert_weights, is_fused
from quantui.stats.hooks import cache_argument

if TYPE_CHECKING:
    from torch import Tensor

STORED = {"torch.bfloat16": "BF16", "torch.float16": "F16"}


@dataclass(frozen=True, eq=False)
class Site:
    """One product.

    Attributes:
        name: module name of the Linear; of a stacked expert "...experts.3.gate_proj".
        weight: (out, in), a view where it is part of a stack.
        bias: (out,) or None.
    """

    name: str
    weight: Tensor
    bias: Tensor | None

    def product(self, x: Tensor) -> Tensor:
        """The product as the model does it: (..., in) to (..., out)."""
        import torch

        return torch.nn.functional.linear(x, self.weight, self.bias)


Call = Callable[[Site, Any, Any], Any]
"""(site, its input (..., in), which of the batch's tokens its rows are or None for all in order) -> (..., out)."""
CacheCall = Callable[[str, str, Any], Any]
"""(attention module, "key" or "value", (rows, heads, tokens, dims)) -> the same shape."""


def sites_of(model: Any) -> list[Site]:
    """Every site, in the order of the modules."""
    import torch

    found = []
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            found.append(Site(name, module.weight, module.bias))
        elif is_fused(module):
            found += [Site(part, weight, None) for part, weight in expert_weights(name, module)]
    return found


def shapes_of(model: Any, dtype: Any = None) -> list[Linear]:
    """Every site as the recipe's layer: names and shapes.

    Args:
        dtype: what weights are stored in, where the model has been given another one to compute in.
    """
    return [
        Linear(site.name, site.weight.shape[0], site.weight.shape[1], STORED.get(str(dtype or site.weight.dtype), "F32"))
        for site in sites_of(model)
    ]


@contextmanager
def routed(model: Any, call: Call, cache_call: CacheCall | None = None) -> Iterator[None]:
    """The model does its products by `call`, and passes keys and values through `cache_call`, while the block runs."""
    import torch

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Linear):
                site = Site(name, module.weight, module.bias)
                stack.enter_context(instead(module, functools.partial(_linear, call, site)))
            elif is_fused(module):
                stack.enter_context(instead(module, functools.partial(_experts, call, name, module)))
            elif cache_call is not None and (argument := cache_argument(module)) is not None:
                hook = functools.partial(_offer, argument, cache_call, name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def instead(module: Any, forward: Callable[..., Any]) -> Iterator[None]:
    """The module computes by another function while the block runs."""
    had, before = "forward" in vars(module), vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if had:
            module.forward = before
        else:
            del module.forward


def _linear(call: Call, site: Site, x: Tensor) -> Any:
    return call(site, x, None)


def _experts(call: Call, name: str, module: Any, hidden: Tensor, index: Tensor, weights: Tensor, *_: Any, **__: Any) -> Tensor:
    """The pass of stacked experts, one expert and projection at a time.

    Args:
        hidden: (tokens, hidden).
        index: (tokens, k) the experts of each token.
        weights: (tokens, k) what each counts.
    """
    import torch

    sites = _expert_sites(name, module)
    shape, hidden = hidden.shape, hidden.reshape(-1, hidden.shape[-1])
    result = torch.zeros_like(hidden)
    for number in torch.unique(index).tolist():
        if not 0 <= number < module.num_experts:
            continue  # a token that goes nowhere
        slot, token = torch.where((index == number).T)
        made = {part: call(site, hidden[token], token) for part, site in sites[number].items() if part != "down_proj"}
        if module.has_gate:
            halves = [made["gate_proj"], made["up_proj"]]
            together = (
                torch.cat(halves, -1) if getattr(module, "is_concatenated", True) else torch.stack(halves, -1).flatten(-2)
            )
            inner = module._apply_gate(together)
        else:
            inner = module.act_fn(made["up_proj"])
        out = call(sites[number]["down_proj"], inner, token)
        result = result.index_add(0, token, (out * weights[token, slot, None]).to(result.dtype))
    return result.reshape(shape)


def _expert_sites(name: str, module: Any) -> dict[int, dict[str, Site]]:
    found: dict[int, dict[str, Site]] = {}
    for part, weight in expert_weights(name, module):
        number, projection = part[len(name) + 1 :].split(".")
        found.setdefault(int(number), {})[projection] = Site(part, weight, _expert_bias(module, projection, int(number)))
    return found


def _expert_bias(module: Any, projection: str, number: int) -> Tensor | None:
    if not module.has_bias:
        return None
    if projection in ("gate_proj", "up_proj") and hasattr(module, "gate_up_proj_bias"):
        both: Tensor = module.gate_up_proj_bias[number]
        second = projection == "up_proj"
        if getattr(module, "is_concatenated", True):
            return both.chunk(2)[second]
        return both[second::2]
    bias: Tensor = getattr(module, f"{projection}_bias")[number]
    return bias


def _offer(
    argument: str, call: CacheCall, name: str, _module: Any, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    return args, kwargs | {argument: _PassedCache(call, name, kwargs.get(argument))}


class _PassedCache:
    """Stands before a layer's cache, or for it where a single forward pass needs none: passes on what is written to it."""

    def __init__(self, call: CacheCall, name: str, own: Any) -> None:
        self._call, self._name, self._own = call, name, own

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Takes keys and values as (rows, heads, tokens, dims), keys after their rotation."""
        key, value = self._call(self._name, "key", key), self._call(self._name, "value", value)
        return (key, value) if self._own is None else self._own.update(key, value, *args, **kwargs)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Tokens in the cache before this pass."""
        return 0 if self._own is None else int(self._own.get_seq_length(*args, **kwargs))
