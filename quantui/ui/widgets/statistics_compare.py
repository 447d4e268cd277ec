"""The Compare view of the Statistics tab: its frame, and the table beside its chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantui.ui import numbers
from quantui.ui.charts import chart
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.facts import empty
from quantui.ui.widgets.statistics_parts import list_head, place, said, table_of, times

SHOWN = 200
"""Layers the table names."""

Change = tuple[str, float, float, float]


def compare_frame(t: Translator) -> Markup:
    """Everything of the view that does not change."""
    other = tag("select", data_set="other", aria_label=t("stats.compare.other"))
    roles = [tag("option", t(f"stats.role.{name}"), value=name) for name in ("input", "output", "key", "value")]
    bar = tag(
        "section",
        tag(
            "div",
            tag("label", tag("span", t("stats.compare.other")), other, cls="stats-table", title=t("hint.stats.compare.other")),
            tag("select", *roles, data_set="compared", aria_label=t("stats.role")),
            tag("div", data_part="compare-note"),
            cls="stats-pick",
        ),
        cls="panel layer-bar",
    )
    drawn = chart(t, "changes", t("stats.compare.title"), t("stats.compare.good"), hint=t("hint.stats.compare"), cls="tall")
    side = tag(
        "section",
        list_head(t, t("stats.compare.changes")),
        tag("div", data_part="changes", cls="stats-list"),
        cls="panel stats-side",
    )
    words = {"data_axis": t("stats.axis.block"), "data_change": t("stats.axis.change")}
    pair = tag("div", tag("section", drawn, cls="panel"), side, cls="stats-pair", data_stats="compared", **words)
    alone = tag("section", empty(t("stats.compare.alone")), cls="panel", data_stats="alone", hidden=True)
    return join(bar, pair, alone)


def title(t: Translator, found: Sequence[Change]) -> str:
    """The finding: which layer changed most."""
    if not found:
        return t("stats.compare.nothing")
    if found[0][3] == 0:
        return t("stats.compare.none")
    name, here, there, _ = found[0]
    return t("stats.compare.finding", layer=place(t, name), here=said(here), there=said(there))


def note(t: Translator, found: Sequence[Change], layers: int, *, same: bool) -> Markup:
    """What to know of a comparison: that both are one collection, or that they share few of so many layers."""
    if same:
        return tag("p", t("stats.compare.same"), cls="muted")
    if len(found) == layers:
        return Markup()
    return tag("p", t("stats.compare.shared", n=numbers.whole(len(found)), all=t.count("count.layers", layers)), cls="muted")


def change_table(t: Translator, found: Sequence[Change], order: Mapping[str, int]) -> Markup:
    """The layers that changed most, the largest change first."""
    columns = [
        (t("stats.column.layer"), None),
        (t("stats.column.here"), t("hint.stats.here")),
        (t("stats.column.there"), t("hint.stats.there")),
        (t("stats.column.change"), t("hint.stats.change")),
    ]
    shown = {name: at for at, name in enumerate(sorted((row[0] for row in found), key=lambda name: order[name]))}
    return table_of(columns, [_row(t, one, shown[one[0]]) for one in found[:SHOWN]], "moved")


def _row(t: Translator, one: Change, at: int) -> Markup:
    name, here, there, _ = one
    return tag(
        "tr",
        tag(
            "td",
            tag("button", clipped(place(t, name), 40), type="button", cls="stats-open"),
        ),
        tag("td", said(here)),
        tag("td", said(there)),
        tag("td", t("stats.times", n=times(there / here) if here else "∞") if here or there else numbers.NONE),
        title=name,
        data_layer=name,
        data_at=at,
    )
