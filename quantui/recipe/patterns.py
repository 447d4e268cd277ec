"""Regular expressions over layer names: taking some names out of one, and whether two can take the same name.

The engine matches a pattern from the start of a name, and of several that take a name the first in the alphabet counts.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence

from quantui.errors import RecipeError
from quantui.recipe.match import takes

_FLAGS = re.compile(r"\(\?([a-zA-Z]+)\)(.*)", re.DOTALL)
_NAMES = re.compile(r"\(\?:(.*)\)\\Z", re.DOTALL)
_UNESCAPED_BAR = re.compile(r"(?<!\\)\|")
_LITERAL_END = re.compile(r"(?<!\\)((?:\w|\\\.)+)\$\Z", re.ASCII)


def is_pattern(entry: str) -> bool:
    """Whether a target or ignore entry is a regular expression."""
    return entry.startswith("re:")


def without(entry: str, others: Iterable[str]) -> str:
    """The pattern `entry`, made to take no name that one of the others (names or patterns) takes.

    Raises:
        RecipeError: it counts its groups, and so cannot have others put before it.
    """
    ahead = [f"(?!{_scoped(other[3:])})" for other in others if is_pattern(other)]
    if names := [re.escape(other) for other in others if not is_pattern(other)]:
        ahead.append(rf"(?!(?:{'|'.join(names)})\Z)")
    if not ahead:
        return entry
    made = f"re:{''.join(ahead)}{_scoped(entry[3:])}"
    if re.search(r"\\[1-9]|\(\?\(|\(\?P=", made):
        what = f"{entry!r} and what goes before it refer to numbered groups, so that they cannot be joined into one pattern"
        raise RecipeError(what, where="recipe", todo="write the pattern without \\1 and named groups")
    try:
        with warnings.catch_warnings(action="ignore"):
            re.compile(made[3:])
    except (re.error, OverflowError, RecursionError) as error:
        what = f"{entry!r} cannot be joined with the patterns that go before it ({error})"
        raise RecipeError(what, where="recipe", todo="write the pattern more simply") from error
    return made


def admitting(entry: str, others: Iterable[str]) -> str:
    """The pattern `entry` with what `without` made it exclude of these names and patterns let in again.

    What it excludes otherwise, or by itself, stays excluded; an entry that excludes none of them comes back as it is.
    """
    if not is_pattern(entry):
        return entry
    gone = {re.escape(other) for other in others if not is_pattern(other)}
    return f"re:{_admitting(entry[3:], gone, {_scoped(other[3:]) for other in others if is_pattern(other)})}"


def _admitting(body: str, names: set[str], patterns: set[str]) -> str:
    """A pattern's source without the names and patterns that stand in the lookaheads at its beginning."""
    kept: list[str] = []
    rest, changed = body, False
    while rest.startswith("(?!") and (end := _closing(rest)):
        inside, rest = rest[3:end], rest[end + 1 :]
        found = _NAMES.fullmatch(inside)
        listed = _UNESCAPED_BAR.split(found.group(1)) if found else []
        left = [name for name in listed if name not in names]
        changed = changed or left != listed or inside in patterns
        if found and left:
            kept.append(rf"(?!(?:{'|'.join(left)})\Z)")
        elif not found and inside not in patterns:
            kept.append(f"(?!{inside})")
    if rest.startswith("(?:") and _closing(rest) == len(rest) - 1:  # it was put into brackets to have something before it
        inner = _admitting(rest[3:-1], names, patterns)
        changed = changed or inner != rest[3:-1]
        rest = _scoped(inner) if kept else inner
    return "".join((*kept, rest)) if changed else body


def _closing(source: str) -> int:
    """Where the bracket that a pattern's source begins with is closed; 0 where it is not."""
    depth, at, in_class = 0, 0, False
    while at < len(source):
        char = source[at]
        if char == "\\":
            at += 1
        elif in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
            at += 1 if source[at + 1 : at + 2] in ("]", "^") else 0
        elif char in "()":
            depth += 1 if char == "(" else -1
            if depth == 0:
                return at
        at += 1
    return 0


def checked(entry: str) -> str:
    """The entry, whose pattern is a regular expression.

    Raises:
        RecipeError: it is not.
    """
    if is_pattern(entry):
        try:
            with warnings.catch_warnings(action="ignore"):
                re.compile(entry[3:])
        except (re.error, OverflowError, RecursionError) as error:
            what = f"{entry!r} is not a regular expression ({error})"
            raise RecipeError(what, where="recipe", todo="escape special characters, for example \\. for a dot") from error
    return entry


def may_meet(one: str, other: str, names: Sequence[str] = ()) -> bool:
    """Whether two entries can take the same name: one of these names, or any at all where none are given."""
    if names:
        return any(takes(one, name, frozenset()) and takes(other, name, frozenset()) for name in names)
    if not is_pattern(one) or not is_pattern(other):
        return takes(one, other, frozenset()) or takes(other, one, frozenset())
    ends = [_LITERAL_END.search(entry) if "|" not in entry and "(?x" not in entry else None for entry in (one, other)]
    if ends[0] is None or ends[1] is None:
        return True
    first, second = ends[0].group(1), ends[1].group(1)
    return first.endswith(second) or second.endswith(first)


def _scoped(body: str) -> str:
    """A pattern's source that can stand inside another: its flags hold for itself alone, and so do its alternatives."""
    found = _FLAGS.match(body)
    if found:
        return f"(?{found.group(1)}:{found.group(2)})"
    return f"(?:{body})" if "|" in body else body
