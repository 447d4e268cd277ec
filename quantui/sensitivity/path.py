"""What every layer adds to the damage of all together: the gradient along the way from float to fully quantized.

First the model runs with all layers quantized, and every layer's error is kept. On the way every output is float + a error, so
that a = 1 is the quantized model itself. d KL / d a is the sum over layers of gradient times error, so that its integral over a
from 0 to 1 splits the whole KL into a share of each layer. At a = 0 the slope is 0, since KL has its minimum there, so
the rule of Gauss and Radau with that point and two more, exact up to the fourth power of a, costs two steps. Nothing has to
be differentiated through rounding, which as the identity would be off where values stay in one code all the way.

Source: integrated gradients, Sundararajan and others, arXiv 1703.01365, along the path of layer outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quantui.devices import widest_float
from quantui.sensitivity.batches import Batch
from quantui.sensitivity.divergence import Tail, tiles
from quantui.sensitivity.exact import Divergences
from quantui.sensitivity.rounding import Rounding
from quantui.sensitivity.sites import Site, routed

if TYPE_CHECKING:
    from torch import Tensor

ROOT = 6**0.5
STEPS = (((6 - ROOT) / 10, (16 + ROOT) / 36), ((6 + ROOT) / 10, (16 - ROOT) / 36))
"""(place on the way, weight)."""


def path(
    model: Any,
    tail: Tail,
    batches: Sequence[Batch],
    rounding: Rounding,
    wanted: Mapping[str, tuple[int, ...]],
    *,
    told: Callable[[int, Divergences], None] = lambda _done, _found: None,
) -> Divergences:
    """The share of every layer in the KL of all layers together, scheme by scheme.

    Args:
        wanted: layer -> the schemes it is tried in, by their place.
        told: called after each batch with how many are done and what was found so far.

    Raises:
        RuntimeError: the model cannot be differentiated.
    """
    import torch

    model.requires_grad_(False)
    found = Divergences([(name, scheme) for name, schemes in wanted.items() for scheme in schemes])
    places = {column: place for place, column in enumerate(found.columns)}
    for number, batch in enumerate(batches):
        with torch.no_grad(), routed(model, lambda site, x, _tokens: site.product(x)), tail.cut():
            reference = model(**batch.inputs, use_cache=False).logits
        shares = torch.zeros(
            len(found.columns), *batch.real.shape, dtype=widest_float(batch.real.device), device=batch.real.device
        )
        for scheme in range(len(rounding.known)):
            chosen = {name for name, schemes in wanted.items() if scheme in schemes}
            errors = _errors(model, batch, rounding, scheme, chosen) if chosen else {}
            for place, weight in STEPS if chosen else ():
                step = _Step(rounding, scheme, chosen, place, batch, errors)
                with torch.enable_grad(), routed(model, step.see):
                    with tail.cut():
                        hidden = model(**batch.inputs, use_cache=False).logits
                    gradient = step.gradient(hidden.detach(), reference, tail)
                    if hidden.requires_grad:  # not where the output embedding alone is scored
                        hidden.backward(gradient=gradient)
                for name, rows in step.products.items():
                    shares[places[name, scheme]] += weight * rows
                del hidden
                rounding.forget()
        found.add(batch, list(shares))
        told(number + 1, found)
    return found


def _errors(model: Any, batch: Batch, rounding: Rounding, scheme: int, chosen: set[str]) -> dict[str, Tensor]:
    """The error of every chosen layer while all of them are quantized."""
    import torch

    found: dict[str, Tensor] = {}

    def see(site: Site, x: Tensor, _tokens: Tensor | None) -> Tensor:
        if site.name not in chosen or not x.numel():
            return site.product(x)
        out = rounding.product(site, scheme, x)
        found[site.name] = out - site.product(x)
        return out

    with torch.no_grad(), routed(model, see):
        model(**batch.inputs, use_cache=False)
    rounding.forget()
    return found


class _Step:
    """One place on the way: interpolates every chosen layer, and multiplies its error with the gradient there."""

    def __init__(
        self, rounding: Rounding, scheme: int, chosen: set[str], place: float, batch: Batch, errors: dict[str, Tensor]
    ) -> None:
        self._rounding, self._scheme, self._chosen, self._place, self._batch = rounding, scheme, chosen, place, batch
        self._errors = errors
        self._shape = tuple(batch.real.shape)
        self.products: dict[str, Tensor] = {}

    def see(self, site: Site, x: Tensor, tokens: Tensor | None) -> Tensor:
        """A site's product, part of the way to its rounded one."""
        plain = site.product(x)
        if site.name not in self._chosen or not plain.numel():
            return plain
        error = self._errors.get(site.name)
        if error is None or error.shape != plain.shape:  # of an expert that other tokens reach on the way
            return plain
        out = plain + self._place * error
        if not out.requires_grad:
            out = out.detach().requires_grad_(True)
        out.register_hook(lambda gradient: self._multiply(site.name, gradient, error, tokens))
        return out

    def gradient(self, hidden: Tensor, reference: Tensor, tail: Tail) -> Tensor:
        """Gradient of the summed KL by the final hidden states, (rows, tokens, hidden)."""
        import torch

        real = self._batch.real
        others, floats, made = hidden[real], reference[real], []
        site = tail.site if tail.site is not None and tail.site.name in self._chosen else None
        for part in tiles(others.shape[0], tail.vocabulary or hidden.shape[-1]):
            p = torch.softmax(tail.head(floats[part]).float(), -1)
            logits = tail.head(others[part])
            if site is None:
                made.append(tail.back((torch.softmax(logits.float(), -1) - p).to(hidden.dtype)))
                continue
            error = self._rounding.product(site, self._scheme, others[part]) - logits
            slope = (torch.softmax((logits + self._place * error).float(), -1) - p).to(hidden.dtype)
            self._add(site.name, (slope * error).sum(-1), torch.nonzero(real.flatten())[part, 0])
            weight = site.weight + self._place * (self._rounding.weight(site, self._scheme) - site.weight)
            made.append(slope @ weight.detach())
        gradient = hidden.new_zeros(hidden.shape)
        gradient[real] = torch.cat(made)
        return gradient

    def _multiply(self, name: str, gradient: Tensor, error: Tensor, tokens: Tensor | None) -> None:
        import torch

        products = (gradient * error).sum(-1)
        count = self._shape[0] * self._shape[1]
        if tokens is not None:
            self._add(name, products, tokens)
        elif products.numel() == count:
            self._add(name, products.reshape(-1), torch.arange(count, device=products.device))
        else:  # the patches of a picture, which stand for no token: all on the sample's first
            first = torch.nonzero(self._batch.real.flatten())[:1, 0]
            self._add(name, products.sum().reshape(1), first)

    def _add(self, name: str, products: Tensor, tokens: Tensor) -> None:
        import torch

        if name not in self.products:
            self.products[name] = torch.zeros(self._shape, dtype=widest_float(products.device), device=products.device)
        whole = self.products[name]
        whole.view(-1).index_add_(0, tokens, products.to(whole.dtype))
