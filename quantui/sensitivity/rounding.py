"""Layers as each scheme makes them: weights rounded once, inputs by ranges of one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from quantui.numerics.fake import Grid, fake_activation, fake_cache, fake_weight
from quantui.recipe.schema import QuantArgs
from quantui.sensitivity.batches import Batch
from quantui.sensitivity.candidates import Candidate
from quantui.sensitivity.divergence import Tail
from quantui.sensitivity.sites import Site, routed

if TYPE_CHECKING:
    from torch import Tensor

KEPT_SHARE = 0.25
"""Share of a model's own size that rounded weights, or their codes, may take; those beyond are rounded again each time."""
KEPT_BYTES = 1 << 26
"""What they may take of any model; where that is too little for all of them, codes of one byte are kept in their place."""
TOP = 6
"""Channels of an input that are named."""


class Ranges:
    """Smallest and largest input of every site, and of keys and values, over all samples; padding does not count."""

    def __init__(self, head: str = "") -> None:
        """Begins with nothing; the product of the output embedding, by its name, is left out, since nobody reads it."""
        self._head = head
        self.inputs: dict[str, tuple[Tensor, Tensor]] = {}
        self.caches: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}  # (attention, role) -> (heads, dims) each
        self._peaks: dict[str, Tensor] = {}
        self._real: Any = None

    def begin(self, real: Tensor) -> None:
        """The next batch; real (rows, tokens) bool."""
        self._real = None if bool(real.all()) else real

    def see(self, site: Site, x: Tensor, tokens: Tensor | None) -> Tensor:
        """Looks at the input of a site, and does its product."""
        kept = x
        if self._real is not None and x.shape[0]:
            if tokens is not None:
                kept = x[self._real.flatten()[tokens]]
            elif x.shape[:2] == self._real.shape:
                kept = x[self._real]
        if kept.numel():
            self._widen(self.inputs, site.name, kept)
            self._look(site.name, kept)
        return x if site.name == self._head else site.product(x)

    def outliers(self) -> dict[str, dict[str, Any]]:
        """Each site's loudest input channels: `top` of [channel, largest magnitude], and the `median` channel's."""
        found = {}
        for name, peaks in self._peaks.items():
            top = peaks.topk(min(TOP, peaks.numel()))
            pairs = [[int(at), float(f"{float(value):.5g}")] for value, at in zip(top.values, top.indices, strict=True)]
            found[name] = {"top": pairs, "median": float(f"{float(peaks.median()):.5g}"), "channels": peaks.numel()}
        return found

    def _look(self, name: str, x: Tensor) -> None:
        import torch

        peaks = x.detach().reshape(-1, x.shape[-1]).abs().amax(0)
        self._peaks[name] = torch.maximum(self._peaks[name], peaks) if name in self._peaks else peaks

    def see_cache(self, name: str, role: str, x: Tensor) -> Tensor:
        """Looks at keys or values (rows, heads, tokens, dims)."""
        import torch

        rows = x.detach().transpose(1, 2)  # (rows, tokens, heads, dims)
        kept = rows.flatten(0, 1) if self._real is None or rows.shape[:2] != self._real.shape else rows[self._real]
        low, high = kept.amin(0), kept.amax(0)
        if (name, role) in self.caches:
            before = self.caches[name, role]
            low, high = torch.minimum(low, before[0]), torch.maximum(high, before[1])
        self.caches[name, role] = low, high
        return x

    def _widen(self, found: dict[Any, tuple[Tensor, Tensor]], key: Any, x: Tensor) -> None:
        import torch

        low, high = torch.aminmax(x.detach())
        if key in found:
            low, high = torch.minimum(low, found[key][0]), torch.maximum(high, found[key][1])
        found[key] = low, high


def find_ranges(model: Any, tail: Tail, batches: Iterable[Batch], *, caches: bool = False) -> Ranges:
    """One pass that sees the range of everything a static scheme quantizes."""
    import torch

    ranges = Ranges(tail.name)
    with torch.no_grad(), routed(model, ranges.see, ranges.see_cache if caches else None):
        for batch in batches:
            ranges.begin(batch.real)
            model(**batch.inputs, use_cache=False)
    return ranges


class Rounding:
    """Sites in every scheme.

    Args:
        known: the schemes by their place.
        ranges: of the inputs, where a scheme is static.
        dtype: what weights are stored in, if the model computes in another: rounding sees them as they are stored.
        size: bytes of the model, from which follows how many rounded weights may be kept.
        caches: how keys and values are cached, None for float.
    """

    def __init__(
        self,
        known: Sequence[Candidate],
        ranges: Ranges | None,
        dtype: Any = None,
        size: int = 0,
        caches: tuple[QuantArgs, QuantArgs] | None = None,
    ) -> None:
        self.known, self._ranges, self._dtype, self._caches = tuple(known), ranges, dtype, caches
        numbers = [candidate.weight_numbers for candidate in self.known]
        self._same = [numbers.index(one) for one in numbers]  # schemes that round weights alike share them
        self._room = max(KEPT_BYTES, int(KEPT_SHARE * size))
        self._as_codes = size * len(set(numbers)) > KEPT_BYTES
        self._weights: dict[tuple[str, int], Tensor] = {}
        self._codes: dict[tuple[str, int], tuple[Grid, Tensor | None]] = {}
        self._spaces: dict[int, Tensor] = {}
        self._site = ""
        self._of_site: dict[int, Tensor] = {}  # rounded weights of the site at hand
        self._last: dict[int, tuple[Tensor, Tensor]] = {}

    def product(self, site: Site, scheme: int, x: Tensor) -> Tensor:
        """What the site gives in a scheme: (..., in) to (..., out), output rounding included."""
        import torch

        candidate = self.known[scheme]
        out = torch.nn.functional.linear(self.inputs(site, scheme, x), self.weight(site, scheme), site.bias)
        args = candidate.group.output_activations
        return fake_activation(out, args) if args is not None and args.dynamic else out

    def inputs(self, site: Site, scheme: int, x: Tensor) -> Tensor:
        """The input as the scheme makes it."""
        args = self.known[scheme].inputs
        if args is None:
            return x
        last = self._last.get(scheme)
        if last is not None and last[0] is x:
            return last[1]  # q, k and v, and gate and up, have one input, and so one range
        low, high = (None, None) if args.dynamic is True or self._ranges is None else self._ranges.inputs[site.name]
        made = fake_activation(x, args, low, high)
        self._last[scheme] = x, made
        return made

    def cached(self, name: str, role: str, x: Tensor) -> Tensor:
        """Keys or values (rows, heads, tokens, dims) of an attention layer as their cache gives them back."""
        assert self._caches is not None
        args = self._caches[role == "value"]
        if args.dynamic or self._ranges is None:
            return fake_activation(x, args)
        low, high = self._ranges.caches[name, role]
        return fake_cache(x, args, low, high)

    def forget(self) -> None:
        """Lets go of the last inputs and weights."""
        self._last.clear()
        self._of_site.clear()

    def weight(self, site: Site, scheme: int) -> Tensor:
        """The weight as the scheme makes it, in the dtype the model computes in."""
        args = self.known[scheme].group.weights
        if args is None:
            return site.weight.detach()
        if self._site != site.name:
            self._site = site.name
            self._of_site.clear()
        place = self._same[scheme]
        if place not in self._of_site:
            self._of_site[place] = self._made(site, place, args)
        return self._of_site[place]

    def _made(self, site: Site, place: int, args: QuantArgs) -> Tensor:
        key = site.name, place
        if key in self._weights:
            return self._weights[key]
        weight = site.weight.detach()
        given = weight if self._dtype is None else weight.to(self._dtype)
        if self._as_codes and (made := self._from_codes(key, given, args)) is not None:
            return made.to(weight.dtype)
        made = fake_weight(given, args).to(weight.dtype)
        if self._fits(made.nbytes):
            self._weights[key] = made
        return made

    def _from_codes(self, key: tuple[str, int], weight: Tensor, args: QuantArgs) -> Tensor | None:
        """The rounded weight by its grid, which is always kept, and its codes, which are while there is room."""
        import torch

        if key not in self._codes:
            grid = Grid.of(weight, args)
            if grid is None:
                return None
            kept = grid.codes(weight).to(torch.int8) if self._fits(weight.numel()) else None
            self._codes[key] = grid, kept
        grid, kept = self._codes[key]
        out = self._space(key[1], weight)
        return grid.back(grid.codes(weight, out) if kept is None else kept, out)

    def _space(self, place: int, like: Tensor) -> Tensor:
        """Room for a rounded weight, used again for every site, since errors that are kept lie in the gaps it would leave."""
        space = self._spaces.get(place)
        if space is None or space.numel() < like.numel():
            space = self._spaces[place] = like.new_empty(like.numel())
        return space[: like.numel()].view(like.shape)

    def _fits(self, nbytes: int) -> bool:
        """Whether so much more may be kept; then it counts."""
        if self._room < nbytes:
            return False
        self._room -= nbytes
        return True


def size_of(model: Any) -> int:
    """Bytes of a model's parameters."""
    return sum(parameter.nbytes for parameter in model.parameters())
