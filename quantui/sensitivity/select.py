"""From scores and sizes to a choice: which layers take which scheme. Pure, and quick on thousands of layers.

Each unit (a layer, or layers that share a format) takes one scheme. Of its schemes only those on the lower convex hull of
size and KL are ever worth it; going up the hulls of all units by the steepest fall of KL per byte gives every point of the
Pareto front of the relaxed problem, one step after another.

Source: the multiple-choice knapsack problem, E. Zemel, Mathematical Programming 18, 1980.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quantui.errors import InputError
from quantui.recipe.words import FLOAT
from quantui.sensitivity.scores import Scores

POINTS = 50
"""Points of a front that is drawn."""


@dataclass(frozen=True)
class Option:
    """A unit in a scheme: bytes of its weights, KL in nats a token."""

    scheme: str
    bytes: int
    kl: float


@dataclass(frozen=True)
class Unit:
    """What takes one scheme together.

    Attributes:
        name: the group's name.
        layers: its layers.
        options: every scheme that all of them can be in, float among them.
    """

    name: str
    layers: tuple[str, ...]
    options: tuple[Option, ...]

    def option(self, scheme: str) -> Option:
        """Its option of that scheme, or float where it has none."""
        return next((one for one in self.options if one.scheme == scheme), next(o for o in self.options if o.scheme == FLOAT))


@dataclass(frozen=True)
class Point:
    """A choice with what it comes to.

    Attributes:
        bytes: of the scored layers.
        kl: sum over the units.
        choice: unit -> scheme.
    """

    bytes: int
    kl: float
    choice: Mapping[str, str]


def units_of(scores: Scores, schemes: Sequence[str] | None = None) -> tuple[Unit, ...]:
    """The units of a table.

    Args:
        schemes: those that may be chosen, float always among them; None for all.
    """
    members: dict[str, list[str]] = {}
    for row in scores.rows:
        if row.scheme == FLOAT:
            members.setdefault(row.group, []).append(row.name)
    units = []
    for group, names in members.items():
        options = []
        for scheme in (*(one.name for one in scores.schemes), FLOAT):
            rows = [scores.by_layer.get((name, scheme)) for name in names]
            if (schemes is None or scheme in (*schemes, FLOAT)) and all(rows):
                found = [row for row in rows if row]
                kl = sum(max(row.kl, 0.0) for row in found)
                options.append(Option(scheme, sum(row.bytes for row in found), kl))
        units.append(Unit(group, tuple(names), tuple(options)))
    return tuple(units)


def hull(unit: Unit) -> tuple[Option, ...]:
    """The options on the lower convex hull, smallest first: each larger one has less KL, and ever less for a byte."""
    found: list[Option] = []
    for option in sorted(unit.options, key=lambda one: (one.bytes, one.kl)):
        if found and option.kl >= found[-1].kl:
            continue
        while len(found) > 1 and _slope(found[-2], found[-1]) <= _slope(found[-1], option):
            found.pop()
        found.append(option)
    return tuple(found)


@dataclass(frozen=True)
class Walk:
    """All steps from the smallest choice to the least KL.

    Attributes:
        units: those it was made of.
        start: the smallest choice.
        steps: (unit, option after the step) in the order they are taken.
        bytes: (steps + 1) what the choice takes after so many steps.
        kl: (steps + 1) its KL.
    """

    units: tuple[Unit, ...]
    start: Mapping[str, str]
    steps: tuple[tuple[str, Option], ...]
    bytes: tuple[int, ...]
    kl: tuple[float, ...]

    def point(self, steps: int) -> Point:
        """The choice after so many steps."""
        choice = dict(self.start)
        for name, option in self.steps[:steps]:
            choice[name] = option.scheme
        return Point(self.bytes[steps], self.kl[steps], choice)


def walk(units: Sequence[Unit]) -> Walk:
    """The walk along the hulls of all units."""
    hulls = {unit.name: hull(unit) for unit in units}
    moves = [
        (-_slope(before, after), number, place, unit.name, before, after)
        for number, unit in enumerate(units)
        for place, (before, after) in enumerate(zip(hulls[unit.name], hulls[unit.name][1:], strict=False))
    ]
    sizes, damage = [sum(h[0].bytes for h in hulls.values())], [sum(h[0].kl for h in hulls.values())]
    ordered = sorted(moves, key=lambda move: move[:3])
    for *_, before, after in ordered:
        sizes.append(sizes[-1] + after.bytes - before.bytes)
        damage.append(max(damage[-1] + after.kl - before.kl, 0.0))
    start = {name: options[0].scheme for name, options in hulls.items()}
    return Walk(tuple(units), start, tuple((move[3], move[5]) for move in ordered), tuple(sizes), tuple(damage))


def front(units: Sequence[Unit], points: int = POINTS) -> list[Point]:
    """The Pareto front, smallest first: at most so many points, both ends among them, spread evenly over the bytes."""
    found = walk(units)
    last, low, high = len(found.steps), found.bytes[0], found.bytes[-1]
    picked = {0, last}
    for number in range(1, points - 1):
        wanted = low + (high - low) * number / (points - 1)
        picked.add(
            min(range(last + 1), key=lambda step: abs(found.bytes[step] - wanted)) if last < 64 else _near(found.bytes, wanted)
        )
    return [found.point(step) for step in sorted(picked)]


def within_bytes(units: Sequence[Unit], budget: int) -> Point:
    """The least KL within so many bytes of the scored layers.

    Raises:
        InputError: even the smallest choice takes more; it is named.
    """
    found = walk(units)
    if found.bytes[0] > budget:
        least, left = found.bytes[0] / 1e6, max(budget, 0) / 1e6
        what = f"the smallest choice takes {least:.3f} MB for the scored layers, and the budget leaves {left:.3f} MB"
        raise InputError(what, where="budget", todo="raise the budget, or score schemes with fewer bits")
    steps = max(step for step, size in enumerate(found.bytes) if size <= budget)
    return _filled(units, found, found.point(steps), steps, budget)


def within_kl(units: Sequence[Unit], limit: float) -> Point:
    """The fewest bytes whose KL is at most the limit, which float always meets."""
    if limit < 0:
        raise InputError(f"a KL of {limit:g} cannot be: it is never below 0", where="--max-kl", todo="give 0 or more")
    found = walk(units)
    return found.point(next(step for step, kl in enumerate(found.kl) if kl <= limit or step == len(found.steps)))


def level_of(text: str) -> int:
    """The number of a fallback level, "L2" or "2".

    Raises:
        InputError: it is none.
    """
    found = re.fullmatch(r"[Ll]?(0|[1-9]\d*)", text.strip())
    if found is None:
        raise InputError(f"{text!r} is no fallback level", where="--level", todo="write L0, L1, L2 ...")
    return int(found[1])


def fallback_order(units: Sequence[Unit], choice: Mapping[str, str]) -> list[str]:
    """Units that are quantized in a choice, the one that costs most KL first."""
    damage = {unit.name: unit.option(choice.get(unit.name, FLOAT)).kl for unit in units}
    quantized = [unit.name for unit in units if choice.get(unit.name, FLOAT) != FLOAT]
    return sorted(quantized, key=lambda name: -damage[name])


def fall_back(units: Sequence[Unit], choice: Mapping[str, str], level: int) -> Point:
    """The choice with its `level` worst units in float; a unit falls back whole.

    Raises:
        InputError: there are fewer units than that.
    """
    order = fallback_order(units, choice)
    if level > len(order):
        what = f"L{level} asks for more than the {len(order)} quantized layers or groups there are"
        raise InputError(what, where="--level", todo=f"give L{len(order)} or less")
    return point_of(units, {**choice, **dict.fromkeys(order[:level], FLOAT)})


def point_of(units: Sequence[Unit], choice: Mapping[str, str]) -> Point:
    """A choice with its bytes and KL."""
    taken = {unit.name: unit.option(choice.get(unit.name, FLOAT)) for unit in units}
    return Point(
        sum(option.bytes for option in taken.values()),
        sum(option.kl for option in taken.values()),
        {name: option.scheme for name, option in taken.items()},
    )


def by_layer(units: Sequence[Unit], choice: Mapping[str, str]) -> dict[str, str]:
    """Layer -> scheme of a choice by unit."""
    return {name: choice[unit.name] for unit in units for name in unit.layers}


def by_unit(units: Sequence[Unit], layers: Mapping[str, str]) -> dict[str, str]:
    """Unit -> scheme of a choice by layer; of layers that differ the first that is quantized counts."""
    found = {}
    for unit in units:
        schemes = [layers.get(name, FLOAT) for name in unit.layers]
        found[unit.name] = next((scheme for scheme in schemes if scheme != FLOAT), FLOAT)
    return found


def _slope(before: Option, after: Option) -> float:
    """KL saved for a byte more."""
    return (before.kl - after.kl) / max(after.bytes - before.bytes, 1)


def _near(sizes: Sequence[int], wanted: float) -> int:
    from bisect import bisect_left

    place = min(bisect_left(sizes, wanted), len(sizes) - 1)
    return place - 1 if place and abs(sizes[place - 1] - wanted) < abs(sizes[place] - wanted) else place


def _filled(units: Sequence[Unit], found: Walk, point: Point, steps: int, budget: int) -> Point:
    """The point with what is left of the budget spent on later steps that still fit."""
    choice, size, known = dict(point.choice), point.bytes, {unit.name: unit for unit in units}
    for name, option in found.steps[steps:]:
        before = known[name].option(choice[name])
        if option.kl < before.kl and size + option.bytes - before.bytes <= budget:
            choice[name], size = option.scheme, size + option.bytes - before.bytes
    return point_of(units, choice)
