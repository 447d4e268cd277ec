"""The text of a recipe after an edit: comments, key order and spelling stay, and only what differs is written anew."""

from __future__ import annotations

import difflib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

from quantui.errors import RecipeError
from quantui.recipe.llmcompressor.names import ORDER, QUANTIZERS
from quantui.recipe.llmcompressor.narrowed import narrowed
from quantui.recipe.llmcompressor.read import read
from quantui.recipe.llmcompressor.shortened import Shortened, shortened
from quantui.recipe.llmcompressor.write import dumps, modifiers
from quantui.recipe.schema import Recipe

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
LIST = re.compile(r"^( *)[^\s#-][^#\n]*: *(?:#.*)?\n(?: *#.*\n)*( *)- ", re.MULTILINE)
"""A key and the first item of the list that is its value, for how far lists are indented."""
LINE = 80
"""Characters of a list that has more than one line."""
WORDS = frozenset({"yes", "no", "on", "off", "true", "false", "null", "y", "n"})
SHORTHANDS = ("scheme", "targets", "observer", "weight_observer", "input_observer", "output_observer")
Editor = Callable[[CommentedMap, dict[str, Any], dict[str, Any]], None]


def edited(source: str, old: Recipe, new: Recipe) -> str:
    """The text `source` of `old`, changed so that it is that of `new`.

    What cannot be changed in its place is written anew: a modifier's groups, then the modifier, then the whole recipe.

    Raises:
        RecipeError: the text is not that of `old`.
    """
    if _recipe(source) != old:
        what = "the text is no longer that of the recipe that was edited"
        raise RecipeError(what, where="recipe", todo="read it again and edit that")
    if old == new:
        return source
    for edit in _ways(source, old, new):
        for editor in (_edit_values, _edit_groups, _edit_bodies):
            made = _tried(edit.source, edit.old, edit.new, editor)
            if made is not None and _recipe(whole := edit.whole(made)) == new:
                return whole
    head = "".join(line for line in _head(source))
    return head + dumps(new)


def _ways(source: str, old: Recipe, new: Recipe) -> Iterator[Shortened]:
    """The edit as one of a shorter text, the shortest first; the last is of the whole."""
    for part in filter(None, (narrowed(source, old, new, _offset(source)), Shortened(source, old, new, str))):
        yield from _with_short_lists(part)
        yield part


def _with_short_lists(part: Shortened) -> Iterator[Shortened]:
    short = shortened(part.source, part.old, part.new)
    if short is not None:
        yield short._replace(whole=lambda made: part.whole(short.whole(made)))


def _recipe(source: str) -> Recipe | None:
    """The recipe of a text, None where it is none."""
    try:
        return read(source).recipe
    except RecipeError:
        return None


def _head(source: str) -> Iterator[str]:
    """The comment lines at the top of a text."""
    for line in source.removeprefix("\ufeff").splitlines(keepends=True):
        if line.strip() and not line.startswith("#"):
            return
        yield line


def _tried(source: str, old: Recipe, new: Recipe, editor: Editor) -> str | None:
    """The text after this way of editing, None where that does not go."""
    end = "\r\n" if "\r\n" in source else "\n"
    plain, tail = _cut(source.replace("\r\n", "\n").removeprefix("\ufeff"))
    try:
        yaml, tree = _yaml(plain)
        group = _group(tree)
        if group is None:
            return None
        before = _dumped(yaml, tree)
        _edit(group, modifiers(old), modifiers(new), editor)
        after = _dumped(yaml, tree)
    except (YAMLError, ValueError, TypeError, KeyError, AttributeError, IndexError, AssertionError, RecursionError):
        return None  # ruamel reads YAML 1.2 and not every text that the engine takes
    merged = _merged(plain, before, after)
    for made in (merged, after):
        if made is not None and _recipe(made) == new:
            joint = "" if made.endswith("\n") or not tail else "\n"
            return f"{made}{joint}{tail}".replace("\n", end)
    return None


def _cut(source: str) -> tuple[str, str]:
    """A text, and the comments at its end that are not indented."""
    lines = source.splitlines(keepends=True)
    at = len(lines)
    while at and (not lines[at - 1].strip() or lines[at - 1].startswith("#")):
        at -= 1
    return "".join(lines[:at]), "".join(lines[at:])


def _yaml(source: str) -> tuple[YAML, Any]:
    """The tree of a text, and what writes it with the indents it has."""
    yaml = YAML(typ="rt")
    yaml.preserve_quotes = True
    yaml.width = 10_000
    offset = _offset(source)
    yaml.indent(mapping=2, sequence=offset + 2, offset=offset)
    return yaml, yaml.load(source)


def _offset(source: str) -> int:
    """How far items of lists are indented."""
    found = LIST.search(source)
    return len(found.group(2)) - len(found.group(1)) if found else 2


def _dumped(yaml: YAML, tree: Any) -> str:
    stream = io.StringIO()
    yaml.dump(tree, stream)
    return stream.getvalue()


def _group(tree: Any) -> CommentedMap | None:
    """The one group of modifiers of a staged recipe; None where there are several, or another shape."""
    if not isinstance(tree, CommentedMap) or len(tree) != 1:
        return None
    (stage, groups), *_ = tree.items()
    if not str(stage).endswith("_stage") or not isinstance(groups, CommentedMap) or len(groups) != 1:
        return None
    (name, group), *_ = groups.items()
    return group if str(name).endswith("_modifiers") and isinstance(group, CommentedMap) else None


def _edit(group: CommentedMap, old: dict[str, dict[str, Any]], new: dict[str, dict[str, Any]], editor: Editor) -> None:
    """Takes modifiers out, puts new ones in at their place, and edits the others."""
    was, now = next(n for n in old if n in QUANTIZERS), next(n for n in new if n in QUANTIZERS)
    if was != now:
        _rename(group, was, now)
        old = {(now if name == was else name): body for name, body in old.items()}
    for name in [name for name in old if name not in new]:
        _delete(group, name)
    for name, body in new.items():
        if name not in old:
            rank = ORDER.index(name)
            at = next((i for i, other in enumerate(group) if ORDER.index(other) > rank), len(group))
            group.insert(at, name, _node(body))
        elif body != old[name]:
            if group[name] is None:
                group[name] = CommentedMap()
            editor(group[name], old[name], body)


def _edit_values(node: CommentedMap, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Sets the values that differ, key by key."""
    if "config_groups" not in node and old.get("config_groups") != new.get("config_groups"):
        _edit_groups(node, old, new)
        return
    _set(node, old, new)


def _edit_groups(node: CommentedMap, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Writes the groups out in place of what stands for them in short, and sets the other values that differ."""
    at = next((i for i, key in enumerate(node) if key in ("config_groups", "scheme")), len(node))
    for key in ("config_groups", *SHORTHANDS):
        if key in node:
            _delete(node, key)
    for key in ("config_groups", "targets"):
        if key in new:
            node.insert(min(at, len(node)), key, _node(new[key]))
    done = ("config_groups", "targets")
    _set(node, {k: v for k, v in old.items() if k not in done}, {k: v for k, v in new.items() if k not in done})


def _edit_bodies(node: CommentedMap, _old: dict[str, Any], new: dict[str, Any]) -> None:
    """Writes all fields of a modifier anew."""
    for key in list(node):
        if key not in new:
            _delete(node, key)
    for key, value in new.items():
        node[key] = _node(value)


def _set(node: CommentedMap, old: dict[str, Any], new: dict[str, Any]) -> None:
    _rename_same(node, old, new)
    for key in [key for key in old if key not in new and key in node]:
        _delete(node, key)
    for key, value in new.items():
        if key in old and old[key] == value:
            continue
        if isinstance(value, dict) and isinstance(node.get(key), CommentedMap) and isinstance(old.get(key), dict):
            _set(node[key], old[key], value)
        elif isinstance(value, list) and isinstance(node.get(key), CommentedSeq):
            _set_list(node[key], value)
        else:
            node[key] = _node(value)


def _rename_same(node: CommentedMap, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Renames keys whose value is the same under another key, as when a group gets another name."""
    for key in [key for key in old if key not in new and key in node and isinstance(old[key], dict)]:
        other = next((name for name, value in new.items() if name not in old and value == old[key]), None)
        if other is not None:
            _rename(node, key, other)


def _set_list(node: CommentedSeq, value: list[Any]) -> None:
    """Makes a list hold these items, leaving those that stay with their comments; one that outgrows its line gets several."""
    items = [str(item) if isinstance(item, str) else item for item in node]
    if _length(items) < LINE <= _length(value):
        node.fa.set_block_style()
    for tag, i1, i2, j1, j2 in reversed(
        difflib.SequenceMatcher(a=list(map(repr, items)), b=list(map(repr, value))).get_opcodes()
    ):
        if tag == "equal":
            continue
        for at in range(i2 - 1, i1 - 1, -1):
            del node[at]
        for offset, item in enumerate(value[j1:j2]):
            node.insert(i1 + offset, _node(item))


def _length(items: list[Any]) -> int:
    """Characters of a list in one line."""
    return len(", ".join(map(str, items)))


def _delete(node: CommentedMap, key: str) -> None:
    """Takes a key out; comments that stand on lines of their own behind it belong to the next key, and stay."""
    keys = list(node)
    at, rest = keys.index(key), _behind(node, key)
    column = node.lc.key(key)[1]
    del node[key]
    if rest and at + 1 < len(keys):
        node.yaml_set_comment_before_after_key(keys[at + 1], before="\n".join(rest), indent=column)


def _behind(node: Any, key: Any) -> list[str]:
    """The text of the comments on lines of their own behind a key or item, however deep its value ends."""
    value = node[key]
    if isinstance(value, CommentedMap | CommentedSeq) and len(value) and not value.fa.flow_style():
        return _behind(value, list(value)[-1] if isinstance(value, CommentedMap) else len(value) - 1)
    tokens = node.ca.items.get(key) or []
    token = next((each for each in tokens if each is not None and not isinstance(each, list)), None)
    lines = token.value.split("\n")[1:] if token is not None else []
    return [line.strip().lstrip("#").removeprefix(" ") for line in lines if line.strip().startswith("#")]


def _rename(node: CommentedMap, old: str, new: str) -> None:
    """Another key for the same value, at the same place, with its comments."""
    at, value, comment = list(node).index(old), node[old], node.ca.items.get(old)
    del node[old]
    node.insert(at, new, value)
    if comment is not None:
        node.ca.items[new] = comment


def _node(value: Any) -> Any:
    """Plain data as the tree has it: short lists in one line, strings quoted where YAML 1.1 or 1.2 would read another thing."""
    if isinstance(value, dict):
        made = CommentedMap()
        for key, each in value.items():
            made[_node(key)] = _node(each)
        return made
    if isinstance(value, list):
        items = CommentedSeq([_node(each) for each in value])
        if _length(value) < LINE:
            items.fa.set_flow_style()
        return items
    if isinstance(value, str) and (not PLAIN.fullmatch(value) or value.lower() in WORDS):
        return DoubleQuotedScalarString(value)
    return value


def _merged(source: str, before: str, after: str) -> str | None:
    """The source with the lines that differ between two dumps changed, so that the rest keeps its own spelling."""
    lines, base, goal = (part.splitlines(keepends=True) for part in (source, before, after))
    place = _places(base, lines)
    made: list[str] = []
    done = 0
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(a=base, b=goal, autojunk=False).get_opcodes():
        if tag == "equal":
            continue
        begin, end = place.get(i1), place.get(i2)
        if begin is None or end is None or begin < done:
            return None
        made += [*lines[done:begin], *goal[j1:j2]]
        done = end
    if made and not made[-1].endswith("\n") and done < len(lines):
        made[-1] += "\n"
    return "".join([*made, *lines[done:]])


def _places(base: list[str], lines: list[str]) -> dict[int, int]:
    """Where the lines of a dump stand in the source: boundaries before each, as far as they are certain."""
    keys = [[re.sub(r"[\s'\"]+", "", line) for line in each] for each in (base, lines)]
    place = {len(base): len(lines)}
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(a=keys[0], b=keys[1], autojunk=False).get_opcodes():
        if tag == "equal" or i2 - i1 == j2 - j1:
            place |= {i1 + k: j1 + k for k in range(i2 - i1 + 1)}
    return place
