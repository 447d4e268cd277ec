"""Tensor-parallel simulation: layers whose input is dealt to ranks get one weight scale a row and rank, as each rank would.

A group of a recipe says so by the knob `shards` of its weights' observer: {observer_kwargs: {shards: 4}}. How many columns a
rank has hangs on the layer, so that a group size comes beside the knob layer by layer; by the knob formats still tell ranks
from groups. A static int8 input by tensor gets a scale and zero point for each rank too, and with {sent:
rank} what ranks send one another gets scales. Source: msModelSlim 26.1.0,
llm_ptq_tools/simulate_tp.py.
"""

from __future__ import annotations

from quantui.recipe.schema import QuantArgs, QuantGroup

KNOB = "shards"
SENT, SENDERS = "sent", ("rank", "all")
"""The knob for scales of what ranks send one another, and what it may be: a scale for each rank's part of an output, or one
for all parts alike."""
BITS_SENT = 8
RANKS = (2, 4, 8, 16)
TARGET = r"re:.*\.(o_proj|down_proj)$"
"""Layers whose input is dealt to ranks, by the names of native models."""


def shards_of(args: QuantArgs | None) -> int:
    """How many ranks share the columns of a weight; 0 where that is not simulated."""
    found = args.observer_kwargs.get(KNOB, 0) if args is not None else 0
    return found if isinstance(found, int) else -1


def sent_of(args: QuantArgs | None) -> object:
    """Which scales there are of what ranks send one another; None where that stays in float."""
    return args.observer_kwargs.get(SENT) if args is not None else None


def dealt(group: QuantGroup, ranks: int, sent: object = None) -> QuantGroup:
    """The group of the layers whose input is dealt to ranks, beside one that takes the others by their class."""
    assert group.weights is not None  # of which there would be nothing to deal
    knobs = group.weights.observer_kwargs | {KNOB: ranks} | ({SENT: sent} if sent else {})
    weights = group.weights.model_copy(update={"observer_kwargs": knobs})
    return group.model_copy(update={"name": "dealt", "targets": (TARGET,), "weights": weights})


def is_dealt(args: QuantArgs | None, columns: int) -> bool:
    """Whether so many columns can be dealt to the ranks evenly, in whole groups where there are any."""
    shards = shards_of(args)
    return args is None or not shards or columns % (shards * (args.group_size or 1)) == 0


def by_shard(group: QuantGroup, columns: int, *, inputs: bool = False) -> QuantGroup:
    """The group as it is for a layer of so many input columns: by groups of a rank's columns, or finer ones as they are.

    Args:
        inputs: static int8 inputs by tensor too, which the engine's own files have one scale for.
    """
    weights, shards = group.weights, shards_of(group.weights)
    if weights is None or not shards or not is_dealt(weights, columns):
        return group
    made = weights.model_copy(update={"strategy": "group", "group_size": weights.group_size or columns // shards})
    args = group.input_activations
    if inputs and args is not None and (args.type, args.num_bits, args.strategy, args.dynamic) == ("int", 8, "tensor", False):
        args = args.model_copy(update={"strategy": "group", "group_size": columns // shards})
    return group.model_copy(update={"weights": made, "input_activations": args})
