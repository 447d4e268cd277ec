"""The Keys and values view of the Statistics tab: its frame; assets/statistics_cache.js fills it."""

from __future__ import annotations

from quantui.ui import numbers
from quantui.ui.charts import chart
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, tag
from quantui.ui.widgets.statistics_parts import list_head

BATCHES, CONTEXTS = (1, 8, 16, 32, 48), (2048, 8192, 32768, 131072)
"""What the memory of a cache is told for."""


def cache_frame(t: Translator) -> Markup:
    """Everything of the view that does not change."""
    maps = [
        chart(t, f"{role}-map", t(f"stats.map.{role}"), t("stats.map.good"), hint=t("hint.stats.map"), cls="map")
        for role in ("key", "value")
    ]
    pairs = tag(
        "label", tag("input", type="checkbox", data_set="pairs"), t("stats.profile.pairs"), title=t("hint.stats.profile.pairs")
    )
    drawn = chart(t, "profile", t("stats.profile.title"), t("stats.profile.good"), pairs, hint=t("hint.stats.profile"))
    errors = chart(t, "errors", t("stats.errors.title"), t("stats.errors.good"), hint=t("hint.stats.errors"))
    words = {
        f"data_{name}": t(f"stats.axis.{name}")
        for name in ("block", "head", "pair", "dimension", "error", "error_plain", "value", "first", "second", "unturned")
    } | {f"data_{role}_{grain}": t(f"stats.errors.{role}_{grain}") for role in ("key", "value") for grain in ("tensor", "head")}
    return join(
        tag("div", *[tag("section", one, cls="panel") for one in maps], cls="stats-halves"),
        tag("section", drawn, cls="panel"),
        tag("div", tag("section", errors, cls="panel"), _memory(t), cls="stats-pair", data_stats="cache-words", **words),
    )


def _memory(t: Translator) -> Markup:
    sliders = [
        tag(
            "label",
            t(f"stats.bits.{role}"),
            tag("input", type="range", min="0", max="7", step="1", data_set=f"{role}bits"),
            tag("output", data_stats=f"{role}bits"),
            tag("span", data_stats=f"{role}error", cls="muted"),
            title=t("hint.stats.bits"),
        )
        for role in ("key", "value")
    ]
    batches = [tag("option", t("stats.memory.batch", n=n), value=str(n)) for n in BATCHES]
    contexts = [tag("option", t("stats.memory.tokens", n=numbers.whole(n)), value=str(n)) for n in CONTEXTS]
    size = tag(
        "div",
        tag("select", *batches, data_set="batch", aria_label=t("stats.memory.batches")),
        tag("select", *contexts, data_set="context", aria_label=t("stats.memory.contexts")),
        cls="stats-pick",
    )
    head = list_head(t, t("stats.memory.title"), hint=t("hint.stats.memory"))
    rows = tag(
        "table",
        tag("thead", tag("tr", *[tag("th", t(f"stats.memory.{name}")) for name in ("precision", "size", "share")])),
        tag("tbody", data_stats="memory", data_chosen=t("stats.memory.chosen"), data_whole=t("stats.memory.whole")),
        cls="stats-rows memory",
    )
    note = tag("p", t("stats.bits.error"), cls="muted", title=t("hint.stats.bits.error"))
    figure = tag("div", data_stats="saved", cls="figure-value", role="status")
    return tag(
        "section",
        head,
        tag("div", *sliders, cls="stats-sliders"),
        note,
        size,
        figure,
        rows,
        cls="panel stats-side stats-memory",
    )
