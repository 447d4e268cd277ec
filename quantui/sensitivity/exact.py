"""The divergence of the model's output with one layer at a time in a scheme, and with several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantui.sensitivity.batches import Batch
from quantui.sensitivity.candidates import cache_name
from quantui.sensitivity.divergence import Reference, Tail
from quantui.sensitivity.replay import Recording
from quantui.sensitivity.rounding import Rounding
from quantui.sensitivity.sites import Site, routed, sites_of

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Divergences:
    """What was measured.

    Attributes:
        columns: (layer, scheme) of each column.
        samples: numbers of the samples, in the order of the rows.
        tokens: tokens of each sample.
        rows: part -> (samples, columns) float64 each, sums of nats over a sample's tokens; parts are "text" and "image".
    """

    columns: list[tuple[str, int]]
    samples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    rows: dict[str, list[Tensor]] = field(default_factory=dict)

    def add(self, batch: Batch, measured: Sequence[Tensor]) -> None:
        """Adds a batch: for each column the KL of its tokens, (rows, tokens)."""
        import torch

        parts = batch.parts()
        for part in {*parts, *self.rows}:
            if part not in self.rows:
                self.rows[part] = [torch.zeros(len(self.samples), len(self.columns), dtype=torch.float64)]
            if part in parts and measured:
                sums = torch.stack([(one * parts[part]).sum(1) for one in measured], 1)
            else:
                sums = torch.zeros(len(batch.samples), len(self.columns), dtype=torch.float64)
            self.rows[part].append(sums.cpu())
        self.samples += batch.samples
        self.tokens += batch.real.sum(1).tolist()


class Swap:
    """Does a model's products, those of the chosen layers in their schemes.

    Attributes:
        chosen: layer -> scheme by its place; may be changed between passes.
    """

    def __init__(self, rounding: Rounding, chosen: Mapping[str, int] | None = None) -> None:
        self.rounding, self.chosen = rounding, dict(chosen or {})

    def __call__(self, site: Site, x: Tensor, _tokens: Tensor | None) -> Tensor:
        """A site's product."""
        scheme = self.chosen.get(site.name)
        return site.product(x) if scheme is None else self.rounding.product(site, scheme, x)

    def cache(self, name: str, role: str, x: Tensor) -> Tensor:
        """Keys or values (rows, heads, tokens, dims) on their way to the cache."""
        return self.rounding.cached(name, role, x) if cache_name(name, role) in self.chosen else x


def exact(
    model: Any,
    tail: Tail,
    batches: Sequence[Batch],
    rounding: Rounding,
    wanted: dict[str, tuple[int, ...]],
    *,
    told: Callable[[int, Divergences], None] = lambda _done, _found: None,
) -> Divergences:
    """Every layer in every scheme, one at a time; each batch is run whole once, then only what comes after the layer.

    Args:
        wanted: layer -> the schemes it is tried in, by their place.
        told: called after each batch with how many are done and what was found so far.
    """
    import torch

    found = Divergences([(name, scheme) for name, schemes in wanted.items() for scheme in schemes])
    sites = {site.name: site for site in sites_of(model)}
    swap = Swap(rounding)
    for number, batch in enumerate(batches):
        with torch.no_grad(), routed(model, swap, swap.cache), tail.cut():
            recording = Recording()
            with recording(model):
                hidden = model(**batch.inputs, use_cache=False).logits
            reference = Reference(hidden, batch.real, tail.head, tail.vocabulary)
            measured = [
                reference.divergence(*_suffix(model, tail, batch, swap, recording, hidden, name, sites.get(name), scheme))
                for name, scheme in found.columns
            ]
        rounding.forget()
        found.add(batch, measured)
        told(number + 1, found)
    return found


def _suffix(
    model: Any, tail: Tail, batch: Batch, swap: Swap, recording: Recording, hidden: Tensor, name: str, site: Any, scheme: int
) -> tuple[Any, Any]:
    """Final hidden states with one layer in a scheme, and the head that reads them where that is what changed.

    Args:
        site: the layer's site, None for keys and values.
    """
    if name == tail.name:
        return hidden, lambda states: swap.rounding.product(site, scheme, states)
    if site is not None and recording.has(name):
        output = swap.rounding.product(site, scheme, recording.taken(name))
        with recording.replaced(name, output):
            return model(**batch.inputs, use_cache=False).logits, None
    owner = name
    while owner and not recording.has(owner):
        owner = owner.rpartition(".")[0]  # of a stacked expert: the module of the stack; of keys: the attention
    if not owner:
        return hidden, None  # no token reached it
    swap.chosen = {name: scheme}
    try:
        with recording.replaced(owner):
            return model(**batch.inputs, use_cache=False).logits, None
    finally:
        swap.chosen = {}


def measure(
    model: Any,
    tail: Tail,
    batches: Sequence[Batch],
    rounding: Rounding,
    choices: Sequence[Mapping[str, int]],
    told: Callable[[int], None] = lambda _done: None,
) -> Divergences:
    """The divergence of several choices, each of many layers at once; a layer that is not named stays float.

    Returns:
        columns are ("", place of the choice).
    """
    import torch

    found = Divergences([("", number) for number in range(len(choices))])
    swap = Swap(rounding)
    for number, batch in enumerate(batches):
        with torch.no_grad(), routed(model, swap, swap.cache), tail.cut():
            swap.chosen = {}
            hidden = model(**batch.inputs, use_cache=False).logits
            reference = Reference(hidden, batch.real, tail.head, tail.vocabulary)
            measured = []
            for choice in choices:
                swap.chosen = dict(choice)
                other = model(**batch.inputs, use_cache=False).logits
                measured.append(reference.divergence(other, _head(tail, rounding, choice)))
        rounding.forget()
        found.add(batch, measured)
        told(number + 1)
    return found


@contextmanager
def quantized(model: Any, rounding: Rounding, choice: Mapping[str, int]) -> Iterator[None]:
    """The model computes with the chosen layers in their schemes while the block runs."""
    swap = Swap(rounding, choice)
    with routed(model, swap, swap.cache if any(name.endswith("_cache") for name in choice) else None):
        yield


def _head(tail: Tail, rounding: Rounding, choice: Mapping[str, int]) -> Any:
    site = tail.site
    if site is None or site.name not in choice:
        return None
    return lambda states: rounding.product(site, choice[site.name], states)
