"""What a conversion will do, before it starts: what the source is, and where every tensor goes."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from quantui.checkpoint.convert.plan import Move, Plan
from quantui.checkpoint.inspect import DTYPES, summary_of
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, class_name, join, middle_cut, tag
from quantui.ui.widgets.facts import Row, change, empty, facts, sentence
from quantui.ui.widgets.times import notes_list

SHOWN = 300
"""Rows of the table at most; the filter finds the others."""

COLUMNS = ("from", "rows", "to", "shape", "type")

PIECES = 40
"""Lines of a tooltip at most."""

PLACED = re.compile(r"(?P<where>/[^:]*): (?P<what>.*?)(?:; (?P<todo>[^;]*))?\.", re.DOTALL)
"""An error of the core written out in one line."""


def source_facts(t: Translator, plan: Plan, *, free: int | None, verified: bool) -> Markup:
    """What the source is, what is missing from it, and what will be written."""
    source = summary_of(plan.source)
    files = t.count("count.files", len({tensor.shard for tensor in plan.source.tensors.values()}))
    weights = t("list.comma").join((source.dtype, files, numbers.size(source.bytes)))
    becomes = class_name(plan.kind.target) if plan.kind.target else t(f"convert.becomes_{plan.kind.name}")
    rows: list[Row] = [
        (t("convert.architecture"), class_name(source.architecture), sentence(t, plan.kind.source)),
        (t("convert.becomes"), becomes, t("hint.convert.becomes")),
        (t("convert.parameters"), numbers.amount(source.parameters), None),
        (t("convert.weights"), weights, t("hint.convert.weights")),
    ]
    missing = sum(problem.what == "is missing" for problem in plan.problems)
    words = [t.count("count.missing", missing)] if missing else []
    if others := len(plan.problems) - missing:
        words.append(t.count("count.wrong", others))
    wrong = tag("span", t("list.comma").join(words), cls="bad") if words else t("convert.nothing")
    room = t("convert.room", size=numbers.size(plan.nbytes), free=numbers.size(free))
    proof = t("convert.proof_logits") if verified else t("convert.proof_reread")
    return facts(
        [
            *rows,
            (t("convert.missing"), wrong, t("hint.convert.missing")),
            (t("convert.writes"), numbers.NONE if words else room, t("hint.convert.writes")),
            (t("convert.proof"), numbers.NONE if words else proof, t("hint.convert.proof")),
        ],
        "source",
    )


class Line(NamedTuple):
    """One row of the table: the text a filter looks in, and how it is drawn once it is among those that are shown."""

    searched: str
    draw: Callable[[], Markup]


def plan_table(t: Translator, plan: Plan, query: str = "") -> Markup:
    """Problems first, then what is left out, then every move; only lines that hold all the words of the query."""
    words = query.lower().split()
    every = _lines(t, plan)
    found = [line for line in every if all(word in line.searched for word in words)]
    if not found:
        return join(_count(t, 0, 0, len(every)), empty(t("plan.no_match") if every else t("plan.none")))
    head = [tag("th", t(f"plan.{name}"), title=t(f"hint.plan.{name}"), scope="col", cls=name) for name in COLUMNS]
    shown = [line.draw() for line in found[:SHOWN]]
    table = tag("table", tag("thead", tag("tr", *head)), tag("tbody", *shown), cls="plan-table")
    box = tag("div", table, cls="plan-box", tabindex=0, role="region", aria_label=t("plan.title"))
    return join(_count(t, len(shown), len(found), len(every)), notes_list(t, {"notes": plan.notes}), box)


def no_plan(t: Translator) -> Markup:
    """What stands in the place of the table while the source cannot be read."""
    return empty(t("plan.blocked"))


def _count(t: Translator, shown: int, found: int, every: int) -> Markup:
    """ "115 rows", "12 of 115 rows", "The first 300 of 20,431 rows; the filter finds the others"."""
    if shown < found:
        text = t("plan.first", shown=numbers.whole(shown), found=t.count("count.rows", found))
    elif found < every:
        text = t("plan.part", found=numbers.whole(found), every=t.count("count.rows", every))
    else:
        text = t.count("count.rows", every)
    return tag("p", text, cls="plan-count", role="status", data_rows=shown)


def _lines(t: Translator, plan: Plan) -> list[Line]:
    wrong = [Line(f"{name} {what}".lower(), partial(_problem, t, name, what)) for name, what in plan.problems]
    left = [Line(f"{name} {why}".lower(), partial(_left, t, name, why)) for name, why in plan.dropped.items()]
    shared = [Line(f"{name} {kept}".lower(), partial(_shared, t, name, kept)) for name, kept in plan.aliases.items()]
    moves = [Line(_searched(plan, move), partial(_move, t, plan, move)) for move in plan.moves]
    return wrong + left + shared + moves


def _problem(t: Translator, name: str, what: str) -> Markup:
    """One red line: the name of what it concerns, and the sentence about it."""
    placed = PLACED.fullmatch(what)
    if placed is None:
        text, where = sentence(t, what), name
    else:
        said = [sentence(t, part) for part in (placed["what"], placed["todo"]) if part]
        text, where = ("" if said[0].endswith("。") else " ").join(said), f"{name}\n{placed['where']}"
    words = tag("td", text, colspan=3, cls="what")
    return tag("tr", tag("td", _name(name), title=where, colspan=2, cls="name"), words, cls="problem-row")


def _left(t: Translator, name: str, why: str) -> Markup:
    words = tag("td", t("plan.dropped", why=sentence(t, why)), colspan=3, cls="what")
    return tag("tr", tag("td", _name(name), title=name, colspan=2, cls="name"), words, cls="left-row")


def _shared(t: Translator, name: str, kept: str) -> Markup:
    words = tag("td", t("plan.shared", name=middle_cut(kept, 48)), title=kept, colspan=3, cls="what")
    return tag("tr", tag("td", _name(name), title=name, colspan=2, cls="name"), words, cls="left-row")


def _move(t: Translator, plan: Plan, move: Move) -> Markup:
    target = move.target
    names = list(dict.fromkeys(rows.tensor for rows in move.parts))
    more = tag("span", f" +{len(names) - 1}", cls="more") if len(names) > 1 else None
    pieces = [f"{rows.tensor} [{rows.start}:{rows.stop}]" for rows in move.parts[:PIECES]]
    hint = "\n".join(pieces + ["…"] * (len(move.parts) > PIECES)) if len(move.parts) > 1 else names[0]
    return tag(
        "tr",
        tag("td", _name(names[0]), more, title=hint, cls="name"),
        tag("td", _slice(t, plan, move), cls="rows", title=hint if len(move.parts) > 1 else None),
        tag("td", _name(target.name), title=target.name, cls="name"),
        tag("td", _shape(target.shape), cls="shape"),
        tag("td", _dtype(plan, move), cls="type", title=t("plan.scaled", name=move.scale) if move.scale else None),
    )


def _searched(plan: Plan, move: Move) -> str:
    names = " ".join(dict.fromkeys(rows.tensor for rows in move.parts))
    return f"{names} {move.target.name} {_shape(move.target.shape)} {_stored(move.target.dtype)}".lower()


def _slice(t: Translator, plan: Plan, move: Move) -> Child:
    """ "whole", "128:256", or how many pieces it is put together from."""
    if len(move.parts) > 1:
        return t.count("count.pieces", len(move.parts))
    (rows,) = move.parts
    shape = plan.source.tensors[rows.tensor].shape
    if rows.start == 0 and rows.stop == (shape[0] if shape else 1):
        return tag("span", t("plan.whole"), cls="muted")
    return f"{rows.start}:{rows.stop}"


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape) or "1"


def _stored(dtype: str) -> str:
    return DTYPES.get(dtype, dtype.lower())


def _dtype(plan: Plan, move: Move) -> Child:
    before, after = plan.source.tensors[move.parts[0].tensor].dtype, move.target.dtype
    return _stored(after) if before == after else change(_stored(before), _stored(after))


def _name(name: str) -> Markup:
    """A tensor's name in two parts, of which the first is cut where there is little room.

    The second begins at the number of its block, or is its last two words.
    """
    parts = name.split(".")
    start = max((i for i, part in enumerate(parts) if part.isdigit()), default=len(parts) - 2)
    head = "".join(f"{part}." for part in parts[: max(start, 0)])
    return tag("span", tag("span", head, cls="head"), tag("span", name[len(head) :], cls="tail"), cls="cut")
