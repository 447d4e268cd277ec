"""Without gradients: how far each scheme moves a layer's own output, and how msModelSlim would rank its input.

The output error is |Q(x) Q(W) - x W|^2 / |x W|^2 over all tokens of all samples. One forward pass; nothing of it is kept, so
a model that is streamed from the disk block by block can be scored too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quantui.sensitivity.batches import Batch
from quantui.sensitivity.rounding import Rounding
from quantui.sensitivity.rule import FIRST, InputScores
from quantui.sensitivity.sites import Site, routed

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

    found = Local([(name, scheme) for name, schemes in wanted.items() for scheme in schemes])
    places = {column: place for place, column in enumerate(found.columns)}

    def see(site: Site, x: Tensor, tokens: Tensor | None) -> Tensor:
        out = site.product(x)
        for scheme in wanted.get(site.name, ()):
            error = rounding.product(site, scheme, x).sub_(out)
            place = places[site.name, scheme]
            now[0][:, place] += _by_row(error, batch, tokens)
            now[1][:, place] += _by_row(out, batch, tokens)
        if site.name in wanted:
            for sample, rows in zip(batch.samples, _samples(x, batch, tokens), strict=True):
                found.inputs.setdefault(site.name, InputScores()).see(rows)
                if sample < FIRST:
                    found.first.setdefault(site.name, InputScores()).see(rows)
        return out

    for number, batch in enumerate(batches):
        now = [torch.zeros(len(batch.samples), len(found.columns), dtype=torch.float64) for _ in range(2)]
        with torch.no_grad(), routed(model, see):
            model(**batch.inputs, use_cache=False)
        rounding.forget()
        found.errors.append(now[0])
        found.outputs.append(now[1])
        found.samples += batch.samples
        found.tokens += batch.real.sum(1).tolist()
        told(number + 1, found)
    return found


def _by_row(x: Tensor, batch: Batch, tokens: Tensor | None) -> Tensor:
    """Sum of squares by sample, padding left out, (samples,) float64."""
    import torch

    rows, width = batch.real.shape
    if rows == 1:
        return x.square().sum().double().cpu().reshape(1)
    squares = x.square().sum(-1)
    if tokens is None and squares.numel() == rows * width:
        return (squares.reshape(rows, width) * batch.real).sum(1).double().cpu()
    places = tokens if tokens is not None else torch.zeros(squares.numel(), dtype=torch.long, device=x.device)
    kept = squares.reshape(-1) * batch.real.flatten()[places]
    return torch.zeros(rows, dtype=torch.float64, device=x.device).index_add_(0, places // width, kept.double()).cpu()


def _samples(x: Tensor, batch: Batch, tokens: Tensor | None) -> list[Tensor]:
    """The input of each sample, (tokens, channels), without padding."""
    rows, width = batch.real.shape
    if rows == 1:
        return [x.reshape(-1, x.shape[-1])]
    if tokens is not None:
        return [x[(tokens // width == row) & batch.real.flatten()[tokens]] for row in range(rows)]
    shaped = x.reshape(rows, width, x.shape[-1])
    return [shaped[row, batch.real[row]] for row in range(rows)]
