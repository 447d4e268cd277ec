"""Plots of the report as shapes that the template draws: one bar for every layer in order, on a log scale. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from quantui.stats.kinds import place_of

WIDTH, HEIGHT = 960.0, 170.0
DECADES = 6
"""So many powers of ten below the largest are shown at most; what is less has no height."""
GAP = 0.2
"""Share of a bar's place that is left free."""
KINDS = ("q", "k", "v", "o", "gate", "up", "down")
"""Kinds of layers that have a colour of their own, in the order of the colours."""


@dataclass(frozen=True)
class Bar:
    """One layer: where its bar stands, in units of the drawing."""

    name: str
    value: float
    x: float
    y: float
    width: float
    height: float
    colour: int


@dataclass(frozen=True)
class Plot:
    """A drawing of WIDTH x HEIGHT.

    Attributes:
        bars: in the order of the layers.
        lines: (y, label) of each power of ten.
        colours: (kind, number of its colour) of those that appear.
    """

    bars: tuple[Bar, ...]
    lines: tuple[tuple[float, str], ...]
    colours: tuple[tuple[str, int], ...]


def plot(values: Mapping[str, float]) -> Plot | None:
    """The plot of layer -> value; None where nothing is above 0."""
    above = [value for value in values.values() if value > 0]
    if not above:
        return None
    top = math.ceil(math.log10(max(above)))
    bottom = max(math.floor(math.log10(min(above))), top - DECADES)
    bottom = min(bottom, top - 1)
    place = WIDTH / len(values)
    bars = []
    for number, (name, value) in enumerate(values.items()):
        share = (math.log10(value) - bottom) / (top - bottom) if value > 0 else 0.0
        height = round(max(share, 0.0) * HEIGHT, 2)
        kind = place_of(name).kind
        colour = KINDS.index(kind) + 1 if kind in KINDS else 0
        x, width = round((number + GAP / 2) * place, 2), round(place * (1 - GAP), 2)
        bars.append(Bar(name, value, x, round(HEIGHT - height, 2), width, height, colour))
    lines = tuple((round((top - power) / (top - bottom) * HEIGHT, 2), f"1e{power}") for power in range(bottom, top + 1))
    there = {bar.colour for bar in bars}
    return Plot(tuple(bars), lines, tuple((kind, place) for place, kind in enumerate(KINDS, 1) if place in there))
