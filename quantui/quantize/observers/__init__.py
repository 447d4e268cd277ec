"""Ranges and scales that the engine's own observers do not find, registered with it by their names in a recipe."""

from __future__ import annotations

from quantui.quantize.observers import exact, histogram, sparse

__all__ = ["exact", "histogram", "sparse"]
