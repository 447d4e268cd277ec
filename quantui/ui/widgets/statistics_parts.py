"""The tables and sentences of the Statistics tab that stand beside its charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantui.jobs.preflight_stats import StatsCost
from quantui.stats.kinds import place_of
from quantui.stats.overview import Offender
from quantui.stats.table import StatsTable
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, clipped, middle_cut, tag
from quantui.ui.statistics_tables import Found

UNREACHED = 8
"""Layers that no token reached which are named."""


def said(value: float | None) -> str:
    """A value with the digits that count: "123.4", "10560", "0.01312", "1.2e-07"."""
    if value is None:
        return numbers.NONE
    return f"{value:.2e}" if abs(value) >= 1e7 or 0 < abs(value) < 1e-4 else f"{float(f'{value:.4g}'):.10g}"


def times(ratio: float) -> str:
    """How many times larger: "3.2", "738", "1.2e+05"."""
    return f"{ratio:.2e}" if ratio >= 1e5 else f"{float(f'{ratio:.3g}'):.10g}"


def place(t: Translator, name: str, kinds: str = "", *, expert: bool = True) -> str:
    """Where a layer stands, in few words: "block 3 · down".

    Args:
        name: of the module.
        kinds: what to say instead of its kind, where it speaks for others too.
        expert: whether to say which expert it belongs to.
    """
    found = place_of(name)
    if found.block is None:
        return middle_cut(name, 32)
    parts = [t("stats.vision")] if found.vision else []
    parts.append(t("stats.block", n=found.block))
    if expert and found.expert is not None:
        parts.append(t("stats.expert", n=found.expert))
    return t("list.dot").join([*parts, kinds or found.kind])


def seen(t: Translator, table: StatsTable, name: str, role: str) -> str:
    """How many tokens or patches a tensor had; "" where an imported table does not say."""
    rows = table.tokens(name, role)
    if not rows:
        return ""
    text = bool(table.arrays["site/on_tokens"][table.entries[name, role]])
    return t("stats.layer.seen", what=t.count("count.tokens", rows) if text else t.count("count.patches", rows))


def table_line(t: Translator, found: Found, table: StatsTable) -> Markup:
    """What a table is of."""
    tokens = len(table.arrays["samples/ids"])
    unreached = [layer.name for layer in table.layers if not table.has(layer.name, "input")]
    samples = (
        t.count("count.samples", found.samples)
        if found.samples == found.given
        else t("stats.some_samples", n=numbers.whole(found.samples), all=t.count("count.samples", found.given))
    )
    parts: list[Child] = [found.model.rsplit("/", 1)[-1], t.count("count.layers", len(table.layers))]
    if unreached:
        hint = t("hint.stats.unreached", names=t("list.comma").join(unreached[:UNREACHED]))
        parts.append(tag("span", t("stats.unreached", n=numbers.whole(len(unreached))), title=hint))
    if table.meta.get("source") == "lmdeploy":
        parts.append(t("stats.imported"))
    else:
        parts += [samples, t.count("count.tokens", tokens) if tokens else ""]
        parts.append(t("stats.with_detail") if found.detail else t("stats.without_detail"))
    dotted = [child for part in parts if part for child in (t("list.dot"), part)][1:]
    return tag("p", *dotted, title=str(found.folder))


def cost_line(t: Translator, cost: StatsCost) -> Markup:
    """What collecting will take."""
    text = t(
        "stats.cost",
        samples=t.count("count.samples", cost.samples),
        tokens=t.count("count.tokens", cost.tokens),
        time=numbers.seconds(t, cost.seconds, rough=True),
        memory=numbers.size(cost.memory_bytes),
    )
    return tag("p", text, cls="muted", title=t("hint.stats.cost", size=numbers.size(cost.table_bytes)))


def offender_table(t: Translator, found: Sequence[Offender], index: Mapping[str, int]) -> Markup:
    """The channels that stand out, worst first; `index` tells where the chart shows a layer."""
    columns = [
        (t("stats.column.layer"), None),
        (t("stats.column.channel"), t("hint.stats.channel")),
        (t("stats.column.absmax"), t("hint.stats.absmax")),
        (t("stats.column.ratio"), t("hint.stats.ratio")),
    ]
    return table_of(columns, [_offender(t, one, index) for one in found], "offenders")


def _offender(t: Translator, one: Offender, index: Mapping[str, int]) -> Markup:
    kinds = t("list.comma").join(dict.fromkeys(layer.rpartition(".")[2].removesuffix("_proj") for layer in one.layers))
    where = place(t, one.layers[0], kinds)
    places = " ".join(str(index[layer]) for layer in one.layers if layer in index)
    button = tag("button", clipped(where, 40), type="button", cls="stats-open")
    return tag(
        "tr",
        tag("td", button),
        tag("td", str(one.channel)),
        tag("td", said(one.absmax)),
        tag("td", t("stats.times", n=times(one.ratio))),
        title="\n".join(one.layers),
        data_layer=one.layers[0],
        data_at=places,
        data_channel=one.channel,
        data_absmax=f"{one.absmax:.6g}",
    )


def list_head(t: Translator, title: str, *said: Child, hint: str | None = None) -> Markup:
    """The head of a list: its title, what is said of it, and a button that saves its rows (assets/statistics.js)."""
    save = tag("button", t("chart.csv"), type="button", cls="quiet", data_rows=True, title=t("hint.rows.csv"))
    return tag("header", tag("h3", title, title=hint, cls="hinted" if hint else ""), *said, tag("div", save, cls="chart-tools"))


def table_of(columns: Sequence[tuple[str, str | None]], rows: Sequence[Markup], cls: str = "") -> Markup:
    """A table with a head whose words are explained."""
    head: list[Child] = [tag("th", name, title=hint, cls="hinted" if hint else "") for name, hint in columns]
    return tag("table", tag("thead", tag("tr", *head)), tag("tbody", *rows), cls=f"stats-rows {cls}".strip())
