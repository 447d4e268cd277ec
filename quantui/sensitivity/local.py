"""Without gradients: how far each scheme moves a layer's own output, and how msModelSlim would rank its input.

The output error is |Q(x) Q(W) - x W|^2 / |x W|^2 over all tokens of all samples. One forward pass; nothing of it is kept, so
that streamed.py can take a model from the disk block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantui.sensitivity.batches import Batch
from quantui.sensitivity.rounding import Rounding
from quantui.sensitivity.rule import FIRST, InputScores
from quantui.sensitivity.sites import Call, Site, routed

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Local:
    """What was found.

    Attributes:
        columns: (layer, scheme) of each column.
        samples: numbers of the samples, in the order of the rows.
        errors: (samples, columns) float64 each, squared errors.
        outputs: (samples, columns) float64 each, squared outputs.
        inputs: layer -> msModelSlim's scores of its input.
        first: the same over the samples that its own fallback looks at.
    """

    columns: list[tuple[str, int]]
    samples: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    errors: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    inputs: dict[str, InputScores] = field(default_factory=dict)
    first: dict[str, InputScores] = field(default_factory=dict)


def local(
    model: Any,
    batches: Sequence[Batch],
    rounding: Rounding,
    wanted: dict[str, tuple[int, ...]],
    *,
    told: Callable[[int, Local], None] = lambda _done, _found: None,
) -> Local:
    """The pass.

    Args:
        wanted: layer -> the schemes it is tried in, by their place.
        told: called after each batch with how many are done and what was found so far.
    """
    import torch

    seen = Seen(batches, wanted)
    for number, batch in enumerate(batches):
        with torch.no_grad(), seen.of(number, rounding) as see, routed(model, see):
            model(**batch.inputs, use_cache=False)
        told(number + 1, seen.found)
    return seen.found


class Seen:
    """What is found while batches pass through layers, in whatever order.

    Attributes:
        found: so far; zeros where nothing has passed.
    """

    def __init__(self, batches: Sequence[Batch], wanted: dict[str, tuple[int, ...]]) -> None:
        import torch

        self._batches, self._wanted = batches, wanted
        self.found = Local([(name, scheme) for name, schemes in wanted.items() for scheme in schemes])
        self._places = {column: place for place, column in enumerate(self.found.columns)}
        for batch in batches:
            shape = len(batch.samples), len(self.found.columns)
            self.found.errors.append(torch.zeros(shape, dtype=torch.float64))
            self.found.outputs.append(torch.zeros(shape, dtype=torch.float64))
            self.found.samples += batch.samples
            self.found.tokens += batch.real.sum(1).tolist()

    @contextmanager
    def of(self, number: int, rounding: Rounding) -> Iterator[Call]:
        """What is to do the products of layers while a batch passes."""
        batch = self._batches[number]
        errors, outputs = self.found.errors[number], self.found.outputs[number]

        def see(site: Site, x: Tensor, tokens: Tensor | None) -> Tensor:
            out = site.product(x)
            for scheme in self._wanted.get(site.name, ()):
                error = rounding.product(site, scheme, x).sub_(out)
                place = self._places[site.name, scheme]
                errors[:, place] += _by_row(error, batch, tokens)
                outputs[:, place] += _by_row(out, batch, tokens)
            if site.name in self._wanted:
                for sample, rows in zip(batch.samples, _samples(x, batch, tokens), strict=True):
                    self.found.inputs.setdefault(site.name, InputScores()).see(rows)
                    if sample < FIRST:
                        self.found.first.setdefault(site.name, InputScores()).see(rows)
            return out

        yield see
        rounding.forget()

    def settle(self) -> None:
        """All batches have passed through every layer that was seen: their scores are kept, not their inputs."""
        for one in (*self.found.inputs.values(), *self.found.first.values()):
            one.settle()


def _by_row(x: Tensor, batch: Batch, tokens: Tensor | None) -> Tensor:
    """Sum of squares by sample, padding left out, (samples,) float64."""
    import torch

    rows, width = batch.real.shape
    x = x.float()  # on an accelerator it may be float16, which holds no square above 65504
    if rows == 1:
        return x.square().sum().cpu().double().reshape(1)
    squares = x.square().sum(-1)
    if tokens is None and squares.numel() == rows * width:
        return (squares.reshape(rows, width) * batch.real).sum(1).cpu().double()
    places = tokens if tokens is not None else torch.zeros(squares.numel(), dtype=torch.long, device=x.device)
    kept = squares.reshape(-1) * batch.real.flatten()[places]
    return torch.zeros(rows, dtype=torch.float64).index_add_(0, (places // width).cpu(), kept.cpu().double())


def _samples(x: Tensor, batch: Batch, tokens: Tensor | None) -> list[Tensor]:
    """The input of each sample, (tokens, channels), without padding."""
    rows, width = batch.real.shape
    if rows == 1:
        return [x.reshape(-1, x.shape[-1])]
    if tokens is not None:
        return [x[(tokens // width == row) & batch.real.flatten()[tokens]] for row in range(rows)]
    shaped = x.reshape(rows, width, x.shape[-1])
    return [shaped[row, batch.real[row]] for row in range(rows)]
