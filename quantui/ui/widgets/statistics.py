"""How a statistics job ended: what was seen, and the channels that stand out most."""

from __future__ import annotations

from typing import Any

from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, tag
from quantui.ui.widgets.facts import Row, copyable, facts, figure
from quantui.ui.widgets.times import stage_times

SHOWN = 8
"""How many outlier channels are named."""


def statistics_card(t: Translator, result: dict[str, Any]) -> Markup:
    """Layers seen, the worst channels, times, and where the table is."""
    rows: list[Row] = [
        (t("result.memory"), numbers.size(result.get("peak_memory_bytes")), t("hint.peak_memory")),
        (t("result.time"), numbers.seconds(t, sum((result.get("seconds") or {}).values())), t("hint.time")),
    ]
    if on_device := result.get("peak_device_memory_bytes"):
        rows.insert(1, (t("result.device_memory"), numbers.size(on_device), t("hint.device_memory")))
    layers, cached = int(result.get("layers") or 0), int(result.get("kv_layers") or 0)
    note = t("result.kv", n=numbers.whole(cached)) if cached else None
    return tag(
        "div",
        tag(
            "div", figure(t("stats.layers"), tag("strong", numbers.whole(layers)), note, t("hint.stats.layers")), cls="figures"
        ),
        tag("div", facts([*rows, *_offenders(t, result)]), stage_times(t, result), cls="columns"),
        tag("div", tag("span", t("result.folder"), cls="label"), copyable(t, str(result["out"]), 88), cls="folder"),
        cls="card result",
        data_card="result",
    )


def _offenders(t: Translator, result: dict[str, Any]) -> list[Row]:
    """The channels whose largest value is furthest from the layer's usual ones."""
    found: list[Row] = []
    for one in (result.get("offenders") or [])[:SHOWN]:
        layer = str((one.get("layers") or [numbers.NONE])[0])
        value = t("stats.channel", channel=one.get("channel"), absmax=f"{float(one.get('absmax') or 0):.3g}")
        found.append((clipped(layer, 32), value, t("hint.stats.offender")))
    return found
