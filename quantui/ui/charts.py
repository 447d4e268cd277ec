"""The frame every chart stands in: title, toolbar, the chart itself, and a sentence on what good looks like.

assets/charts.js draws into it with Plotly; its colours by meaning are in assets/charts.css.
"""

from __future__ import annotations

from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, tag

TOOLS = ("whole", "png", "svg", "csv", "link")


def chart(t: Translator, name: str, title: str, good: str, *controls: Child, cls: str = "", hint: str | None = None) -> Markup:
    """An empty chart, to be filled by `quantuiCharts.draw`.

    Args:
        t: the language.
        name: what the script finds it by (`data-chart`).
        title: the finding or the question.
        good: one sentence, what a good one looks like.
        controls: switches that change only this chart.
        hint: explains the title.
    """
    buttons = [
        tag(
            "button", t(f"chart.{tool}"), type="button", cls="quiet", data_tool=tool, title=t(f"hint.chart.{tool}"),
            hidden=tool == "whole",
        )
        for tool in TOOLS
    ]  # fmt: skip
    head = tag(
        "figcaption",
        tag("h3", title, title=hint, data_chart_title=True, cls="hinted" if hint else ""),
        tag("div", *controls, cls="chart-controls") if controls else None,
        tag("div", *buttons, cls="chart-tools", role="toolbar", aria_label=t("chart.tools")),
    )
    plot = tag("div", tag("div", data_plot=True, cls="chart-canvas"), cls="chart-plot", role="img", aria_label=title)
    return tag("figure", head, plot, tag("p", good, cls="chart-good"), cls=f"chart {cls}".strip(), data_chart=name)
