"""Pasted Python: its calls and what their arguments are literally. Parsed, never evaluated.

Names are resolved from what the text itself writes out: literals, lists put together with `+`, `append` and `extend`, and
loops or comprehensions over `range` of a number, which is how layer names are listed.
"""

from __future__ import annotations

import ast
import textwrap
import warnings
from dataclasses import dataclass, field
from typing import Any

from quantui.recipe.imported import LONGEST, Given, refuse

LARGEST = 200_000
"""Items, steps and hundreds of characters that loops may write out; a list of 30 000 layer names needs a third of it."""

COPIED = 500
"""Items of a list that are copied in the time of one step."""
CHARACTERS = 100
"""Characters that are written in the time of one step."""
CLIP = 200
"""Characters of an expression that are quoted."""


@dataclass(frozen=True)
class Unknown:
    """A value that the text does not write out; `text` is its expression."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Call:
    """A call with its arguments; positional ones are named by their place ("0")."""

    name: str
    arguments: tuple[Given, ...]
    line: int
    column: int
    starred: bool = False


@dataclass
class _Names:
    """What names stand for so far."""

    values: dict[str, Any] = field(default_factory=dict)
    items: int = 0
    calls: list[Call] = field(default_factory=list)

    def count(self, node: ast.AST, items: int = 1) -> None:
        """Counts what is written out, copies included, so that a few lines cannot keep the page busy for long."""
        self.items += items
        if self.items > LARGEST:
            raise _refuse(node, f"it writes out more than {LARGEST:,} items", "paste the call with a shorter list")


def calls(text: str) -> list[Call]:
    """Every call in the text, in its order; a chain `a(...).b(...)` gives `a` before `.b`.

    Raises:
        RecipeError: it is not Python.
    """
    try:
        if len(text) > LONGEST:
            raise refuse(f"it has {len(text):,} characters, more than {LONGEST:,}", 1, 1, "paste the calls only")
        with warnings.catch_warnings(action="ignore"):  # of Python about "\d", which means what it says today
            tree = ast.parse(textwrap.dedent(text))
        names = _Names()
        for statement in tree.body:
            _run(statement, names)
    except SyntaxError as error:
        what = f"this is not valid Python ({error.msg})"
        raise refuse(what, error.lineno or 1, max(error.offset or 1, 1), "mend that line, or paste the call alone") from None
    except (RecursionError, MemoryError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refuse(f"this is not valid Python ({reason})", 1, 1, "paste the call alone") from None
    return names.calls


def _refuse(node: ast.AST, what: str, todo: str) -> Exception:
    return refuse(what, getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1, todo)


def _run(node: ast.stmt, names: _Names) -> None:
    """Takes in one statement."""
    if isinstance(node, ast.Assign):
        value = _value(node.value, names)
        for target in node.targets:
            if isinstance(target, ast.Name):
                names.values[target.id] = value
        _find(node.value, names)
    elif isinstance(node, ast.AnnAssign) and node.value is not None and isinstance(node.target, ast.Name):
        names.values[node.target.id] = _value(node.value, names)
        _find(node.value, names)
    elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        held, more = names.values.get(node.target.id), _value(node.value, names)
        fits = isinstance(held, list) and isinstance(more, list) and isinstance(node.op, ast.Add)
        if fits and held is not None:
            names.count(node, 1 + len(held) // COPIED + len(more))
        names.values[node.target.id] = [*held, *more] if fits and held is not None else Unknown(node.target.id)
    elif isinstance(node, ast.For):
        _loop(node, names)
    elif isinstance(node, ast.Expr) and _grow(node.value, names):
        pass
    elif isinstance(node, ast.If) and "__name__" not in ast.unparse(node.test):
        _find(node.test, names)
        _branches(node, [node.body, node.orelse], names)
    else:
        _find(node, names)
        _forget(_changed_by(node), names)
        inside = isinstance(node, ast.FunctionDef)
        held = dict(names.values)
        if isinstance(node, ast.FunctionDef):
            _forget({argument.arg for argument in ast.walk(node.args) if isinstance(argument, ast.arg)}, names)
        for inner in _bodies(node):
            _run(inner, names)
        if inside:
            names.values = held
        elif isinstance(node, ast.While | ast.Try):
            _forget(_changed(node), names)


def _branches(node: ast.stmt, branches: list[list[ast.stmt]], names: _Names) -> None:
    """Takes in the branches, each by itself; what one of them changes is not known behind them."""
    held = dict(names.values)
    for branch in branches:
        names.values = dict(held)
        for inner in branch:
            _run(inner, names)
    names.values = held
    _forget(_changed(node), names)


def _forget(changed: set[str], names: _Names) -> None:
    names.values.update({name: Unknown(name) for name in changed if name in names.values})


def _changed(node: ast.AST) -> set[str]:
    """Names that statements set, or that a method or an item of is used."""
    found = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store | ast.Del):
            found.add(part.id)
        elif isinstance(part, ast.Attribute | ast.Subscript) and isinstance(part.value, ast.Name):
            found.add(part.value.id)
    return found


def _changed_by(node: ast.stmt) -> set[str]:
    """Names that one statement without blocks may change: by a method, an item, or a function they are handed to."""
    if _bodies(node):
        return set()
    call = node.value if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    handed = {arg.id for arg in call.args if isinstance(arg, ast.Name)} if call else set()
    return handed | _changed(node)


def _bodies(node: ast.stmt) -> list[ast.stmt]:
    """The statements in a block other than a loop; a function's are taken as if it were called once."""
    parts = [getattr(node, name, []) for name in ("body", "orelse", "finalbody")]
    parts += [handler.body for handler in getattr(node, "handlers", [])]
    return [inner for part in parts if isinstance(part, list) for inner in part if isinstance(inner, ast.stmt)]


def _loop(node: ast.For, names: _Names) -> None:
    values = _value(node.iter, names)
    if not isinstance(node.target, ast.Name) or not isinstance(values, list):
        _forget(_changed(node), names)
        _find(node.iter, names)
        _branches(node, [node.body], names)
        return
    for value in values:
        names.values[node.target.id] = value
        for inner in node.body:
            names.count(inner)
            _run(inner, names)


def _grow(node: ast.expr, names: _Names) -> bool:
    """Carries out `name.append(x)` and `name.extend(xs)` of a known list."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)):
        return False
    name, verb = node.func.value.id, node.func.attr
    held = names.values.get(name)
    if verb not in ("append", "extend") or not isinstance(held, list) or len(node.args) != 1:
        return False
    value = _value(node.args[0], names)
    if isinstance(value, Unknown) or (verb == "extend" and not isinstance(value, list)):
        names.values[name] = Unknown(name)
    else:
        names.count(node, 1 + len(held) // COPIED + (len(value) if verb == "extend" else 0))
        names.values[name] = [*held, *(value if verb == "extend" else [value])]
    return True


def _find(node: ast.AST, names: _Names) -> None:
    """Takes down the calls in an expression, inner ones first; those in blocks come with their statements."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.stmt):
            _find(child, names)
    if not isinstance(node, ast.Call):
        return
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
    arguments = [Given(str(index), _value(arg, names), *_place(arg)) for index, arg in enumerate(node.args)]
    arguments += [Given(word.arg, _value(word.value, names), *_place(word)) for word in node.keywords if word.arg]
    starred = any(isinstance(arg, ast.Starred) for arg in node.args) or any(word.arg is None for word in node.keywords)
    end = node.func.end_col_offset or 0  # a chained call stands where its own name does, not where the chain begins
    at_name = (node.func.end_lineno or node.lineno, end - len(name) + 1)
    names.calls.append(Call(name, tuple(arguments), *at_name, starred))


def _place(node: ast.expr | ast.keyword) -> tuple[int, int]:
    return node.lineno, node.col_offset + 1


def _value(node: ast.expr, names: _Names) -> Any:
    """What an expression is, or Unknown."""
    found = _known(node, names)
    if isinstance(found, Unknown):
        told = ast.unparse(node)
        names.count(node, 10 + len(told) // CHARACTERS)
        return Unknown(told[:CLIP])
    return found


def _known(node: ast.expr, names: _Names) -> Any:
    unknown = Unknown("")
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return names.values.get(node.id, unknown)
    if isinstance(node, ast.List | ast.Tuple):
        names.count(node, len(node.elts))
        return _whole([_value(item, names) for item in node.elts])
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        keys = _whole([_value(key, names) for key in node.keys if key is not None])
        values = [_value(value, names) for value in node.values]
        return unknown if isinstance(keys, Unknown) else dict(zip(map(str, keys), values, strict=True))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, names)
        return -value if type(value) in (int, float) else unknown
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = _value(node.left, names), _value(node.right, names)
        fits = (isinstance(left, list) and isinstance(right, list)) or (isinstance(left, str) and isinstance(right, str))
        size = len(left) + len(right) if fits else 0
        names.count(node, 1 + (size if isinstance(left, list) else size // CHARACTERS))
        return left + right if fits else unknown
    if isinstance(node, ast.JoinedStr):
        return _joined(node, names)
    if isinstance(node, ast.ListComp):
        return _listed(node, names)
    if isinstance(node, ast.Call):
        return _called(node, names)
    return unknown


def _whole(values: list[Any]) -> Any:
    return Unknown("") if any(isinstance(value, Unknown) for value in values) else values


def _joined(node: ast.JoinedStr, names: _Names) -> Any:
    """An f-string of known parts without formats."""
    parts = []
    for part in node.values:
        plain = isinstance(part, ast.FormattedValue) and part.format_spec is None and part.conversion == -1
        value = _value(part.value, names) if isinstance(part, ast.FormattedValue) and plain else _value(part, names)
        if not isinstance(value, str | int):
            return Unknown("")
        parts.append(str(value))
        names.count(node, 1 + len(parts[-1]) // CHARACTERS)
    return "".join(parts)


def _listed(node: ast.ListComp, names: _Names) -> Any:
    """A comprehension of one loop without conditions."""
    loop = node.generators[0]
    values = _value(loop.iter, names)
    if len(node.generators) > 1 or loop.ifs or not isinstance(loop.target, ast.Name) or not isinstance(values, list):
        return Unknown("")
    held, found = dict(names.values), []
    for value in values:
        names.count(node)
        names.values[loop.target.id] = value
        found.append(_value(node.elt, names))
    names.values = held
    return _whole(found)


def _called(node: ast.Call, names: _Names) -> Any:
    """`range(numbers)`, `list(known)`, and `"...{}".format(known)`."""
    arguments = _whole([_value(arg, names) for arg in node.args])
    if isinstance(arguments, Unknown) or node.keywords:
        return Unknown("")
    if isinstance(node.func, ast.Name) and node.func.id == "range" and 1 <= len(arguments) <= 3:
        if all(type(number) is int for number in arguments) and arguments[2:] != [0]:
            written = range(*arguments)
            names.count(node, min(len(written), LARGEST + 1) if abs(max(arguments, key=abs)) < 2**31 else LARGEST + 1)
            return list(written)
        return Unknown("")
    if isinstance(node.func, ast.Name) and node.func.id == "list" and len(arguments) == 1 and isinstance(arguments[0], list):
        return arguments[0]
    if isinstance(node.func, ast.Attribute) and node.func.attr == "format":
        template = _value(node.func.value, names)
        plain = isinstance(template, str) and template.count("{}") == len(arguments) == template.count("{")
        if plain and all(isinstance(value, str | int) for value in arguments):
            names.count(node, 1 + (len(template) + sum(len(str(value)) for value in arguments)) // CHARACTERS)
            return "".join(part + str(value) for part, value in zip(template.split("{}"), [*arguments, ""], strict=True))
    return Unknown("")
