"""One tiny model with all that a method needs, made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from quantui.recipe.schema import QuantArgs, QuantGroup
from quantui.sensitivity.candidates import Candidate

W8A8 = Candidate("W8A8", QuantGroup(name="g", weights=QuantArgs(), input_activations=QuantArgs(observer="static_minmax")))
W4 = Candidate("W4", QuantGroup(name="g", weights=QuantArgs(num_bits=4, strategy="group", group_size=16)))
FP8 = Candidate(
    "FP8",
    QuantGroup(
        name="g",
        weights=QuantArgs(type="float", strategy="channel"),
        input_activations=QuantArgs(type="float", strategy="token", dynamic=True),
    ),
)


@dataclass
class Bench:
    """A model ready to be scored."""

    model: Any
    batches: list[Any]
    tail: Any
    rounding: Any
    wanted: dict[str, tuple[int, ...]]

    @classmethod
    def of(
        cls, kind: str, known: Sequence[Candidate] = (W8A8, W4), tokens: int = 64, device: Any = "cpu", **changes: Any
    ) -> Bench:
        """A random model of a kind, its head sharpened so that it is sure of some tokens."""
        import torch

        from quantui.sensitivity.batches import make_batches, on_device
        from quantui.sensitivity.divergence import Tail
        from quantui.sensitivity.rounding import Rounding, find_ranges
        from quantui.sensitivity.sites import sites_of
        from tests.stats.models import make, token_batches

        model = make(kind, **changes)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.dim() >= 2:
                    parameter.mul_(8 if "embed" in name or "lm_head" in name else 3)
        model.to(device)
        batches = [
            on_device(one, device, model.dtype) for one in make_batches(token_batches((7, 2, 40, 33, 12)), tokens=tokens)
        ]
        tail = Tail(model, batches[0])
        ranges = find_ranges(model, tail, batches)
        names = [site.name for site in sites_of(model) if site.name in ranges.inputs]
        wanted = {name: tuple(range(len(known))) for name in names if not name.endswith(("lm_head", "mlp.gate"))}
        return cls(model, batches, tail, Rounding(known, ranges), wanted)


@pytest.fixture(scope="session")
def llama() -> Bench:
    """A tiny Llama."""
    return Bench.of("llama")
