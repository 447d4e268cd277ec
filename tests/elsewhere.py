"""A device that is not there: tensors that say they are elsewhere and compute on the CPU, each step checked as CUDA would.

Unlike torch's fake tensors these hold numbers, so that steps that hang on values run too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = "lazy"
"""The one that a build of torch without any accelerator makes tensors for."""

MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
"""Steps between devices."""

There = Callable[[torch.Tensor], torch.Tensor]
"""What brings a tensor to it."""


class Elsewhere(torch.Tensor):
    """A tensor on that device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> Elsewhere:
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE, storage_offset=inner.storage_offset()
        )
        made.inner = inner
        return made  # type: ignore[no-any-return]

    def tolist(self) -> Any:
        """The numbers, which torch gives of its own tensors alone."""
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} outside of `elsewhere`")


class _Device(TorchDispatchMode):
    """Runs every step, after it was checked."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        there = any(isinstance(tensor, Elsewhere) for tensor in tensors)
        if there and func not in MOVES:
            strays = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
            assert not strays, f"{func} of a tensor that is elsewhere and one {strays[0]} on the CPU"
        target = kwargs.get("device")
        if target is not None:
            there, kwargs["device"] = torch.device(target).type == DEVICE, torch.device("cpu")
        made = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        if func._schema.is_mutable:
            return _written(func, args, kwargs)
        if not there:
            return made
        wide = any(isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(made))
        assert not wide, f"{func} makes float64, which an NPU rounds to float32 or fails on"
        return tree_map(lambda leaf: Elsewhere(leaf) if isinstance(leaf, torch.Tensor) else leaf, made)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What a step gives back that writes into tensors: those."""
    places = [
        (number, arg.name) for number, arg in enumerate(func._schema.arguments) if arg.alias_info and arg.alias_info.is_write
    ]
    held = tuple(kwargs[name] if name in kwargs else args[number] for number, name in places)
    return held if len(func._schema.returns) > 1 else held[0]


def _inner(leaf: Any) -> Any:
    return leaf.inner if isinstance(leaf, Elsewhere) else leaf


@contextmanager
def elsewhere() -> Iterator[There]:
    """The device, and what brings a tensor to it."""
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with torch.no_grad(), _Device():
            yield Elsewhere
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def same(made: Callable[[There], Any]) -> None:
    """Compares what is made here with what is made there, which stays there."""
    here = tree_leaves(made(lambda tensor: tensor))
    with elsewhere() as there:
        found = tree_leaves(made(there))
    assert len(found) == len(here) > 0
    for one, other in zip(here, found, strict=True):
        assert not isinstance(one, torch.Tensor) or isinstance(other, Elsewhere)
        torch.testing.assert_close(getattr(other, "inner", other), one, rtol=0, atol=0)
