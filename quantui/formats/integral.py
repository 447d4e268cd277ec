"""Zero points as the whole numbers that most formats store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quantui.errors import OutputError

if TYPE_CHECKING:
    from torch import Tensor


def whole(values: Tensor, name: str, *, bits: int = 8) -> Tensor:
    """Zero points as int8.

    Raises:
        OutputError: they are no whole numbers of so many bits, the lowest -2^(bits-1).
    """
    import torch

    made = values.to(torch.int8)
    if not values.is_meta:
        lowest, highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        least, most = (int(end) for end in made.aminmax())
        if least < lowest or most > highest or not bool((made == values).all()):
            what = f"its zero points are no whole numbers of {bits} bits, which this format needs"
            raise OutputError(what, where=name, todo="quantize it symmetrically, or with min-max")
    return made
