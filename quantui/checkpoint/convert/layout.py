"""The same weights under two sets of names: what an original layout calls them, and what transformers' own class does.

A layout is data. Each link says which rows (entries of axis 0) of an original tensor are which rows of a native one, so
that the way there and the way back are the same table read from either side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Shape = tuple[int, ...]
Side = Literal["original", "native"]


class Rows(NamedTuple):
    """Rows `start` to `stop` of axis 0 of a tensor."""

    tensor: str
    start: int
    stop: int


class Link(NamedTuple):
    """The same rows on both sides."""

    original: Rows
    native: Rows


@dataclass
class Layout:
    """Both sides of a model: every tensor with its shape, and the links between them."""

    original: dict[str, Shape] = field(default_factory=dict)
    native: dict[str, Shape] = field(default_factory=dict)
    links: list[Link] = field(default_factory=list)

    def same(self, original: str, native: str, shape: Shape) -> None:
        """One tensor that both sides keep whole."""
        rows = shape[0] if shape else 1
        self.original[original] = shape
        self.native[native] = shape
        self.links.append(Link(Rows(original, 0, rows), Rows(native, 0, rows)))

    def fused(self, original: str, parts: Iterable[tuple[str, int]], *rest: int) -> None:
        """An original tensor that holds several native ones, in blocks of rows one after the other.

        Args:
            original: its name.
            parts: (native name, rows) of each block in their order; a name that comes again goes on where it stopped.
            rest: the other axes, the same for all.
        """
        row = 0
        ends: dict[str, int] = {}
        for native, rows in parts:
            begin = ends.get(native, 0)
            self.links.append(Link(Rows(original, row, row + rows), Rows(native, begin, begin + rows)))
            ends[native] = begin + rows
            row += rows
        self.original[original] = (row, *rest)
        self.native.update({native: (rows, *rest) for native, rows in ends.items()})

    def add(self, other: Layout, original: str = "", native: str = "") -> None:
        """Takes in another layout under a prefix on each side."""
        self.original.update({original + name: shape for name, shape in other.original.items()})
        self.native.update({native + name: shape for name, shape in other.native.items()})
        for there, here in other.links:
            self.links.append(Link(there._replace(tensor=original + there.tensor), here._replace(tensor=native + here.tensor)))

    def shapes(self, side: Side) -> Mapping[str, Shape]:
        """The tensors of one side."""
        return self.original if side == "original" else self.native

    def sources(self, target: Side) -> dict[str, list[Rows]]:
        """For every tensor of the target side, the rows of the other side it is made of, in order."""
        found: dict[str, list[tuple[int, Rows]]] = {name: [] for name in self.shapes(target)}
        for link in self.links:
            here, there = (link.native, link.original) if target == "native" else (link.original, link.native)
            found[here.tensor].append((here.start, there))
        return {name: [rows for _, rows in sorted(parts)] for name, parts in found.items()}
