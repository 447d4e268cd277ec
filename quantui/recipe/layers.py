"""What a recipe does to every layer of a model, and all that is wrong with it, at once. No torch."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from quantui.checkpoint.inspect import Linear
from quantui.recipe.match import KEY_VALUE, LINEAR_CLASSES, is_module_class, is_optional, named_like
from quantui.recipe.schema import QuantArgs, Recipe
from quantui.recipe.shards import is_dealt, shards_of
from quantui.recipe.size import float_bytes, quantized_bytes
from quantui.recipe.words import FLOAT, scheme_words


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    Attributes:
        name: its module name.
        shape: (out_features, in_features).
        dtype: what its weight is stored as.
        scheme: how it is quantized, in words; "float" where it is not.
        group: the group that takes it, None for none.
        rule: the target that takes it, or the ignore entry that leaves it out; None where nothing takes it.
        ignored: whether `rule` is an ignore entry.
        beaten: the other entries that take it, which come after `rule`.
        bytes_before: stored size of its weight.
        bytes_after: the same when quantized, scales and zero points included.
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    scheme: str
    group: str | None
    rule: str | None
    ignored: bool
    bytes_before: int
    bytes_after: int
    beaten: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Something wrong with a recipe for this model.

    Attributes:
        what: what, with what to do about it.
        layer: the first layer it concerns, or empty.
        rule: the target or ignore entry it concerns, or empty.
        severity: "error" stops a job; "warning" is worth a look.
    """

    what: str
    layer: str = ""
    rule: str = ""
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class LayerTable:
    """Every layer with what becomes of it.

    Attributes:
        rows: in the order of the layers.
        problems: all of them, errors first.
        taken_by: how many layers are quantized because of each target, and how many each ignore entry leaves out.
        untaken: layers that no target takes.
        bytes_before: stored size of all Linear weights.
        bytes_after: the same when quantized.
        bits_per_weight: average over all Linear weights when quantized.
    """

    rows: tuple[LayerRow, ...]
    problems: tuple[Problem, ...]
    taken_by: dict[str, int]
    untaken: tuple[str, ...]
    bytes_before: int
    bytes_after: int
    bits_per_weight: float

    @property
    def quantized(self) -> int:
        """How many layers are quantized."""
        return sum(row.scheme != FLOAT for row in self.rows)


def layer_table(recipe: Recipe, layers: Sequence[Linear]) -> LayerTable:
    """The layer table of a recipe; it names every problem and raises none."""
    rules = _Rules(recipe)
    rows = tuple(rules.row(layer) for layer in layers)
    taken_by = _counted(rules, rows)
    problems = (*_unused(layers, rules, taken_by), *_indivisible(recipe, layers, rows), *_level(recipe, rows))
    weights = sum(layer.parameters for layer in layers)
    after = sum(row.bytes_after for row in rows)
    return LayerTable(
        rows=rows,
        problems=tuple(sorted(problems, key=lambda problem: problem.severity)),
        taken_by=taken_by,
        untaken=tuple(row.name for row in rows if row.rule is None),
        bytes_before=sum(row.bytes_before for row in rows),
        bytes_after=after,
        bits_per_weight=8 * after / weights if weights else 0.0,
    )


def _counted(rules: _Rules, rows: Sequence[LayerRow]) -> dict[str, int]:
    """Layers by entry; a target's are those that no ignore entry leaves out."""
    taken = Counter(row.rule for row in rows if not row.ignored)
    return {entry: taken[entry] if entry in rules.groups else count for entry, count in rules.counts.items()}


def differences(one: LayerTable, other: LayerTable) -> list[tuple[LayerRow, LayerRow]]:
    """The layers that two recipes treat differently, as each does."""
    pairs = zip(one.rows, other.rows, strict=True)
    return [
        (first, second) for first, second in pairs if (first.scheme, first.bytes_after) != (second.scheme, second.bytes_after)
    ]


_Sorted = tuple[frozenset[str], tuple[tuple[str, re.Pattern[str]], ...], str | None]


class _Rules:
    """Targets and ignore entries by kind: an exact name beats a pattern, a pattern beats a class; see recipe/match.py."""

    def __init__(self, recipe: Recipe) -> None:
        self.groups = {target: group for group in recipe.groups for target in group.targets}
        self.targets = _sorted(self.groups)
        self.ignore = _sorted(recipe.ignore)
        self.counts = dict.fromkeys((*self.groups, *recipe.ignore), 0)
        self.words = {group.name: scheme_words(group) for group in recipe.groups}
        self.bytes: dict[tuple[tuple[int, int], str, str], int] = {}  # of a shape and dtype in a group: most layers are alike

    def row(self, layer: Linear) -> LayerRow:
        """The row of a layer."""
        before = float_bytes(layer)
        takes, leaves = self._all(self.targets, layer.name), self._all(self.ignore, layer.name)
        for entry in (*takes[:1], *leaves):
            self.counts[entry] += 1
        group = self.groups[takes[0]] if takes and not leaves else None
        scheme = self.words[group.name] if group else FLOAT
        shape, name, after = (layer.out_features, layer.in_features), group.name if group else None, before
        if group and scheme != FLOAT:
            alike = (shape, layer.dtype, group.name)
            if alike not in self.bytes:
                self.bytes[alike] = quantized_bytes(layer, group)
            after = self.bytes[alike]
        rules = (*leaves, *takes)
        rule, beaten = (rules[0], rules[1:]) if rules else (None, ())
        return LayerRow(layer.name, shape, layer.dtype, scheme, name, rule, bool(leaves), before, after, beaten)

    def _all(self, rules: _Sorted, name: str) -> list[str]:
        """The entries that take a name, in the order they count."""
        exact, patterns, rest = rules  # the last is the class that takes all others, or None
        found = [name] if name in exact else []
        found += [entry for entry, pattern in patterns if pattern.match(name)]
        return found if rest is None or rest == name else [*found, rest]


def _sorted(entries: Iterable[str]) -> _Sorted:
    """Exact names, patterns in the order they count, and the class that takes the rest."""
    names = sorted(set(entries))
    exact = frozenset(entry for entry in names if not entry.startswith("re:"))
    patterns = tuple((entry, _regex(entry[3:])) for entry in names if entry.startswith("re:"))
    return exact, patterns, next((name for name in sorted(LINEAR_CLASSES) if name in exact), None)


@functools.lru_cache(maxsize=4096)
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _unused(layers: Sequence[Linear], rules: _Rules, taken_by: dict[str, int]) -> list[Problem]:
    """Entries that take nothing: the engine would pass over a typo in silence."""
    listed = [layer.name for layer in layers]
    names = set(listed)
    attention = {name.rpartition(".")[0] for name in names if name.endswith(KEY_VALUE)}
    found = []
    for entry, count in rules.counts.items():
        if count and not taken_by[entry] and entry not in LINEAR_CLASSES:
            what = f"every layer that the target {entry!r} takes is left out by ignore: take it out of one of them"
            found.append(Problem(what, "", entry, "warning"))
        if count or is_module_class(entry) or entry in LINEAR_CLASSES:
            continue
        target = entry in rules.groups
        if not target and is_optional(entry):
            continue
        pattern = _regex(entry[3:]) if entry.startswith("re:") else None
        known = names | attention
        if entry in known or (pattern and any(pattern.match(name) for name in known)):
            continue  # another entry comes first for the layers it takes
        kind = "target" if target else "ignore entry"
        found.append(Problem(f"the {kind} {entry!r} matches no layer of this model; {named_like(entry, listed)}", "", entry))
    return found


def _indivisible(recipe: Recipe, layers: Sequence[Linear], rows: Sequence[LayerRow]) -> list[Problem]:
    """The first layer of each group whose inputs its groups do not divide."""
    if recipe.bypass_divisibility_checks:
        return []
    groups = {group.name: group for group in recipe.groups}
    found: dict[tuple[str | None, int], Problem] = {}
    for layer, row in zip(layers, rows, strict=True):
        group = groups.get(row.group) if row.group is not None else None
        if group is not None and not is_dealt(group.weights, layer.in_features):
            what = f"{layer.name} has {layer.in_features} columns, which {shards_of(group.weights)} ranks cannot share evenly"
            found.setdefault((row.group, 0), Problem(what, layer.name, row.rule or ""))
        for args in (group.weights, group.input_activations) if group else ():
            columns = _columns(args)
            if columns and layer.in_features % columns:
                shape = f"{layer.out_features}x{layer.in_features}"
                what = (
                    f"groups of {columns} do not divide {layer.name} ({shape}): use groups that do, or add the layer to ignore"
                )
                found.setdefault((row.group, columns), Problem(what, layer.name, row.rule or ""))
    return list(found.values())


def _columns(args: QuantArgs | None) -> int:
    if args is None:
        return 0
    return args.block_structure[1] if args.block_structure else args.group_size or 0


def _level(recipe: Recipe, rows: Sequence[LayerRow]) -> list[Problem]:
    """A fallback that leaves nothing quantized."""
    level = recipe.fallback.level if recipe.fallback else None
    taken = sum(row.scheme != FLOAT for row in rows)
    if level and level >= taken:
        return [Problem(f"a fallback of L{level} leaves none of the {taken} quantized layers: lower the level")]
    return []
