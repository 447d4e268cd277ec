"""The frame of the Layers tab: getting scores, bars, the choice, the front and the card; assets/sensitivity.js fills it."""

from __future__ import annotations

from quantui.ui.charts import chart
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.widgets.facts import empty

METHODS = ("fisher", "path", "exact", "local")
TARGETS = {"exact_match": 97, "kl": 0.05}
"""What a search may have to hold, and what is proposed: percent, and nats a token."""
SAMPLES = 32
"""Samples that are used where nobody says otherwise: enough to rank layers, with error bars that say how sure it is."""


def sensitivity_bench(t: Translator) -> Markup:
    """Everything of the tab that does not change."""
    job = tag("section", data_live="run", cls="panel run sens-run")
    top = tag("div", tag("section", _bars(t), cls="panel"), _choice(t), cls="sens-pair")
    below = tag("div", tag("section", _front(t), cls="panel"), _why(t), cls="sens-pair")
    return tag("div", _head(t), job, tag("div", top, below, cls="sens-body", data_sens="body", hidden=True),
               cls="bench sens-bench", data_sens="root", **_words(t))  # fmt: skip


def _words(t: Translator) -> dict[str, str]:
    """What the script says."""
    words = {
        "block": t("layers.chart.block"),
        "floor": t("layers.chart.floor"),
        "front": t("layers.chart.front"),
        "measured": t("layers.chart.measured"),
        "now": t("layers.chart.now"),
        "foretold": t("layers.chart.foretold"),
        "size_axis": t("layers.chart.size_axis"),
        "kl_axis": t("layers.chart.kl_axis"),
        "layer_axis": t("layers.chart.layer_axis"),
        "point": t("layers.chart.point", size="{size}", bits="{bits}", kl="{kl}"),
        "float": t("layers.float"),
        "value": t("stats.axis.value"),
        "count": t("stats.axis.count"),
    }
    return {f"data_t_{name}": word for name, word in words.items()}


def _head(t: Translator) -> Markup:
    methods = [tag("option", t(f"layers.method.{name}"), value=name, title=t(f"hint.layers.method.{name}")) for name in METHODS]
    bar = tag(
        "div",
        tag("label", tag("span", t("layers.method")), tag("select", *methods, data_sens="method"), cls="stats-table",
            title=t("hint.layers.method")),
        tag("label", tag("span", t("layers.samples")), tag("input", type="number", min=1, value=SAMPLES, data_sens="samples"),
            cls="sens-samples", title=t("hint.layers.samples")),
        tag("div", data_part="cost", role="status", cls="sens-cost"),
        tag("button", t("layers.start"), type="button", cls="go", data_do="start", title=t("hint.layers.start"), disabled=True),
        cls="stats-bar",
    )  # fmt: skip
    return tag(
        "section",
        bar,
        tag("div", empty(t("layers.loading")), data_part="facts", cls="sens-facts"),
        tag("div", data_part="message", cls="stats-message"),
        tag("div", tag("progress", max=1, value=0, data_sens="done"), tag("span", data_sens="doing", cls="muted"),
            cls="sens-going", data_sens="going", hidden=True),
        cls="panel stats-head",
    )  # fmt: skip


def _bars(t: Translator) -> Markup:
    log = tag("label", tag("input", type="checkbox", data_set="log", checked=True), t("stats.log"), title=t("hint.layers.log"))
    views = tag(
        "select",
        *(tag("option", t(f"layers.view.{name}"), value=name) for name in ("kind", "scheme", "map")),
        data_set="view",
        aria_label=t("layers.view"),
        title=t("hint.layers.view"),
    )
    brush = tag("label", tag("span", t("layers.brush")), tag("select", data_sens="brush"), title=t("hint.layers.brush"))
    bars = chart(
        t, "bars", t("layers.bars.title"), t("layers.bars.good"), brush, views, log, hint=t("hint.layers.bars"), cls="tall"
    )
    key = tag("div", data_sens="key", cls="stats-kinds sens-key", aria_label=t("stats.kinds"))
    return tag("div", bars, key)


def _choice(t: Translator) -> Markup:
    steps = [
        tag("button", t(f"recipe.{name}_mark"), type="button", cls="quiet", data_do=name, title=t(f"hint.recipe.{name}"),
            aria_label=t(f"hint.recipe.{name}"), disabled=True)
        for name in ("undo", "redo")
    ]  # fmt: skip
    head = tag(
        "header", tag("h3", t("layers.choice"), title=t("hint.layers.choice"), cls="hinted"), tag("div", *steps, cls="steps")
    )
    acts = tag(
        "div",
        tag("button", t("layers.quantize"), type="button", cls="go", data_do="quantize", title=t("hint.layers.quantize")),
        tag("button", t("layers.measure"), type="button", cls="quiet", data_do="measure", title=t("hint.layers.measure")),
        tag("button", t("layers.recipe"), type="button", cls="quiet", data_do="recipe", title=t("hint.layers.recipe")),
        cls="sens-acts",
    )
    return tag(
        "section",
        head,
        tag("div", data_part="totals", aria_live="polite"),
        acts,
        tag("div", data_part="diff", cls="sens-diff"),
        cls="panel sens-choice",
    )


def _front(t: Translator) -> Markup:
    allowed = tag(
        "select",
        *(tag("option", t(f"layers.allowed.{name}"), value=name) for name in ("own", "all")),
        data_sens="allowed",
        aria_label=t("layers.allowed"),
        title=t("hint.layers.allowed"),
    )
    plot = chart(t, "front", t("layers.front.title"), t("layers.front.good"), allowed, hint=t("hint.layers.front"))
    slider = tag(
        "label",
        tag("span", t("layers.budget")),
        tag("input", type="range", min=0, max=1, step=1, value=0, data_sens="budget", aria_label=t("layers.budget")),
        tag("output", data_sens="budget-said"),
        cls="sens-budget",
        title=t("hint.layers.budget"),
    )
    return tag("div", plot, slider, _search(t), cls="sens-front")


def _search(t: Translator) -> Markup:
    """The fewest layers in float that hold a target."""
    kinds = [
        tag("option", t(f"layers.auto.{kind}"), value=kind, data_limit=limit, title=t(f"hint.layers.auto.{kind}"))
        for kind, limit in TARGETS.items()
    ]
    limit = tag("input", type="number", min=0, step="any", value=TARGETS["exact_match"], data_sens="limit",
                aria_label=t("layers.auto.limit"))  # fmt: skip
    line = tag(
        "div",
        tag("span", t("layers.auto"), title=t("hint.layers.auto"), cls="hinted"),
        tag("select", *kinds, data_sens="target", aria_label=t("layers.auto.target")),
        limit,
        tag("button", t("layers.auto.start"), type="button", cls="quiet", data_do="auto", title=t("hint.layers.auto"),
            disabled=True),
        tag("div", data_part="auto-cost", role="status"),
        cls="sens-auto",
    )  # fmt: skip
    return tag("div", line, tag("div", data_part="auto", aria_live="polite", cls="sens-found"))


def _why(t: Translator) -> Markup:
    return tag(
        "section",
        tag("header", tag("h3", t("layers.why"), title=t("hint.layers.why"), cls="hinted")),
        tag("div", empty(t("layers.why.none")), data_part="why"),
        tag("div", chart(t, "grid", "", t("stats.spread.good"), hint=t("hint.stats.spread")), data_sens="grid", hidden=True),
        cls="panel sens-why",
    )
