"""How msModelSlim ranks layers by their inputs, and which it leaves in float at L0 .. Ln. Its numbers, tie by tie.

Three scores of a layer's input x, each larger where x is harder to quantize:
- std: max |x| over all samples / the largest of the samples' std(x - shift), shift = channel max + channel min of the sample
  (not half of it, which its other tool takes: `halved`);
- quantile: 2 max |s| / 254 / (Q3 - Q1) of the values s that are left when each sample's sorted input is thinned to every
  100th;
- kurtosis: excess kurtosis of the same thinned values.

Source: msmodelslim/pytorch/llm_ptq/llm_ptq_tools/layer_select.py and quant_tools.py (disable_level); the quantile's
formula lies in a closed file and is known from its results.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEP = 100
"""Each sample's sorted input is thinned to every so manieth value, from the middle of the first stretch on."""
FIRST = 5
"""Samples its own fallback looks at."""


@dataclass
class InputScores:
    """What is kept of a layer's input while samples pass.

    Attributes:
        absmax: largest magnitude so far.
        std: largest of the samples' standard deviations, in the two variants (whole shift, half of it).
        thinned: of each sample.
        settled: the scores, once nothing more will be seen.
    """

    absmax: float = 0.0
    std: list[float] = field(default_factory=lambda: [0.0, 0.0])
    thinned: list[Tensor] = field(default_factory=list)
    settled: dict[str, float] | None = None

    def see(self, x: Tensor) -> None:
        """Adds a sample's input (..., channels)."""
        import torch

        rows = x.detach().float().reshape(-1, x.shape[-1])
        if rows.numel() < 2:
            return
        high, low = rows.amax(0), rows.amin(0)
        self.absmax = max(self.absmax, float(high.max().abs()), float(low.min().abs()))
        for place, part in enumerate((1.0, 0.5)):
            self.std[place] = max(self.std[place], float(torch.std(rows - (high + low) * part)))
        values = torch.sort(rows.reshape(-1))[0]
        self.thinned.append((values if values.numel() < STEP else values[STEP // 2 :: STEP]).cpu())

    def settle(self) -> None:
        """Keeps the scores alone."""
        self.settled = self.scores()
        self.thinned.clear()

    def scores(self) -> dict[str, float]:
        """std, std_halved, quantile and kurtosis; 0 where nothing was seen or nothing varies."""
        import torch

        if self.settled is not None:
            return self.settled
        if not self.thinned:
            return dict.fromkeys(("std", "std_halved", "quantile", "kurtosis"), 0.0)
        values = torch.sort(torch.cat(self.thinned).float())[0].double()
        quarters = torch.quantile(
            values[:: max(values.numel() // 1_000_000, 1)], torch.tensor([0.25, 0.75], dtype=torch.float64)
        )
        between = float(quarters[1] - quarters[0])
        centred = values - values.mean()
        variance = float(centred.square().mean())
        return {
            "std": self.absmax / self.std[0] if self.std[0] else 0.0,
            "std_halved": self.absmax / self.std[1] if self.std[1] else 0.0,
            "quantile": 2 * float(values.abs().max()) / 254 / between if between else 0.0,
            "kurtosis": float(centred.pow(4).mean()) / variance**2 - 3 if variance else 0.0,
        }


def at_level(scores: Mapping[str, float], level: int, already: Iterable[str] = ()) -> list[str]:
    """The layers that `disable_level` L<level> adds: the first so many Linears by score, ties in the order of the model.

    It counts single layers, so that a level may part q from k and v, or gate from up.

    Args:
        scores: layer -> score, in the order of the model.
        already: layers that stay in float anyway; they do not count.
    """
    shut = set(already)
    ranked = sorted((name for name in scores if name not in shut), key=lambda name: -scores[name])
    return ranked[:level]


def by_equal_score(scores: Mapping[str, float], level: int) -> list[str]:
    """The layers of the first groups of equal score, as its LayerSelector takes them: what shares an input stays together."""
    ranked = sorted(scores, key=lambda name: -scores[name])
    groups: Sequence[list[str]] = [list(names) for _, names in groupby(ranked, key=lambda name: scores[name])]
    return [name for names in groups[:level] for name in names]
