"""The frame of the Statistics tab; assets/statistics.js fills the frame and follows it."""

from __future__ import annotations

from quantui.ui.charts import chart
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.widgets.facts import empty
from quantui.ui.widgets.statistics_cache import cache_frame
from quantui.ui.widgets.statistics_compare import compare_frame
from quantui.ui.widgets.statistics_layer import layer_frame, role_picker
from quantui.ui.widgets.statistics_parts import list_head

VIEWS = ("overview", "cache", "layer", "compare")


def statistics_bench(t: Translator) -> Markup:
    """Everything of the tab that does not change: which statistics, how to get them, and a place for each view."""
    bodies = {"overview": _overview(t), "cache": cache_frame(t), "layer": layer_frame(t), "compare": compare_frame(t)}
    views = [tag("div", bodies[name], cls="stats-view away", data_body=name) for name in VIEWS]
    job = tag("section", data_live="run", cls="panel run stats-run")
    return tag("div", _head(t), job, *views, cls="bench stats-bench", data_stats="root")


def _head(t: Translator) -> Markup:
    table = tag("select", data_stats="table", aria_label=t("stats.table"), title=t("hint.stats.table"))
    views = [
        tag("button", t(f"stats.view.{name}"), type="button", role="tab", data_view=name, title=t(f"hint.stats.view.{name}"))
        for name in VIEWS
    ]
    detail = tag(
        "label",
        tag("input", type="checkbox", data_stats="detail", checked=True),
        t("stats.detail"),
        title=t("hint.stats.detail"),
    )
    skip = tag("label", tag("input", type="checkbox", data_stats="skip"), t("stats.skip"), title=t("hint.stats.skip"))
    start = tag("button", t("stats.collect"), type="button", cls="go", data_do="collect", title=t("hint.stats.collect"))
    bar = tag(
        "div",
        tag("label", tag("span", t("stats.table")), table, cls="stats-table"),
        tag("nav", *views, role="tablist", cls="segments", aria_label=t("stats.views")),
        tag("div", detail, skip, start, cls="stats-collect"),
        cls="stats-bar",
    )
    return tag(
        "section",
        bar,
        tag("div", tag("div", data_part="facts"), tag("div", data_part="cost", role="status"), cls="stats-line"),
        tag("div", empty(t("stats.loading")), data_part="message", cls="stats-message"),
        cls="panel stats-head",
    )


def _overview(t: Translator) -> Markup:
    log = tag("label", tag("input", type="checkbox", data_set="log"), t("stats.log"), title=t("hint.stats.log"))
    ranges = chart(
        t,
        "ranges",
        t("stats.ranges.title"),
        t("stats.ranges.good"),
        role_picker(t),
        log,
        hint=t("hint.stats.ranges"),
        cls="tall",
    )
    key = tag("div", data_stats="kinds", cls="stats-kinds", role="group", aria_label=t("stats.kinds"),
              data_axis=t("stats.axis.block"), data_value=t("stats.axis.value"))  # fmt: skip
    over = tag(
        "span",
        data_stats="over",
        cls="muted",
        role="status",
        data_text=t("stats.offenders.over"),
        data_label=t("stats.threshold"),
    )
    head = list_head(t, t("stats.offenders.title"), over, hint=t("hint.stats.offenders"))
    return tag(
        "div",
        tag("section", ranges, key, cls="panel"),
        tag("section", head, tag("div", data_part="offenders", cls="stats-list"), cls="panel stats-side"),
        cls="stats-pair",
    )
