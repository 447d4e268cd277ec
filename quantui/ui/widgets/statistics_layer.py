"""The Layer view of the Statistics tab: its frame, and the tables and sentences beside its charts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quantui.stats.build import TOP
from quantui.stats.channels import Outlier
from quantui.stats.fit import CLIPS, SCHEMES
from quantui.stats.table import Array, Cause, Layer, StatsTable
from quantui.ui import numbers
from quantui.ui.charts import chart
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.statistics_parts import list_head, said, seen, table_of, times

AROUND = 300
"""Tokens of a sample that are shown to each side of the one that is marked."""

WEIGHTS_SHOWN = ("int8-channel", "fp8-channel", "int4-g128")
"""Schemes whose weight error stands beside a layer."""


def layer_frame(t: Translator) -> Markup:
    """Everything of the view that does not change."""
    axes = ("channel", "rank", "value", "count", "lost", "lost_channel", "lost_rank")
    words = {f"data_{name}": t(f"stats.axis.{name}") for name in axes}
    hint = t("hint.stats.layer.pick")
    pick = tag("select", data_stats="layer", aria_label=t("stats.layer.pick"), title=hint, **words)
    steps = [
        tag("button", mark, type="button", cls="quiet", data_step=step, title=t(f"stats.layer.{name}"))
        for mark, step, name in (("←", "-1", "before"), ("→", "1", "after"))
    ]
    bar = tag(
        "section",
        tag("div", pick, *steps, role_picker(t), cls="stats-pick"),
        tag("div", data_part="layer-facts", cls="layer-facts"),
        cls="panel layer-bar",
    )
    log = tag("label", tag("input", type="checkbox", data_set="log"), t("stats.log"), title=t("hint.stats.log"))
    order = tag(
        "label", tag("input", type="checkbox", data_set="order"), t("stats.layer.sorted"), title=t("hint.stats.layer.sorted")
    )
    drawn = tag(
        "select", tag("option", t("stats.layer.values"), value=""), data_set="weight", data_lost=t("stats.lost"),
        aria_label=t("stats.layer.drawn"), title=t("hint.stats.layer.drawn"),
    )  # fmt: skip
    channels = chart(
        t, "channels", t("stats.layer.title"), t("stats.layer.good"), drawn, order, log, hint=t("hint.stats.layer.channels")
    )
    side = tag("section", data_part="layer-outliers", cls="panel stats-side")
    why = tag("section", tag("div", data_part="layer-cause"), cls="panel layer-why")
    return join(
        bar,
        tag("div", tag("section", channels, cls="panel"), side, cls="stats-pair"),
        why,
        tag("div", _spread(t), _smooth(t), cls="stats-halves"),
    )


def role_picker(t: Translator) -> Markup:
    """Whether inputs or outputs are looked at."""
    options = [tag("option", t(f"stats.role.{name}"), value=name) for name in ("input", "output")]
    return tag("select", *options, data_set="role", aria_label=t("stats.role"), title=t("hint.stats.role"))


def _spread(t: Translator) -> Markup:
    schemes = [tag("option", t(f"stats.scheme.{name}"), value=name) for name in SCHEMES]
    clips = [
        tag("option", t("stats.clip.all") if clip == 1 else t("stats.clip.share", share=numbers.percent(clip)), value=str(clip))
        for clip in CLIPS
    ]
    drawn = chart(
        t,
        "spread",
        t("stats.spread.title"),
        t("stats.spread.good"),
        tag("select", *schemes, data_set="scheme", aria_label=t("stats.scheme"), title=t("hint.stats.scheme")),
        tag("select", *clips, data_set="clip", aria_label=t("stats.clip"), title=t("hint.stats.clip")),
        hint=t("hint.stats.spread"),
    )
    without = tag("p", t("stats.spread.without"), cls="empty", data_stats="no-spread", hidden=True)
    return tag("section", drawn, without, tag("p", data_stats="fit", cls="stats-fit", role="status"), cls="panel")


def _smooth(t: Translator) -> Markup:
    slider = tag(
        "label",
        t("stats.smooth.strength"),
        tag("input", type="range", min="0", max="1", step="0.05", value="0.5", data_set="strength"),
        tag("output", data_stats="strength"),
        title=t("hint.stats.smooth.strength"),
    )
    words = {name: t(f"stats.smooth.{name}") for name in ("before", "after", "weight_before", "weight_after")}
    drawn = chart(t, "smooth", t("stats.smooth.title"), t("stats.smooth.good"), slider, hint=t("hint.stats.smooth"))
    data = {f"data_{name}": text for name, text in words.items()}
    data |= {"data_title": t("stats.smooth.title"), "data_inputs": tag("p", t("stats.smooth.inputs"), cls="empty")}
    return tag(
        "section",
        tag("div", drawn, data_stats="smooth-words", data_axis=t("stats.axis.largest"), **data),
        tag("div", data_stats="no-smooth"),
        tag("p", data_stats="unusual", cls="stats-fit", role="status"),
        cls="panel",
    )


def facts_line(t: Translator, table: StatsTable, layer: Layer, role: str) -> Markup:
    """What is known of a layer in one line each: sizes, tokens, tails, what its weight loses."""
    parts = [
        clipped(layer.name, 56),
        join(t("stats.layer.shape", inputs=numbers.whole(layer.inputs), outputs=numbers.whole(layer.outputs or None))),
    ]
    if tokens := seen(t, table, layer.name, role):
        parts.append(join(tokens))
    share = table.outlier_share(layer.name, role)
    if share is not None:
        words = t("stats.layer.beyond", share=f"{share * 1e6:,.0f}")
        parts.append(tag("span", words, title=t("hint.stats.layer.beyond")))
    lost = table.weight_errors(layer)
    if lost:
        rows = [
            t("stats.layer.lost", scheme=name, error=_percent(math.sqrt(lost[name]))) for name in WEIGHTS_SHOWN if name in lost
        ]
        parts.append(tag("span", t("list.comma").join(rows), title=t("hint.stats.layer.lost")))
    return tag("p", *[tag("span", part) for part in parts])


def outlier_table(t: Translator, found: Sequence[Outlier], chosen: int) -> Markup:
    """The channels of one tensor that stand out under their head, the chosen one marked."""
    columns = [
        (t("stats.column.channel"), t("hint.stats.channel")),
        (t("stats.column.absmax"), t("hint.stats.absmax")),
        (t("stats.column.ratio"), t("hint.stats.ratio")),
        (t("stats.column.word"), t("hint.stats.word")),
    ]
    rows = [
        tag(
            "tr",
            tag("td", tag("button", str(one.channel), type="button", cls="stats-open")),
            tag("td", said(one.cause.value)),
            tag("td", t("stats.times", n=times(one.ratio))),
            tag("td", tag("code", shown(one.cause.word)) if one.cause.word else _place_of(t, one.cause)),
            data_channel=one.channel,
            aria_current="true" if one.channel == chosen else None,
        )
        for one in found
    ]
    head = list_head(t, t("stats.layer.outliers"), hint=t("hint.stats.layer.outliers"))
    return join(head, tag("div", table_of(columns, rows, "outliers"), cls="stats-list short"))


def lost_title(t: Translator, scheme: str, lost: Array) -> str:
    """What rounding a weight to a scheme does to its worst output channel and to the median one.

    Args:
        lost: error relative to the size of each output channel, (outputs,).
    """
    worst, median = _percent(float(lost.max())), _percent(float(np.median(lost)))
    return t("stats.lost.finding", scheme=scheme, channel=int(lost.argmax()), worst=worst, median=median)


def lost_table(t: Translator, lost: Array, absmax: Array) -> Markup:
    """The output channels that lose most under their head.

    Args:
        lost: as for `lost_title`.
        absmax: largest magnitude of the weight by output channel, (outputs,).
    """
    columns = [
        (t("stats.column.channel"), t("hint.stats.lost.channel")),
        (t("stats.column.error"), t("hint.stats.lost.error")),
        (t("stats.column.ratio"), t("hint.stats.lost.ratio")),
        (t("stats.column.weight"), t("hint.stats.lost.weight")),
    ]
    median = float(np.median(lost))
    rows = [
        tag(
            "tr",
            tag("td", str(channel)),
            tag("td", _percent(float(lost[channel]))),
            tag("td", t("stats.times", n=times(float(lost[channel]) / median)) if median else numbers.NONE),
            tag("td", said(float(absmax[channel]))),
            data_channel=channel,
        )
        for channel in np.argsort(-lost, kind="stable")[:TOP].tolist()
    ]
    head = list_head(t, t("stats.lost.list"), hint=t("hint.stats.lost.list"))
    return join(head, tag("div", table_of(columns, rows, "lost"), cls="stats-list short"))


def shown(word: str) -> str:
    """A token's text with what cannot be seen made visible."""
    return word.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣") if not word.strip() else word


def _place_of(t: Translator, cause: Cause) -> str:
    if cause.sample < 0:
        return numbers.NONE
    if cause.patch:
        return t("stats.cause.patch", sample=cause.sample, token=cause.token)
    return t("stats.cause.place", sample=cause.sample, token=cause.token)


def cause(t: Translator, table: StatsTable, found: Cause) -> Markup:
    """Which sample and token set a channel's largest magnitude, the word marked in its text."""
    title = t("stats.cause.title", channel=found.channel, value=said(found.value))
    if found.sample < 0:
        return join(tag("h3", title), tag("p", t("stats.cause.unknown"), cls="empty"))
    words = table.words(found.sample) if found.word else []
    where = t("list.dot").join(part for part in (_place_of(t, found), found.where) if part)
    head = tag("header", tag("h3", title), tag("span", clipped(where, 90), cls="muted", title=found.where))
    if not words:
        return join(head, tag("p", t("stats.cause.no_text"), cls="empty"))
    first, last = max(found.token - AROUND, 0), found.token + AROUND + 1
    before, after = "".join(words[first : found.token]), "".join(words[found.token + 1 : last])
    text = tag(
        "div",
        "…" if first else None,
        before,
        tag("mark", shown(words[found.token]), title=where),
        after,
        "…" if last < len(words) else None,
        cls="sample-text cause-text",
    )
    return join(head, text)


def fit_sentence(t: Translator, scheme: str, found: Mapping[str, Any] | None) -> str:
    """What a grid does to a tensor: "clips 0.01 % ..., the middle 98 % of values share 3 of 256 levels ..."."""
    if found is None:
        return ""
    return t(
        "stats.spread.fit",
        scheme=t(f"stats.scheme.{scheme}"),
        clipped=_percent(found["clipped"]),
        used=numbers.whole(found["used"]),
        all=numbers.whole(len(found["levels"])),
        error=_percent(found["error"]),
    )


def _percent(share: float) -> str:
    return "0 %" if share <= 0 else f"{float(f'{share * 100:.2g}'):.10g} %" if share >= 1e-6 else "< 0.0001 %"
