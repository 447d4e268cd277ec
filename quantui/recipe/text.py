"""YAML text with the line of every key, so that an error can point at the place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from quantui.errors import InputError

Path = tuple[str | int, ...]


class Document:
    """Parsed YAML: `data` is plain Python, `line(path)` says where a key or item stands (1 is the first line)."""

    def __init__(self, text: str, where: str, error: type[InputError]) -> None:
        """Parses.

        Raises:
            InputError: of the given type, when it is not YAML or a mapping names a key twice.
        """
        self.where, self._error = where, error
        self._lines: dict[Path, int] = {}
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            self._walk(node, ())
            self.data: Any = yaml.safe_load(text)
        except yaml.MarkedYAMLError as problem:
            mark = problem.problem_mark or problem.context_mark
            place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
            raise error(f"this is not valid YAML ({problem.problem})", where=place, todo="mend that line") from problem
        except (yaml.YAMLError, ValueError, RecursionError) as problem:
            raise error(f"this is not valid YAML ({problem})".splitlines()[0], where=where, todo="mend the file") from problem

    def line(self, path: Path) -> int:
        """The line of a key, or of the nearest thing that holds it."""
        while path and path not in self._lines:
            path = path[:-1]
        return self._lines.get(path, 1)

    def fail(self, what: str, path: Path = (), todo: str = "") -> InputError:
        """An error that names the file and the line of `path`; raise it."""
        return self._error(what, where=f"{self.where}:{self.line(path)}", todo=todo)

    def _walk(self, node: yaml.Node | None, path: Path) -> None:
        if node is None:
            return
        self._lines.setdefault(path, node.start_mark.line + 1)
        for key, child, mark in _children(node):
            if (*path, key) in self._lines and isinstance(node, yaml.MappingNode):
                raise yaml.MarkedYAMLError(problem=f"the key {key!r} stands twice", problem_mark=mark)
            self._lines[(*path, key)] = mark.line + 1
            self._walk(child, (*path, key))


def _children(node: yaml.Node) -> Iterator[tuple[str | int, yaml.Node, yaml.Mark]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), value, key.start_mark
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value, value.start_mark
