"""One recorded pass of a float model, so that a changed layer costs only what comes after it.

Whatever had ended before the layer began gives its recorded output again, and so does a layer beside it that reads the same
input. Where the layer's output is what its surroundings return (the last projection of an attention or MLP), those are not run
either.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from quantui.sensitivity.sites import instead


@dataclass
class _Call:
    """One call of a module."""

    module: Any
    name: str
    began: int
    ended: int = -1
    first: Any = None
    output: Any = None


class Recording:
    """What every module took and gave in one pass."""

    def __init__(self) -> None:
        self._calls: dict[str, _Call] = {}
        self._twice: set[str] = set()
        self._clock = 0

    @contextmanager
    def __call__(self, model: Any) -> Iterator[None]:
        """Records the pass that the block does."""
        with ExitStack() as stack:
            for name, module in model.named_modules():
                if name:
                    begin = functools.partial(self._begin, name)
                    stack.callback(module.register_forward_pre_hook(begin, with_kwargs=True).remove)
                    stack.callback(module.register_forward_hook(functools.partial(self._end, name)).remove)
            yield

    def taken(self, name: str) -> Any:
        """The first argument of a module."""
        return self._calls[name].first

    def given(self, name: str) -> Any:
        """What a module returned."""
        return self._calls[name].output

    def has(self, name: str) -> bool:
        """Whether a module ran, exactly once."""
        return name in self._calls and name not in self._twice

    @contextmanager
    def replaced(self, name: str, output: Any = None) -> Iterator[None]:
        """Modules that need not run give what they gave, while the block runs.

        Args:
            name: the module that is changed, or holds what is changed.
            output: what it gives now, if that is known; else it runs.
        """
        changed = self._calls[name]
        with ExitStack() as stack:
            if output is not None:
                changed, result = self._surroundings(changed, output)
                stack.enter_context(instead(changed.module, functools.partial(_give, result)))
            for call in self._idle(changed, self._calls[name], whole=output is not None):
                stack.enter_context(instead(call.module, functools.partial(_give, call.output)))
            yield

    def _surroundings(self, call: _Call, output: Any) -> tuple[_Call, Any]:
        """The outermost module that returns what the layer does, and what it returns now."""
        widest, result = call, output
        for other in self._calls.values():
            if other.began < widest.began and other.ended > widest.ended and other.name not in self._twice:
                if other.output is call.output:
                    widest, result = other, output
                elif isinstance(other.output, tuple) and other.output and other.output[0] is call.output:
                    widest, result = other, (output, *other.output[1:])
        return widest, result

    def _idle(self, changed: _Call, inner: _Call, *, whole: bool) -> Iterator[_Call]:
        """The outermost modules that give what they gave."""
        until = -1
        for call in sorted(self._calls.values(), key=lambda call: call.began):
            if call.name in self._twice or call.began < until:
                continue
            if call.ended < changed.began or (whole and call is not inner and self._is_beside(call, inner, changed)):
                until = call.ended
                yield call

    def _is_beside(self, call: _Call, inner: _Call, changed: _Call) -> bool:
        """Whether a later layer reads the same input, and so gives the same."""
        if changed.began < call.began and call.ended < changed.ended:
            return False  # it is not run at all
        later = call.began > inner.ended and not any(True for _ in call.module.children())
        return later and call.first is not None and call.first is inner.first

    def _begin(self, name: str, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if name in self._calls:
            self._twice.add(name)
        first = args[0] if args else next(iter(kwargs.values()), None)
        self._calls[name] = _Call(module, name, self._clock, first=first)
        self._clock += 1

    def _end(self, name: str, _module: Any, _args: Any, output: Any) -> None:
        call = self._calls[name]
        call.output, call.ended = output, self._clock
        self._clock += 1


def _give(output: Any, *_args: Any, **_kwargs: Any) -> Any:
    return output
