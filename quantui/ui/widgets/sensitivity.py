"""How a sensitivity job ended: what costs most, what the choice that was measured costs, or what a search found."""

from __future__ import annotations

from typing import Any

from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, tag
from quantui.ui.widgets.facts import Row, copyable, facts, figure
from quantui.ui.widgets.statistics_parts import said
from quantui.ui.widgets.times import stage_times

SHOWN = 6
"""How many layers are named."""


def sensitivity_card(t: Translator, result: dict[str, Any]) -> Markup:
    """The measured KL, or the layers that cost most; times, and where the table is."""
    if result["method"] == "measure":
        value, note = f"{_short(result['kl'])} ± {_short(result['stderr'])}", t("layers.unit.exact")
        main = figure(t("layers.measured"), tag("strong", value), note, t("hint.layers.measured"))
        rows: list[Row] = [
            (t("layers.size"), numbers.size(result["bytes"]), t("hint.layers.size")),
            (t("layers.bits"), f"{result['bits_per_weight']:.2f}", t("hint.layers.bits")),
        ]
    elif result["method"] == "auto":
        main = figure(t("layers.auto.level"), tag("strong", str(result["level"])), t("layers.auto.card"), t("hint.layers.auto"))
        rows = [
            (t("layers.measured"), _short(result["kl"]), t("hint.layers.measured")),
            (t("layers.size"), numbers.size(result["bytes"]), t("hint.layers.size")),
        ]
        if result["exact_match"] is not None:
            rows.insert(0, (t("term.exact_match"), numbers.percent(result["exact_match"]), t("hint.exact_match")))
    else:
        note = t(f"layers.method.{result['method']}")
        main = figure(t("stats.layers"), tag("strong", numbers.whole(result["layers"])), note, t("hint.layers.method"))
        rows = [(clipped(one["group"], 32), _short(one["kl"]), t("hint.layers.kl")) for one in result["worst"][:SHOWN]]
    return tag(
        "div",
        tag("div", main, cls="figures"),
        tag("div", facts(rows), stage_times(t, result), cls="columns"),
        tag("p", t("sens.card.open"), cls="muted"),
        tag("div", tag("span", t("result.folder"), cls="label"), copyable(t, str(result["out"]), 88), cls="folder"),
        cls="card result",
        data_card="result",
    )


def _short(value: float) -> str:
    return said(float(f"{value:.3g}"))
