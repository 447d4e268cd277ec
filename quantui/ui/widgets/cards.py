"""How a run ended: the result with its numbers, or what went wrong."""

from __future__ import annotations

from typing import Any

from quantui.events import Failed
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, tag
from quantui.ui.widgets.facts import Row, change, copyable, facts, figure, problem, sentence
from quantui.ui.widgets.times import notes_list, stage_times


def result_card(t: Translator, result: dict[str, Any]) -> Markup:
    """Sizes, accuracy, layers, memory and times of a finished run, and where its folder is."""
    figures = [_size(t, result), *_accuracy(t, result), _layers(t, result)]
    rows: list[Row] = [
        (t("result.memory"), numbers.size(result.get("peak_memory_bytes")), t("hint.peak_memory")),
        (t("result.time"), numbers.seconds(t, result.get("seconds_total")), t("hint.time")),
    ]
    if on_device := result.get("peak_device_memory_bytes"):
        rows.insert(1, (t("result.device_memory"), numbers.size(on_device), t("hint.device_memory")))
    if result.get("calibration_samples"):
        samples = t.count("count.samples", int(result["calibration_samples"]))
        tokens = t.count("count.tokens", int(result.get("calibration_tokens") or 0))
        rows.append((t("result.calibration"), t("list.comma").join((samples, tokens)), t("hint.calibration")))
    if result.get("reopen_max_logit_difference") is not None:
        difference = f"{float(result['reopen_max_logit_difference']):.3g}"
        rows.append((t("result.reopened"), t("result.logit_difference", n=difference), t("hint.reopened")))
    if statistics := _statistics(t, result):
        rows.append((t("result.statistics"), statistics, t("hint.result.statistics")))
    rows.append((t("result.device"), str(result.get("device", numbers.NONE)), None))
    return tag(
        "div",
        tag("div", *figures, cls="figures"),
        tag("div", facts(rows), stage_times(t, result), cls="columns"),
        tag("div", tag("span", t("result.folder"), cls="label"), copyable(t, str(result["out"]), 88), cls="folder"),
        notes_list(t, result),
        cls="card result",
        data_card="result",
    )


def failure_card(t: Translator, failed: Failed) -> Markup:
    """What went wrong, where, and what to try; or that somebody stopped it."""
    if failed.reason == "cancelled":
        return tag("div", tag("p", t("failure.cancelled")), cls="card cancelled", data_card="cancelled")
    return tag("div", tag("h3", t("failure.failed")), problem(t, failed), cls="card failure", data_card="failure")


def _size(t: Translator, result: dict[str, Any]) -> Markup:
    before, after = result["bytes_before"], result["bytes_after"]
    note = t("forecast.smaller", ratio=numbers.ratio(before, after))
    return figure(t("result.size"), change(numbers.size(before), numbers.size(after)), note, t("hint.size"))


def _accuracy(t: Translator, result: dict[str, Any]) -> list[Markup]:
    match = result.get("exact_match_before"), result.get("exact_match_after")
    surprise = result.get("perplexity_before"), result.get("perplexity_after")
    made: list[Markup] = []
    questions = t.count("count.questions", int(result.get("evaluation_samples") or 0))
    if match[0] is not None and match[1] is not None:
        note = t("result.points", n=numbers.points(match[0], match[1]), questions=questions)
        value = change(numbers.percent(match[0]), numbers.percent(match[1]))
        made.append(figure(t("result.exact_match"), value, note, t("hint.exact_match")))
    if surprise[0] is not None and surprise[1] is not None:
        value = change(numbers.perplexity(surprise[0]), numbers.perplexity(surprise[1]))
        made.append(figure(t("result.perplexity"), value, t("result.lower_is_better"), t("hint.perplexity")))
    return made


def _statistics(t: Translator, result: dict[str, Any]) -> Child:
    """The way to what was gathered while calibrating, or why nothing was; older results say neither."""
    if result.get("stats"):
        samples = t.count("count.samples", int(result.get("stats_samples") or result["calibration_samples"]))
        return tag(
            "button", t("result.see_statistics", samples=samples), type="button", cls="quiet", data_act="statistics",
            data_table=result["stats"],
        )  # fmt: skip
    return sentence(t, str(result["stats_note"])) if result.get("stats_note") else None


def _layers(t: Translator, result: dict[str, Any]) -> Markup:
    left = t("result.left", n=numbers.whole(int(result["layers_left"])))
    kv = int(result.get("kv_layers") or 0)
    note = left if not kv else t("list.comma").join((left, t("result.kv", n=numbers.whole(kv))))
    return figure(t("result.layers"), tag("strong", numbers.whole(int(result["layers_quantized"]))), note, t("hint.layers"))
