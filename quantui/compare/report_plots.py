"""Plots of the report as shapes that the template draws: one bar for every layer in order, on a log scale. No torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from quantui.stats.kinds import place_of

WIDTH, HEIGHT = 960.0, 170.0
DECADES = 6
"""So many powers of ten below the largest are shown at most; what is less has no height."""
GAP = 0.2
"""Share of a bar's place that is left free."""
LABELS = 24
"""Numbers of blocks that stand under a drawing at most."""
KINDS = ("q", "k", "v", "o", "gate", "up", "down")
"""Kinds of layers that have a colour of their own, in the order of the colours."""


@dataclass(frozen=True)
class Bar:
    """One layer: where its bar stands, in units of the drawing.

    Attributes:
        mark: where a line crosses the bar, None without one.
        is_hollow: whether only its outline is drawn.
    """

    name: str
    value: float
    x: float
    y: float
    width: float
    height: float
    colour: int
    mark: float | None
    is_hollow: bool


@dataclass(frozen=True)
class Plot:
    """A drawing of WIDTH x HEIGHT.

    Attributes:
        bars: in the order of the layers.
        lines: (y, label) of each power of ten.
        colours: (kind, number of its colour) of those that appear.
        blocks: (x, number) where a block of the model begins.
    """

    bars: tuple[Bar, ...]
    lines: tuple[tuple[float, str], ...]
    colours: tuple[tuple[str, int], ...]
    blocks: tuple[tuple[float, str], ...]


def plot(values: Mapping[str, float], marks: Mapping[str, float] | None = None, hollow: Collection[str] = ()) -> Plot | None:
    """The plot of layer -> value; None where nothing is above 0.

    Args:
        marks: a second value of layers, which a line across the bar shows.
        hollow: layers of which only the outline is drawn.
    """
    marks = marks or {}
    above = [value for value in (*values.values(), *marks.values()) if value > 0]
    if not above:
        return None
    top = math.ceil(math.log10(max(above)))
    bottom = max(math.floor(math.log10(min(above))), top - DECADES)
    bottom = min(bottom, top - 1)
    place = WIDTH / len(values)
    bars = []
    for number, (name, value) in enumerate(values.items()):
        height = _height(value, bottom, top)
        kind = place_of(name).kind
        colour = KINDS.index(kind) + 1 if kind in KINDS else 0
        x, width = round((number + GAP / 2) * place, 2), round(place * (1 - GAP), 2)
        mark = round(HEIGHT - _height(marks[name], bottom, top), 2) if marks.get(name, 0) > 0 else None
        bars.append(Bar(name, value, x, round(HEIGHT - height, 2), width, height, colour, mark, name in hollow))
    lines = tuple((round((top - power) / (top - bottom) * HEIGHT, 2), f"1e{power}") for power in range(bottom, top + 1))
    there = {bar.colour for bar in bars}
    colours = tuple((kind, number) for number, kind in enumerate(KINDS, 1) if number in there)
    return Plot(tuple(bars), lines, colours, _blocks(list(values), place))


def _height(value: float, bottom: int, top: int) -> float:
    share = (math.log10(value) - bottom) / (top - bottom) if value > 0 else 0.0
    return round(max(share, 0.0) * HEIGHT, 2)


def _blocks(names: list[str], place: float) -> tuple[tuple[float, str], ...]:
    places = [(one.vision, one.block) for one in map(place_of, names)]
    begin = [n for n, one in enumerate(places) if one[1] is not None and (n == 0 or one != places[n - 1])]
    few = begin[:: math.ceil(len(begin) / LABELS) or 1]
    return tuple((round(number * place, 2), str(places[number][1])) for number in few)
