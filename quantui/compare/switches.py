"""What of the quantized model is quantized at the moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

Side = Literal["original", "quantized"]
SIDES: tuple[Side, Side] = ("original", "quantized")


@dataclass(frozen=True)
class Switches:
    """Which parts are quantized; a layer is the original's where `original` names it.

    Attributes:
        weights: whether weights are.
        activations: whether inputs and outputs of layers are.
        kv: whether keys and values are.
        original: names of the Linears and attention layers (those for keys and values) that are as in the original.
    """

    weights: bool = True
    activations: bool = True
    kv: bool = True
    original: frozenset[str] = frozenset()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Switches:
        """Switches as the page sends them; what is missing is on."""
        names = given.get("original") or ()
        parts = {name: bool(given.get(name, True)) for name in ("weights", "activations", "kv")}
        return cls(**parts, original=frozenset(str(name) for name in names))

    def without(self, *names: str) -> Switches:
        """These switches with some more layers as in the original."""
        return replace(self, original=self.original | set(names))


ALL_ON = Switches()
ALL_OFF = Switches(weights=False, activations=False, kv=False)
