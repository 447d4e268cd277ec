"""Long lists of layers as one entry while a text is edited: the round trip costs half a millisecond for each name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from quantui.recipe.schema import Recipe

ENTRY = re.compile(r"(?:\n *- +|,[ \n]*)(?P<token>([\"']?)(?P<name>[\w./-]+)\2)(?=\n|,|\])")
"""An entry of a list that is a plain name, on a line of its own or behind a comma, with nothing said beside it."""
PLAIN = re.compile(r"[A-Za-z_]+\.[A-Za-z0-9_./-]*[A-Za-z_]")
"""A name that YAML takes as it is."""
LEAST = 20
"""Names that are worth it."""
WORD = f"names.that.stand.together.{'x' * 100}"
"""What stands for some, with a number behind it; as long as a line, so that it counts as one where lists are broken."""


class Shortened(NamedTuple):
    """A text, its recipe and what that is to become, with long lists cut short; `whole` writes them out in a text again."""

    source: str
    old: Recipe
    new: Recipe
    whole: Callable[[str], str]


def shortened(source: str, old: Recipe, new: Recipe) -> Shortened | None:
    """The same edit with the names of long lists that go, come or stay together as one; None where no list is long.

    What it makes is to be read again: a text may be written in a way that this does not see through.
    """
    before, after = _lists(old), _lists(new)
    if max(map(len, (*before.values(), *after.values()))) < LEAST or WORD in source:
        return None
    found = list(ENTRY.finditer(source))
    # names with nothing but a comma or a line between them have numbers that follow each other
    number, written, token = 0, dict[str, int](), dict[str, re.Match[str]]()
    for at, entry in enumerate(found):
        number += 1 if at and found[at - 1].end() == entry.start() else 2
        written[entry["name"]], token[entry["name"]] = number, entry
    runs = [
        names for key in {**before, **after} for names in _together(before.get(key, ()), after.get(key, ()), written)
    ]  # fmt: skip
    words = {f"{WORD}{at}.": names for at, names in enumerate(runs)}
    spans = {
        word: slice(token[names[0]].start("token"), token[names[-1]].end("token"))
        for word, names in words.items()
        if names[0] in token
    }
    cut, done = "", 0
    for word, span in sorted(spans.items(), key=lambda item: item[1].start):
        cut, done = f"{cut}{source[done : span.start]}{word}", span.stop

    def whole(made: str) -> str:
        for word, names in words.items():
            listed = re.search(rf"\n *- +(?={word})", made)
            text = source[spans[word]] if word in spans else (listed[0] if listed else ", ").join(names)
            made = made.replace(word, text)
        return made

    return Shortened(cut + source[done:], _cut(old, words), _cut(new, words), whole) if words else None


def _lists(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """The lists of a recipe that may be long."""
    return {"ignore": recipe.ignore} | {f"targets of {group.name}": group.targets for group in recipe.groups}


def _together(before: Sequence[str], after: Sequence[str], written: Mapping[str, int]) -> Iterator[Sequence[str]]:
    """Names that stand one behind the other in the text and in both lists, or only in one of the two lists."""
    was, now = ({name: at for at, name in enumerate(names)} for names in (before, after))
    if len(was) < len(before) or len(now) < len(after):
        return
    places = (was, now, written)
    for names in (before, tuple(name for name in after if name not in was)):
        run: list[str] = []
        for name in (*names, ""):
            plain = name in written if name in was else PLAIN.fullmatch(name) is not None and name not in written
            if run and plain and all(_follows(place, run[-1], name) for place in places):
                run.append(name)
                continue
            if len(run) >= LEAST + 2:
                yield run[1:-1]  # those at the ends stay, with what is beside them
            run = [name] if plain else []


def _follows(place: Mapping[str, int], one: str, name: str) -> bool:
    return place[name] == place[one] + 1 if one in place and name in place else one not in place and name not in place


def _cut(recipe: Recipe, words: Mapping[str, Sequence[str]]) -> Recipe:
    """The recipe with one word in place of the names it stands for."""
    word_of = {name: word for word, names in words.items() for name in names}

    def cut(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(word_of.get(name, name) for name in names))

    groups = tuple(group.model_copy(update={"targets": cut(group.targets)}) for group in recipe.groups)
    return recipe.model_copy(update={"ignore": cut(recipe.ignore), "groups": groups})
