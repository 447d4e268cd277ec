"""What cannot work in a recipe, with the reason and the nearest that can; and what this version does not carry out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from quantui.checkpoint.inspect import Linear
from quantui.errors import RecipeError
from quantui.recipe.args import LEVELS_OBSERVER, OWN_OBSERVERS, QuantArgs
from quantui.recipe.match import match
from quantui.recipe.schema import QuantGroup, Recipe
from quantui.recipe.shards import RANKS, SENDERS, sent_of, shards_of
from quantui.recipe.targets import ASCEND
from quantui.recipe.words import cache_words, scheme_words


class Refusal(NamedTuple):
    """Something that cannot work.

    Attributes:
        what: the reason.
        todo: the nearest that can, as an instruction.
        place: the field of the recipe, or the name of the group, that it concerns.
    """

    what: str
    todo: str
    place: str


def refusals(recipe: Recipe, layers: Sequence[Linear] = ()) -> list[Refusal]:
    """Everything in a recipe that cannot work, with these layers where any are given.

    What the schema itself refuses never comes so far; what the engine can run but no consumer can use is refused here.
    """
    found = [refusal for group in recipe.groups for refusal in _of_group(group, sparse=recipe.sparse is not None)]
    found += [*_of_rounding(recipe), *_of_suppression(recipe), *_of_sparse(recipe), *_of_cache(recipe)]
    if layers:
        try:
            match(recipe, layers)
        except RecipeError as error:
            found.append(Refusal(error.what, error.todo, "layers"))
    return found


def check(recipe: Recipe, where: str = "recipe") -> None:
    """Refuses a recipe that cannot work with any model.

    Raises:
        RecipeError: with every reason, and what to do about the first.
    """
    if found := refusals(recipe):
        raise RecipeError("; ".join(refusal.what for refusal in found), where=where, todo=found[0].todo)


def _of_group(group: QuantGroup, *, sparse: bool) -> Iterator[Refusal]:
    """What cannot work in one group, whatever stands beside it."""
    weights, inputs, name = group.weights, group.input_activations, group.name
    if weights is not None and inputs is not None and inputs.type == "int":
        if weights.type == "int" and not weights.symmetric:
            what = f"group {name} has asymmetric weights with int{inputs.num_bits} activations, which no kernel multiplies"
            yield Refusal(what, "make the weights symmetric, or leave the activations in float", name)
        if weights.type == "float":
            what = f"group {name} multiplies fp{weights.num_bits} weights with int{inputs.num_bits} activations"
            yield Refusal(what, f"make the activations fp{weights.num_bits}, or the weights int8", name)
        if weights.type == "int" and weights.num_bits > inputs.num_bits:
            what = f"group {name} has int{inputs.num_bits} activations, fewer bits than its int{weights.num_bits} weights"
            yield Refusal(what, f"give the activations {weights.num_bits} bits", name)
    if weights is not None and weights.observer in OWN_OBSERVERS:
        what = f"group {name} has the observer {weights.observer} for weights, which looks at activations"
        yield Refusal(what, "use mse or static_minmax for weights", f"{name}.weights")
    nf4 = weights is not None and weights.observer == LEVELS_OBSERVER
    if weights is not None and nf4:
        plain = weights.type == "int" and weights.num_bits == 4 and weights.symmetric and weights.strategy == "group"
        if not plain or inputs is not None:
            what = f"group {name} has NF4 levels for other than symmetric 4-bit weights by group beside float activations"
            yield Refusal(what, "use num_bits: 4 and strategy: group with group_size 64, and leave the activations out", name)
    if any(args is not None and args.observer == LEVELS_OBSERVER for args in (inputs, group.output_activations)):
        yield Refusal(f"group {name} has NF4 levels for activations", "use static_minmax for activations", name)
    if shards := shards_of(weights):
        whole = weights is not None and weights.type == "int" and weights.strategy in ("channel", "tensor", "group")
        staged = weights is not None and weights.observer_kwargs.get("stages") == 2
        if shards not in RANKS or not whole or nf4 or sparse or staged:
            what = (
                f"group {name} simulates ranks for other than "
                "integer weights with one scale a row or group on 2, 4, 8 or 16 of them"
            )
            yield Refusal(what, "set shards to 2, 4, 8 or 16, or leave it out", f"{name}.weights")
    static = inputs is None or inputs.dynamic is False
    if (sent := sent_of(weights)) is not None and not (shards and sent in SENDERS and static):
        what = f"group {name} has scales of what ranks send, which take shards, and static or float activations"
        yield Refusal(what, "set sent to rank or all beside shards, or leave it out", f"{name}.weights")
    for args in filter(None, (inputs, group.output_activations)):
        yield from _of_activations(group, args, sparse=sparse)


def _of_activations(group: QuantGroup, args: QuantArgs, *, sparse: bool) -> Iterator[Refusal]:
    name, weights = group.name, group.weights
    place = f"{name}.input_activations"
    if args.dynamic is True and args.observer in OWN_OBSERVERS:
        what = f"group {name} has the observer {args.observer} for dynamic activations, whose range nothing observes beforehand"
        yield Refusal(what, "leave the observer out, or make the activations static", place)
    if args.type == "int" and args.strategy == "group" and args.dynamic is False:
        what = f"group {name} has static int{args.num_bits} activations by group, which the engine reads as rows"
        yield Refusal(
            what, "use strategy: tensor; weights with the knob shards give each rank's input a scale of its own", place
        )
    if args.type == "float" and args.num_bits == 4:
        if args.group_size not in (16, 32):
            what = f"group {name} has fp4 activations that do not go by groups of 16 (NVFP4) or 32 (MXFP4)"
            yield Refusal(what, "use the scheme NVFP4 or MXFP4", place)
        elif weights is not None and (weights.type, weights.num_bits, weights.group_size) != ("float", 4, args.group_size):
            what = f"group {name} has fp4 activations in groups of {args.group_size}, and its weights are stored otherwise"
            yield Refusal(what, f"use the scheme {'NVFP4' if args.group_size == 16 else 'MXFP4'} for both", place)
    if args.dynamic is False and args.type == "int" and weights is not None and weights.type == "int" and weights.num_bits < 8:
        if args.observer == "auto":
            what = f"group {name} has the observer auto with int{weights.num_bits} weights; it compares 8-bit layers alone"
            yield Refusal(what, "use the observer histogram or static_minmax", place)
        if sparse:  # which is what makes static 4 bits work
            return
        what = f"group {name} has int{weights.num_bits} weights with static int activations, which nothing deploys"
        yield Refusal(what, "make the activations dynamic, by token", place)


def _of_rounding(recipe: Recipe) -> Iterator[Refusal]:
    """What GPTQ, AutoRound and HQQ cannot round."""
    method = next((field for field in ("gptq", "autoround", "hqq") if getattr(recipe, field) is not None), None)
    label = {"gptq": "GPTQ", "autoround": "AutoRound", "hqq": "HQQ"}.get(method or "", "")
    weighted = [(group, group.weights) for group in recipe.groups if group.weights is not None]
    if method is not None and not weighted:
        yield Refusal(f"{label} rounds weights, and no group quantizes any", f"leave {label} out, or quantize weights", method)
    for group, weights in weighted:
        if method is not None and weights.observer == LEVELS_OBSERVER:
            what = f"{label} rounds to evenly spaced values, which the NF4 levels of group {group.name} are not"
            yield Refusal(what, f"leave {label} out, or use another observer", group.name)
        if weights.actorder is not None and method != "gptq":
            what = f"group {group.name} has an actorder, which is the column order of GPTQ"
            yield Refusal(what, "leave actorder out, or round with GPTQ", f"{group.name}.weights")
        if method == "hqq":
            yield from _of_hqq(group, weights)
        if method == "autoround" and weights.strategy == "block":
            what = f"AutoRound does not round weights by block, as group {group.name} asks"
            yield Refusal(what, "use strategy group or channel", group.name)
    for group in recipe.groups if method == "autoround" else ():
        if group.output_activations is not None:
            what = f"AutoRound cannot quantize output activations, as group {group.name} asks"
            yield Refusal(what, "quantize the inputs instead", group.name)


def _of_hqq(group: QuantGroup, weights: QuantArgs) -> Iterator[Refusal]:
    if weights.type == "float" or weights.strategy not in ("group", "channel"):
        what = f"HQQ rounds integers by group or channel, not {weights.type} by {weights.strategy} as group {group.name} asks"
        yield Refusal(what, "use integer weights with strategy group", group.name)
    elif group.input_activations is not None or weights.symmetric:
        what = f"HQQ works on zero points, so the weights of group {group.name} are asymmetric and its activations float"
        yield Refusal(what, "set symmetric: false and leave the activations out, or round with GPTQ", group.name)


def _of_suppression(recipe: Recipe) -> Iterator[Refusal]:
    weighted = [group for group in recipe.groups if group.weights is not None]
    if recipe.awq is not None:
        if not weighted:
            what = "AWQ prepares weights to be rounded, and no group quantizes any"
            yield Refusal(what, "quantize weights, for example with the scheme W4A16", "awq")
        for group in weighted:
            if group.weights is not None and group.weights.strategy == "tensor" and recipe.awq.duo_scaling is not False:
                what = f"AWQ with duo_scaling needs weights by group or channel, and group {group.name} has them by tensor"
                yield Refusal(what, "use strategy channel or group, or set duo_scaling: false", group.name)
    for field, label in (("smoothquant", "SmoothQuant"), ("outliers", "outlier suppression")):
        if getattr(recipe, field) is not None and not recipe.groups:
            yield Refusal(f"{label} prepares layers to be quantized, and none is", "quantize some, or leave it out", field)


def _of_sparse(recipe: Recipe) -> Iterator[Refusal]:
    if recipe.sparse is None:
        return
    for group in recipe.groups:
        weights, inputs = group.weights, group.input_activations
        if weights is not None and not (weights.type == "int" and weights.num_bits == 4 and inputs and inputs.type == "int"):
            what = f"sparse weights are int4 with int8 activations (W4A8S), which group {group.name} has not"
            yield Refusal(what, "use the scheme W4A8, or leave the sparse outliers out", group.name)
    for field in ("gptq", "autoround", "hqq", "awq"):
        if getattr(recipe, field) is not None:
            yield Refusal(f"sparse weights are rounded to nearest, not by {field}", f"leave {field} out", "sparse")


def _of_cache(recipe: Recipe) -> Iterator[Refusal]:
    for place in ("kv_cache", "value_cache"):
        args = getattr(recipe, place)
        if args is None:
            continue
        if args.num_bits < 8 and args.type == "float":
            yield Refusal("no runtime keeps a K/V cache in fp4", "use fp8 or int8", place)
        if args.dynamic is True and args.observer in OWN_OBSERVERS:
            what = f"a dynamic K/V cache has no range that the observer {args.observer} could find"
            yield Refusal(what, "leave the observer out", place)
        if args.strategy == "channel":
            yield from _of_channels(recipe, args, place)


def _of_channels(recipe: Recipe, args: QuantArgs, place: str) -> Iterator[Refusal]:
    """A K/V cache by channel beside anything that its one format, msModelSlim's C8, cannot store."""
    kind = cache_words(args)
    if not any(side.takes(args) for side in ASCEND.cache):
        todo = "make it int8, or cache by strategy tensor or attn_head"
        yield Refusal(f"no format stores a K/V cache of {kind}", todo, place)
        return
    if recipe.has_online_rotations:
        what = f"a K/V cache of {kind} is stored by msModelSlim's format alone, which has no rotations at run time"
        yield Refusal(what, "cache by strategy tensor or attn_head, or keep R1 and R2 only", place)
    for group in recipe.groups if recipe.sparse is None else ():
        if group.quantizes and not any(scheme.takes(group) for scheme in ASCEND.schemes):
            what = (
                f"a K/V cache of {kind} is stored by msModelSlim's format alone, which does not hold {scheme_words(group)} "
                f"as group {group.name} has it"
            )
            todo = "cache by strategy tensor or attn_head, or use a scheme that it holds, such as W8A8"
            yield Refusal(what, todo, place)


__all__ = ["Refusal", "check", "refusals"]
