"""One pass that estimates what every layer costs in every scheme: the Fisher information of the outputs, seen by the errors.

For an error e of a layer's output, KL(p || q) is 1/2 E[(g . e)^2] up to third order, where g is the gradient of
log p(labels) by that output and the labels are drawn from the model itself; the product runs over all tokens of a sample, so
that what one token's error does to later tokens counts. All layers and schemes share the forward pass, and all draws share the
errors; a draw costs one backward pass to activations alone.

Source: the second-order expansion of KL as in S. Amari, Natural Gradient Works Efficiently in Learning, 1998.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantui.sensitivity.batches import Batch
from quantui.sensitivity.candidates import cache_name
from quantui.sensitivity.divergence import Tail, tiles
from quantui.sensitivity.rounding import Rounding
from quantui.sensitivity.sites import Site, routed

if TYPE_CHECKING:
    from torch import Tensor

DRAWS = 4
"""Labels drawn for every token."""


@dataclass
class Products:
    """What a pass found: the products g . e of every sample and draw.

    Attributes:
        columns: (layer, scheme) of each column.
        samples: numbers of the samples, in the order of the rows.
        tokens: tokens of each sample.
        rows: part -> (samples, draws, columns) float32 per sample; parts are "text" and "image".
    """

    columns: list[tuple[str, int]]
    samples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)


def fisher(
    model: Any,
    tail: Tail,
    batches: Sequence[Batch],
    rounding: Rounding,
    wanted: dict[str, tuple[int, ...]],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    told: Callable[[int, Products], None] = lambda _done, _products: None,
) -> Products:
    """The pass.

    Args:
        model: in evaluation mode; its parameters take no gradient afterwards.
        wanted: layer -> the schemes it is tried in, by their place; keys and values by `cache_name`.
        told: called after each batch with how many are done and what was found so far.

    Raises:
        RuntimeError: the model cannot be differentiated.
    """
    import torch

    model.requires_grad_(False)
    generator = torch.Generator(device=model.device).manual_seed(seed)
    found = Products([(name, scheme) for name, schemes in wanted.items() for scheme in schemes])
    watch = _Watch(rounding, wanted, found.columns)
    for number, batch in enumerate(batches):
        watch.begin(batch)
        with torch.enable_grad(), routed(model, watch.see, watch.see_cache):
            with tail.cut():
                hidden = model(**batch.inputs, use_cache=False).logits
            parts = batch.parts()
            for part, gradients in _draw(hidden.detach(), tail, watch, parts, draws, generator):
                if hidden.requires_grad:  # not where the output embedding alone is scored
                    hidden.backward(gradient=gradients, retain_graph=True)
                watch.close(part)
        del hidden
        rounding.forget()
        found.samples += batch.samples
        found.tokens += batch.real.sum(1).tolist()
        for part in ("text", "image"):
            if part in parts or part in found.rows:
                found.rows.setdefault(part, []).append(watch.take(part, draws))
        told(number + 1, found)
    return found


class _Watch:
    """Keeps the errors of a batch until its gradients come, and what their products are."""

    def __init__(self, rounding: Rounding, wanted: dict[str, tuple[int, ...]], columns: list[tuple[str, int]]) -> None:
        self.rounding, self._wanted, self._width = rounding, wanted, len(columns)
        self._first = {name: place for place, (name, _) in reversed(list(enumerate(columns)))}
        self._closed: dict[str, list[Tensor]] = {}

    def begin(self, batch: Batch) -> None:
        """The next batch."""
        import torch

        self._rows, self._tokens = batch.real.shape
        self._now = torch.zeros(self._rows, self._width, device=batch.real.device)

    def see(self, site: Site, x: Tensor, tokens: Tensor | None) -> Tensor:
        """Does a site's product, and has its errors wait for the gradient."""
        import torch

        out = site.product(x)
        schemes = self._wanted.get(site.name)
        if schemes is None or not out.numel():
            return out
        if not out.requires_grad:
            out = out.detach().requires_grad_(True)  # the first layers: nothing before them asks for a gradient
        with torch.no_grad():
            base = out.detach()
            errors = base.new_empty(len(schemes), *base.shape)
            for place, scheme in enumerate(schemes):
                torch.sub(self.rounding.product(site, scheme, x), base, out=errors[place])
        columns = slice(self._first[site.name], self._first[site.name] + len(schemes))
        rows = self._row_of(site.name, out, tokens)

        def multiply(gradient: Tensor) -> None:
            self._multiply(gradient, errors, columns, rows)

        out.register_hook(multiply)
        return out

    def see_cache(self, name: str, role: str, x: Tensor) -> Tensor:
        """Has the errors of keys or values (rows, heads, tokens, dims) wait for the gradient."""
        import torch

        place = self._first.get(cache_name(name, role))
        if place is None:
            return x
        if not x.requires_grad:
            x = x.detach().requires_grad_(True)
        with torch.no_grad():
            errors = (self.rounding.cached(name, role, x) - x).unsqueeze(0)
        x.register_hook(lambda gradient: self._multiply(gradient, errors, slice(place, place + 1), None))
        return x

    def wants(self, site: Site) -> bool:
        """Whether a site is scored."""
        return site.name in self._wanted

    def head_product(self, site: Site, gradient: Tensor, hidden: Tensor, rows: Tensor) -> None:
        """The products of the output embedding, whose gradient by the logits (tokens, vocabulary) is known without a pass."""
        schemes = self._wanted[site.name]
        base = site.product(hidden)
        for number, scheme in enumerate(schemes):
            error = self.rounding.product(site, scheme, hidden).sub_(base)
            column = self._now[:, self._first[site.name] + number]
            column.index_add_(0, rows, (gradient * error).sum(-1))

    def close(self, part: str) -> None:
        """A draw of a part is done."""
        self._closed.setdefault(part, []).append(self._now)
        self._now = self._now.new_zeros(self._now.shape)

    def take(self, part: str, draws: int) -> Tensor:
        """(rows, draws, columns) of a part, zeros where the batch has none of it."""
        import torch

        found = self._closed.pop(part, None) or [self._now.new_zeros(self._now.shape)] * draws
        return torch.stack(found, 1).cpu()

    def _multiply(self, gradient: Tensor, errors: Tensor, columns: slice, rows: Tensor | None) -> None:
        import torch

        if rows is not None:  # (tokens, out) of many samples
            products = (errors * gradient).sum(-1).T
            self._now[:, columns].index_add_(0, rows, products.float())
            return
        flat = errors.reshape(errors.shape[0], self._rows, -1).transpose(0, 1)  # (rows, schemes, tokens x out)
        self._now[:, columns] += torch.bmm(flat, gradient.reshape(self._rows, -1, 1)).squeeze(-1).float()

    def _row_of(self, name: str, out: Tensor, tokens: Tensor | None) -> Tensor | None:
        """Which sample each row of an output belongs to; None where its first axis is the samples, or there is only one."""
        import torch

        if self._rows == 1:
            return None
        if tokens is not None:
            return tokens // self._tokens
        if out.shape[0] == self._rows and out.dim() > 2:
            return None
        if out.dim() == 2 and out.shape[0] == self._rows * self._tokens:
            return torch.arange(out.shape[0], device=out.device) // self._tokens
        what = f"the output of {name} has the shape {tuple(out.shape)}, which does not go by samples"
        raise RuntimeError(what)


def _draw(
    hidden: Tensor, tail: Tail, watch: _Watch, parts: dict[str, Tensor], draws: int, generator: Any
) -> Iterator[tuple[str, Tensor]]:
    """Gradients of log p(labels) by the final hidden states, one draw after another.

    Args:
        hidden: (rows, tokens, hidden).
        parts: part -> which tokens' labels count, (rows, tokens) bool.

    Returns:
        part and (rows, tokens, hidden).
    """
    for part, real in parts.items():
        if not bool(real.any()):
            continue
        labels, means = _labels(hidden[real], tail, draws, generator)
        for draw in range(draws):
            gradient = hidden.new_zeros(hidden.shape)
            gradient[real] = tail.towards(labels[draw], means)
            if tail.site is not None and watch.wants(tail.site):
                _head_products(hidden, tail, watch, real, labels[draw])
            yield part, gradient


def _labels(hidden: Tensor, tail: Tail, draws: int, generator: Any) -> tuple[Tensor, Tensor]:
    """Labels drawn from the model, (draws, tokens), and what the expected label's gradient is, (tokens, hidden)."""
    import torch

    labels, means = [], []
    for part in tiles(hidden.shape[0], tail.vocabulary or hidden.shape[-1]):
        p = torch.softmax(tail.head(hidden[part]).float(), -1)
        labels.append(torch.multinomial(p, draws, replacement=True, generator=generator))
        means.append(tail.back(p.to(hidden.dtype)))
    return torch.cat(labels).T, torch.cat(means)


def _head_products(hidden: Tensor, tail: Tail, watch: _Watch, real: Tensor, labels: Tensor) -> None:
    import torch

    rows = torch.nonzero(real)[:, 0]
    kept = hidden[real]
    assert tail.site is not None
    for part in tiles(kept.shape[0], tail.vocabulary):
        gradient = -torch.softmax(tail.head(kept[part]).float(), -1)
        gradient.scatter_add_(1, labels[part, None], torch.ones_like(gradient[:, :1]))
        watch.head_product(tail.site, gradient, kept[part], rows[part])
