"""The frame of the Compare tab; assets/compare.js fills it and keeps the conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from quantui.ui.chats import Choice
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, middle_cut, tag
from quantui.ui.widgets.facts import empty

WORDS = (
    "original", "quantized", "tokens", "speed", "first", "continue", "continued", "again", "edit", "cut", "cut_long", "full",
    "off", "loading", "queued", "memory", "shared", "mean", "stopped", "more", "block", "all_layers", "answer_a", "answer_b",
    "reveal", "folded", "not_loaded", "partly", "waiting", "for_seconds", "no_change", "tip", "nats",
)  # fmt: skip
"""What the script says, each by a key of its own."""

NUMBERS = (("temperature", "0"), ("top_p", "1"), ("top_k", "0"), ("repetition", "1"), ("seed", "0"), ("most", "256"))
PRESETS = ("all", "none", "weights", "activations", "kv")
CHOICES = ("a", "same", "neither", "b")


def compare_bench(t: Translator) -> Markup:
    """Everything of the tab that does not change: models, two chats, switches, settings, the evaluation."""
    words = {name: t(f"compare.say.{name}") for name in WORDS}
    top = tag("section", tag("div", data_part="models", cls="compare-models"), cls="panel compare-top")
    side = tag("div", _switches(t), _settings(t), cls="compare-side")
    chats = tag("div", _chats(t), side, cls="compare-main")
    below = tag("div", tag("section", tag("div", data_part="measures"), cls="panel"), cls="compare-below")
    return tag("div", top, chats, below, cls="compare-bench", data_compare="root", data_words=json.dumps(words))


def _chats(t: Translator) -> Markup:
    head = tag(
        "header",
        tag("div", tag("h2", t("compare.original")), tag("span", cls="muted", data_told="original"), cls="side"),
        tag("div", tag("h2", t("compare.quantized")), tag("span", cls="muted", data_told="quantized"), cls="side"),
        cls="sides",
    )
    log = tag("div", empty(t("compare.begin")), cls="turns", data_compare="turns", tabindex="0", role="log")
    wrong = tag("div", data_told="problem", role="alert")
    ballot = tag("div", vote_buttons(t), data_template="vote", hidden=True)
    return tag("section", head, _tools(t), log, wrong, _composer(t), ballot, cls="panel compare-chats")


def _tools(t: Translator) -> Markup:
    return tag(
        "div",
        tag(
            "label",
            tag("span", t("compare.colour")),
            tag(
                "select",
                *(tag("option", t(f"compare.colour.{name}"), value=name) for name in ("kl", "change", "none")),
                data_view="colour",
            ),
            title=t("hint.compare.colour"),
        ),
        tag(
            "label",
            tag("input", type="checkbox", data_view="numbers"),
            t("compare.numbers"),
            title=t("hint.compare.numbers"),
            cls="check",
        ),
        tag("span", *(tag("i", cls=f"k{level}") for level in range(7)), tag("span", data_told="scale"), cls="scale"),
        tag(
            "label",
            tag("input", type="checkbox", data_view="blind"),
            t("compare.blind"),
            title=t("hint.compare.blind"),
            cls="check",
        ),
        tag("span", data_part="votes", cls="tally"),
        cls="compare-tools",
    )


def _composer(t: Translator) -> Markup:
    clear = tag("button", t("compare.clear"), type="button", cls="quiet", data_do="clear", title=t("hint.compare.clear"))
    return tag(
        "div",
        tag("div", tag("div", data_part="examples", cls="examples"), clear, cls="composer-top"),
        tag("div", data_told="picture", cls="attached", hidden=True),
        tag(
            "div",
            tag("textarea", rows=2, data_compare="message", placeholder=t("compare.message"), aria_label=t("compare.message")),
            tag(
                "div",
                tag("button", t("compare.send"), type="button", cls="go", data_do="send", disabled=True),
                tag("button", t("compare.stop"), type="button", cls="quiet", data_do="stop", hidden=True),
                tag(
                    "label",
                    t("compare.picture"),
                    tag("input", type="file", accept="image/*", data_compare="picture", hidden=True),
                    cls="quiet attach",
                    title=t("hint.compare.picture"),
                    data_told="attach",
                    hidden=True,
                ),
                cls="composer-buttons",
            ),
            cls="composer-row",
        ),
        cls="composer",
    )


def _switches(t: Translator) -> Markup:
    hints = {name: t(f"hint.compare.preset.{name}") for name in PRESETS}
    presets = [
        tag("button", t(f"compare.preset.{name}"), type="button", cls="quiet", data_preset=name, title=hint)
        for name, hint in hints.items()
    ]
    return tag(
        "section",
        tag("header", tag("h2", t("compare.switches"), title=t("hint.compare.switches"))),
        tag("div", *presets, cls="presets"),
        tag("div", empty(t("compare.not_loaded")), data_told="layers", cls="layer-grid"),
        tag("p", data_told="switched", cls="muted"),
        tag("button", t("compare.ask_again"), type="button", cls="quiet wide", data_do="again", disabled=True),
        cls="panel compare-switches",
    )


def _settings(t: Translator) -> Markup:
    fields = [
        tag(
            "label",
            tag("span", t(f"compare.setting.{name}"), title=t(f"hint.compare.setting.{name}")),
            tag("input", type="text", inputmode="decimal", value=usual, data_setting=name),
        )
        for name, usual in NUMBERS
    ]
    system = tag(
        "label",
        tag("span", t("compare.system"), title=t("hint.compare.system")),
        tag("textarea", rows=2, data_compare="system"),
        cls="system",
    )
    return tag(
        "section",
        tag("details", tag("summary", t("compare.settings")), tag("div", system, *fields, cls="settings")),
        cls="panel compare-settings",
    )


def models(t: Translator, originals: Sequence[Path], quantized: Sequence[Path], choice: Choice, wrong: Markup | None) -> Markup:
    """Which two are talked to; one sentence and one button where there is nothing quantized yet."""
    if not quantized and choice.quantized is None and wrong is None:
        go = tag("button", t("compare.go_quantize"), type="button", cls="go", data_do="quantize")
        return tag("div", empty(t("compare.nothing")), go, cls="nothing")
    return join(
        _picker(t, "original", originals, choice.original),
        _picker(t, "quantized", quantized, choice.quantized),
        tag("span", cls="muted", data_told="state", role="status"),
        tag("button", t("compare.report"), type="button", cls="quiet", data_do="report", title=t("hint.compare.report")),
        wrong,
    )


def _picker(t: Translator, name: str, folders: Sequence[Path], chosen: Path | None) -> Markup:
    listed = list(folders) if chosen is None or chosen in folders else [chosen, *folders]
    names = [folder.name for folder in listed]
    options = [
        tag(
            "option",
            middle_cut(folder.name if names.count(folder.name) == 1 else f"{folder.name} ({folder.parent.name})", 44),
            value=str(folder),
            selected=folder == chosen,
        )
        for folder in listed
    ]
    words = tag("span", t(f"compare.{name}"), title=t(f"hint.compare.{name}"))
    return tag("label", words, tag("select", *options, data_model=name, data_value=str(chosen or "")))


def examples(t: Translator, questions: Sequence[str]) -> Markup:
    """Questions to begin with."""
    return join(*(tag("button", question, type="button", cls="quiet example", data_example=question) for question in questions))


def tally(t: Translator, counts: Mapping[str, int]) -> Markup:
    """How the votes stand; nothing before there is one."""
    total = sum(counts.values())
    if not total:
        return Markup()
    equal = counts["same"] + counts["neither"]
    told = t("compare.tally", original=counts["original"], quantized=counts["quantized"], same=equal)
    export = tag("button", t("compare.export"), type="button", cls="quiet", data_do="votes", title=t("hint.compare.export"))
    return tag("span", told, " ", export, title=t.count("compare.votes", total))


def vote_buttons(t: Translator) -> Markup:
    """What stands under two answers in the blind mode; the script copies it."""
    buttons = [tag("button", t(f"compare.vote.{name}"), type="button", cls="quiet", data_vote=name) for name in CHOICES]
    return tag("div", *buttons, cls="vote")
