"""YAML text with the line of every key, so that an error can point at the place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from quantui.errors import InputError

Path = tuple[str | int, ...]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

LONGEST = 4_000_000
"""Characters of a file; a list of 30 000 layer names has half as many."""
DEEPEST = 50
"""How far lists and mappings may be nested; yaml's own loaders crash or crawl on very deep ones."""
LARGEST = 50_000
"""Entries with every alias written out: a few lines of aliases of aliases can stand for millions."""
_CLIP = 600  # characters of an error, which may quote the file


class Document:
    """Parsed YAML: `data` is plain Python, `line(path)` says where a key or item stands (1 is the first line)."""

    def __init__(self, text: str, where: str, error: type[InputError], *, columns: bool = False) -> None:
        """Parses; `columns` puts the column of a key behind its line in every error.

        Raises:
            InputError: of the given type, when it is not YAML, a mapping names a key twice, or it is too large or deep.
        """
        self.where, self._error, self._with_columns = where, error, columns
        self._lines: dict[tuple[str, ...], int] = {}
        self._columns: dict[tuple[str, ...], int] = {}
        self._entries = 0
        try:
            _check_depth(text)
            loader = _Loader(text)
            try:
                node = loader.get_single_node()
                self._walk(node, ())
                self.data: Any = None if node is None else loader.construct_document(node)
            finally:
                loader.dispose()
        except yaml.MarkedYAMLError as problem:
            mark = problem.problem_mark or problem.context_mark
            last = max(len(text.splitlines()), 1)  # libyaml finds what is missing at the end on a line that is not there
            place = f"{where}:{min(mark.line + 1, last)}:{mark.column + 1}" if mark else where
            what = _clipped(f"this is not valid YAML ({problem.problem})")
            raise error(what, where=place, todo="mend that line") from problem
        except (yaml.YAMLError, ValueError, OverflowError, AttributeError, KeyError, TypeError) as problem:
            # the last three come from yaml's own readers of !!bool and !!timestamp
            reason = (str(problem).splitlines() or [""])[0]
            place = f"{where}:{_position(problem, text)}" if columns else where
            raise error(_clipped(f"this is not valid YAML ({reason})"), where=place, todo="mend the file") from problem

    def line(self, path: Path) -> int:
        """The line of a key, or of the nearest thing that holds it."""
        place = tuple(map(str, path))
        while place and place not in self._lines:
            place = place[:-1]
        return self._lines.get(place, 1)

    def column(self, path: Path) -> int:
        """The column of a key, or of the nearest thing that holds it; 1 is the first."""
        place = tuple(map(str, path))
        while place and place not in self._columns:
            place = place[:-1]
        return self._columns.get(place, 1)

    def fail(self, what: str, path: Path = (), todo: str = "") -> InputError:
        """An error that names the file and the line of `path`; raise it."""
        column = f":{self.column(path)}" if self._with_columns else ""
        return self._error(_clipped(what), where=f"{self.where}:{self.line(path)}{column}", todo=todo)

    def _walk(self, node: yaml.Node | None, path: tuple[str, ...]) -> None:
        if node is None:
            return
        self._entries += 1
        if self._entries > LARGEST or len(path) > DEEPEST:
            what = f"with its aliases written out it has more than {LARGEST:,} entries, or more than {DEEPEST} levels"
            raise yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)
        self._lines.setdefault(path, node.start_mark.line + 1)
        self._columns.setdefault(path, node.start_mark.column + 1)
        for key, child, mark in _children(node):
            if (*path, key) in self._lines and isinstance(node, yaml.MappingNode):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=mark)
            self._lines[(*path, key)] = mark.line + 1
            self._columns[(*path, key)] = mark.column + 1
            self._walk(child, (*path, key))


def _check_depth(text: str) -> None:
    """Refuses, before any tree is built, what is too long or too deep.

    Raises:
        ValueError: it is.
    """
    if len(text) > LONGEST:
        raise ValueError(f"it has {len(text):,} characters, more than {LONGEST:,}")
    depth = 0
    event: Any
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise yaml.MarkedYAMLError(problem=f"more than {DEEPEST} levels are nested", problem_mark=event.start_mark)


def _children(node: yaml.Node) -> Iterator[tuple[str, yaml.Node, yaml.Mark]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), value, key.start_mark
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield str(index), value, value.start_mark


def _position(problem: Exception, text: str) -> str:
    """Line and column of a character that yaml cannot read, the first ones where the trouble has no certain place."""
    at = getattr(problem, "position", None)
    before = text[: at if isinstance(at, int) else 0]
    return f"{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def _clipped(text: str) -> str:
    return text if len(text) <= _CLIP else f"{text[:_CLIP]} ..."
