"""Hooks that show a collector every Linear, norm, routed expert and K/V cache of a model."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from quantui.stats.collect import Collector
from quantui.stats.experts import is_fused, observed
from quantui.stats.linears import is_linear

if TYPE_CHECKING:
    from torch import Tensor

CACHE_ARGUMENTS = ("past_key_values", "past_key_value", "layer_past")
"""What transformers' attention modules call the cache they write to."""


@contextmanager
def watching(model: Any, collector: Collector) -> Iterator[None]:
    """Shows the collector what passes through the model while the block runs; the numbers of the model do not change."""
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if is_linear(module):
                handle = module.register_forward_hook(functools.partial(_linear, collector, name), with_kwargs=True)
                stack.callback(handle.remove)
            elif is_norm(module):
                stack.callback(module.register_forward_hook(functools.partial(_norm, collector, name)).remove)
            elif is_fused(module):
                stack.enter_context(observed(name, module, collector))
            elif (argument := cache_argument(module)) is not None:
                hook = functools.partial(_offer_cache, _Cache(collector, name), argument)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


def is_norm(module: Any) -> bool:
    """Whether a module normalizes the last axis, the one that channels are in; norms of pictures have them in another."""
    kind = type(module).__name__.lower()
    pictures = ("batchnorm", "groupnorm", "instancenorm")
    return "norm" in kind and not any(one in kind for one in pictures) and not any(True for _ in module.children())


def cache_argument(module: Any) -> str | None:
    """Under which name an attention module takes the cache; None for modules that are no attention or write no keys to it."""
    name = type(module).__name__.lower()
    if "attention" not in name and not name.endswith("attn"):
        return None
    called = inspect.unwrap(type(module).forward).__code__.co_names
    if any("linear_cache" in one for one in called):  # linear attention, as MiniMax has it, keeps a state there
        return None
    parameters = inspect.signature(module.forward).parameters
    return next((argument for argument in CACHE_ARGUMENTS if argument in parameters), None)


def _linear(collector: Collector, name: str, _module: Any, args: Any, kwargs: Any, output: Any) -> None:
    x = args[0] if args else next(iter(kwargs.values()), None)
    if x is not None:
        collector.see(name, "input", x)
    if hasattr(output, "is_floating_point"):  # routers that are Linears by inheritance give several things
        collector.see(name, "output", output)


def _norm(collector: Collector, name: str, _module: Any, _args: Any, output: Any) -> None:
    if hasattr(output, "is_floating_point"):
        collector.see(name, "output", output)


def _offer_cache(cache: _Cache, argument: str, _module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    cache.inner = kwargs.get(argument)
    return args, kwargs | {argument: cache}


class _Cache:
    """Stands in front of a layer's cache: shows what is written to it and passes it on.

    Attributes:
        inner: the cache behind; None keeps nothing, as a single forward pass needs none.
    """

    def __init__(self, collector: Collector, name: str) -> None:
        self._collector, self._name = collector, name
        self.inner: Any = None

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Takes keys and values as (1, heads, tokens, dims), keys after their rotation."""
        for role, x in (("key", key), ("value", value)):
            if x.dim() == 4 and x.shape[0] == 1:
                rows = x[0].transpose(0, 1)  # (tokens, heads, dims)
                shape = (rows.shape[1], rows.shape[2])
                self._collector.see(self._name, role, x, rows=rows.reshape(rows.shape[0], -1), shape=shape)  # type: ignore[arg-type]
        if self.inner is None:
            return key, value
        return self.inner.update(key, value, *args, **kwargs)

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Tokens in the cache before this pass."""
        return 0 if self.inner is None else int(self.inner.get_seq_length(*args, **kwargs))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__.get("inner"), name)
