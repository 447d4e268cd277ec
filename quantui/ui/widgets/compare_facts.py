"""What an evaluation of two models found: figures, and the questions whose answers change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quantui.jobs.store import Run
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, tag
from quantui.ui.widgets.facts import change, empty, state_badge

LONGEST = 160


def measures(
    t: Translator, run: Run | None, result: dict[str, Any] | None, flips: Sequence[dict[str, Any]], data: Sequence[Path]
) -> Markup:
    """The evaluation's panel: which data, a button, and what the newest run found."""
    options = [tag("option", f"{file.parent.name}/{file.name}", value=str(file)) for file in data]
    going = run is not None and run.state in ("queued", "running")
    button = tag(
        "button", t("compare.find"), type="button", cls="quiet", data_do="measure", title=t("hint.compare.find"), disabled=going
    )
    picker = tag("select", *options, data_compare="data", aria_label=t("compare.data")) if options else None
    head = tag("header", tag("h2", t("compare.evaluation")), picker, button if options else None, _state(t, run))
    if result is None:
        hint = t("compare.going") if going else t("compare.not_measured") if options else t("compare.no_data")
        return join(head, empty(hint))
    return join(head, tag("div", _figures(t, result), _flips(t, result, flips), cls="measured"))


def compared_card(t: Translator, result: dict[str, Any]) -> Markup:
    """The result of a comparison as the run's panel shows it."""
    go = tag("button", t("compare.see"), type="button", cls="quiet", data_show="compare")
    return tag("div", _figures(t, result), go, cls="compared-card")


def benchmarks_card(t: Translator, result: dict[str, Any]) -> Markup:
    """The result of benchmarks: a row for each task and metric."""
    head = tag("tr", *(tag("th", t(f"compare.column.{name}")) for name in ("task", "metric", "quantized", "original", "diff")))
    rows = [
        tag(
            "tr",
            tag("td", row["task"], dir="auto"),
            tag("td", row["metric"], dir="auto"),
            *(tag("td", f"{row[side]:.4f}") for side in ("quantized", "original")),
            tag("td", f"{row['diff']:+.4f}"),
        )
        for row in result["rows"]
    ]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *rows), cls="plain-table"), cls="compared-card")


def _state(t: Translator, run: Run | None) -> Markup | None:
    if run is None:
        return None
    log = tag(
        "button", t("compare.open_run"), type="button", cls="quiet", data_act="open", data_run=run.id, data_show="quantize"
    )
    return tag("span", state_badge(t, run.state), log, cls="extra", data_measured=run.id, data_state=run.state)


def _figures(t: Translator, result: dict[str, Any]) -> Markup:
    noise = result.get("noise_floor")
    exact = [result["exact_match_original"], result["exact_match_quantized"]]
    surprise = [numbers.perplexity(result[f"perplexity_{side}"]) for side in ("original", "quantized")]
    rows = [
        ("exact", "–" if None in exact else change(numbers.percent(exact[0]), numbers.percent(exact[1]))),
        ("perplexity", change(*surprise)),
        ("kl_mean", nats(t, result["kl_mean"])),
        ("kl_median", nats(t, result["kl_median"])),
        ("kl_p90", nats(t, result["kl_p90"])),
        ("kl_p99", nats(t, result["kl_p99"])),
        ("kl_max", join(nats(t, result["kl_max"]), " ", tag("code", str(result["kl_max_at"]["token"]), dir="auto"))),
        ("noise", "–" if noise is None else nats(t, noise)),
        ("top1", numbers.percent(result["top1_agreement"])),
        ("tokens", numbers.whole(result["tokens"])),
    ]
    lines = [
        tag("div", tag("dt", t(f"compare.figure.{name}"), title=t(f"hint.compare.figure.{name}")), tag("dd", value), cls="fact")
        for name, value in rows
    ]
    return tag("div", tag("dl", *lines, cls="facts"), _categories(t, result["categories"]), cls="figures-list")


def nats(t: Translator, value: float) -> str:
    """A distance with sensible digits: "0.0131 nats/token"."""
    return t("compare.nats", n=f"{value:.3g}")


def _categories(t: Translator, categories: dict[str, Any]) -> Markup | None:
    if not categories:
        return None
    head = tag("tr", *(tag("th", t(f"compare.column.{name}")) for name in ("category", "rows", "kl", "exact")))
    rows = [
        tag(
            "tr",
            tag("td", t.known(f"compare.category.{name}", name), dir="auto"),
            tag("td", numbers.whole(group["rows"])),
            tag("td", f"{group['kl_mean']:.3g}"),
            tag("td", _shares(group)),
        )
        for name, group in categories.items()
    ]
    return tag("table", tag("thead", head), tag("tbody", *rows), cls="plain-table")


def _shares(group: dict[str, Any]) -> Markup | str:
    one, two = group["exact_match_original"], group["exact_match_quantized"]
    return "–" if one is None else change(numbers.percent(one), numbers.percent(two))


def _flips(t: Translator, result: dict[str, Any], flips: Sequence[dict[str, Any]]) -> Markup:
    title = tag("h3", t("compare.flips", n=numbers.whole(result["flips"]), rows=numbers.whole(result["rows"])))
    if not flips:
        return tag("div", title, empty(t("compare.no_flips")), cls="flips")
    head = tag("tr", *(tag("th", t(f"compare.column.{name}")) for name in ("question", "original", "quantized", "kl")))
    rows = [
        tag(
            "tr",
            tag(
                "td",
                tag(
                    "button",
                    _short(row["question"]),
                    type="button",
                    cls="link",
                    data_flip=row["question"],
                    data_picture=str(place) if row.get("picture") else None,
                    dir="auto",
                ),
            ),
            _answer(row, "original"),
            _answer(row, "quantized"),
            tag("td", f"{row['kl_mean']:.3g}"),
        )
        for place, row in enumerate(flips)
    ]
    table = tag("table", tag("thead", head), tag("tbody", *rows), cls="plain-table")
    return tag("div", title, tag("div", table, cls="scroll"), cls="flips")


def _answer(row: dict[str, Any], side: str) -> Markup:
    is_right = row["right"].get(side)
    return tag("td", tag("i", cls="right-mark" if is_right else "wrong-mark"), _short(row["answers"].get(side, "")), dir="auto")


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
