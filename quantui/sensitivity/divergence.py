"""Divergence of two models' next-token distributions, from final hidden states, without all logits at once.

KL(p || q) = sum over the vocabulary of p (log p - log q), in nats, averaged over the tokens of the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from quantui.devices import widest_float
from quantui.sensitivity.batches import Batch
from quantui.sensitivity.sites import Site, instead

if TYPE_CHECKING:
    from torch import Tensor

TILE = 1 << 24
"""Logits computed at once."""

Head = Callable[[Any], Any]
"""Final hidden states (tokens, hidden) to logits (tokens, vocabulary)."""


class Tail:
    """Where a model's layers end and its vocabulary begins.

    Attributes:
        name: module name of the output embedding; "" where the model's logits are more than its product with hidden states
            (they are scaled, say), so that the logits themselves take the place of hidden states.
    """

    def __init__(self, model: Any, batch: Batch) -> None:
        """Looks how the model makes its logits, on one batch."""
        import torch

        self._model = model
        self._module = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
        self.name = next((name for name, module in model.named_modules() if module is self._module), "")
        if self._module is None:
            return
        with torch.no_grad():
            plain = model(**batch.inputs, use_cache=False).logits
            with self.cut():
                hidden = model(**batch.inputs, use_cache=False).logits
            if hidden.shape[-1] != self._module.weight.shape[1] or not torch.equal(self._module(hidden), plain):
                self._module, self.name = None, ""

    @contextmanager
    def cut(self) -> Iterator[None]:
        """The model gives final hidden states in place of logits while the block runs."""
        if self._module is None:
            yield
            return
        with instead(self._module, lambda hidden: hidden):
            yield

    def head(self, hidden: Tensor) -> Tensor:
        """Logits of final hidden states (tokens, hidden)."""
        if self._module is None:
            return hidden
        import torch

        return torch.nn.functional.linear(hidden, self._module.weight, self._module.bias)

    def back(self, gradient: Tensor) -> Tensor:
        """A gradient by the logits (..., vocabulary) as one by the hidden states (..., hidden)."""
        if self._module is None:
            return gradient
        moved: Tensor = gradient @ self._module.weight.detach()
        return moved

    def towards(self, labels: Tensor, means: Tensor) -> Tensor:
        """Gradient of log p(label) by the hidden states (tokens, hidden).

        Args:
            labels: (tokens,).
            means: (tokens, hidden), `back` of the probabilities.
        """
        import torch

        if self._module is not None:
            rows: Tensor = self._module.weight.detach()[labels] - means
            return rows
        made = -means
        return made.scatter_add_(1, labels[:, None], torch.ones_like(made[:, :1]))

    @property
    def site(self) -> Site | None:
        """The output embedding; None where there is none of its own."""
        return None if self._module is None else Site(self.name, self._module.weight, self._module.bias)

    @property
    def vocabulary(self) -> int:
        """Size of a row of logits; 0 where it is not known."""
        return 0 if self._module is None else int(self._module.weight.shape[0])


def tiles(count: int, width: int) -> Iterator[slice]:
    """Stretches of rows whose logits fit into TILE."""
    step = max(TILE // max(width, 1), 1)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


class Reference:
    """The float model's distributions for the tokens of one batch: hidden states, and log-probabilities where they are few."""

    def __init__(self, hidden: Tensor, real: Tensor, head: Head, vocabulary: int) -> None:
        """Keeps what is needed of (rows, tokens, hidden)."""
        self.real, self._head = real, head
        self._hidden = hidden[real]
        self._width = vocabulary or hidden.shape[-1]
        self._kept: dict[int, Tensor] = {}
        self._keep = self._hidden.shape[0] * self._width <= TILE

    def divergence(self, hidden: Tensor, head: Head | None = None) -> Tensor:
        """KL of every token to the reference.

        Args:
            hidden: (rows, tokens, hidden) of the other model.
            head: how it makes logits, where not as the reference does.

        Returns:
            (rows, tokens) float64, float32 on an NPU, 0 at padding.
        """
        import torch

        other, found = hidden[self.real], []
        for part in tiles(self._hidden.shape[0], self._width):
            p = self._log_p(part)
            q = torch.log_softmax((head or self._head)(other[part]).float(), -1)
            found.append((p.exp() * (p - q)).sum(-1))
        result = torch.zeros(self.real.shape, dtype=widest_float(hidden.device), device=hidden.device)
        result[self.real] = torch.cat(found).to(result.dtype)
        return result

    def _log_p(self, part: slice) -> Tensor:
        import torch

        if part.start in self._kept:
            return self._kept[part.start]
        made = torch.log_softmax(self._head(self._hidden[part]).float(), -1)
        if self._keep:
            self._kept[part.start] = made
        return made
