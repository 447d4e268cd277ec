"""What a recipe does that its author may not have meant, each as a sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from quantui.checkpoint.inspect import Linear
from quantui.recipe.match import takes
from quantui.recipe.patterns import is_pattern
from quantui.recipe.schema import QuantGroup, Recipe


def surprises(recipe: Recipe, layers: Sequence[Linear]) -> list[str]:
    """Patterns that take more than they seem to, patterns that only the alphabet ranks, rotations left to run time."""
    names = [layer.name for layer in layers]
    entries = dict.fromkeys((*(target for group in recipe.groups for target in group.targets), *recipe.ignore))
    found = [sentence for entry in entries if is_pattern(entry) for sentence in _takes_more(entry, names)]
    return [*found, *_ranked_by_alphabet(recipe, names), *_left_to_run_time(recipe)]


def _takes_more(entry: str, names: Sequence[str]) -> Iterator[str]:
    """A pattern is anchored at the start only: `re:.*mlp.gate` takes gate_proj too, `re:.*layers.1` takes layer 10."""
    pattern = re.compile(entry[3:])
    longer = []
    for name in names:
        found = pattern.match(name)
        if found and 0 < found.end() < len(name) and _goes_on(name, found.end()):
            longer.append(name)
    if longer:
        more = f" and {len(longer) - 1} more" if len(longer) > 1 else ""
        end = r"(\.|$)" if entry[-1:].isdigit() else "$"
        yield f"{entry!r} also takes {longer[0]}{more}, since a pattern need not reach the end of a name; end it with {end}"


def _goes_on(name: str, end: int) -> bool:
    """Whether a match stops inside a word of the name, or inside a number."""
    before, after = name[end - 1], name[end]
    return (before.isalnum() or before == "_") and (after.isalnum() or after == "_")


def _ranked_by_alphabet(recipe: Recipe, names: Sequence[str]) -> Iterator[str]:
    """Where two patterns of groups that differ take one layer, the engine goes by the alphabet, not by the file."""
    by_target = {target: group for group in recipe.groups for target in group.targets if is_pattern(target)}
    ranked = [(target, by_target[target]) for target in sorted(by_target)]
    exact = {target for group in recipe.groups for target in group.targets if not is_pattern(target)}
    told: set[tuple[str, str]] = set()
    for name in names if len(ranked) > 1 else ():
        if name in exact:
            continue
        taking = [(target, group) for target, group in ranked if takes(target, name, frozenset())]
        for target, group in taking[1:]:
            first, winner = taking[0]
            if (first, target) not in told and not _alike(winner, group):
                told.add((first, target))
                yield f"{first!r} and {target!r} both take {name}: the first counts, since it comes first in the alphabet"


def _alike(one: QuantGroup, other: QuantGroup) -> bool:
    return one.model_copy(update={"name": other.name, "targets": other.targets}) == other


def _left_to_run_time(recipe: Recipe) -> Iterator[str]:
    for modifier in recipe.engine_modifiers:
        if modifier.is_online:
            yield (
                f"{modifier.name} leaves rotations to run time: vLLM does them, transformers leaves them out when it opens the "
                "result, so that its answers there are not those of the quantized model"
            )
