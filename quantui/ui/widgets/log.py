"""The live log. Its list is virtual (assets/log.js): however long the log, only the lines in sight are elements."""

from __future__ import annotations

from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag

LEVELS = ("debug", "info", "warning", "error")


def log_view(t: Translator) -> Markup:
    """The toolbar and the empty list; lines are pushed into it by assets/live.js."""
    options = [
        tag("option", t(f"log.level.{level}"), value=str(number), selected=level == "info")
        for number, level in enumerate(LEVELS)
    ]
    find = t("log.search")
    toolbar = tag(
        "div",
        tag("h2", t("log.title")),
        tag(
            "span",
            cls="count",
            data_log="count",
            data_one=t("log.lines.one"),
            data_other=t("log.lines.other"),
            data_part=t("log.lines.part"),
        ),
        tag(
            "input",
            type="search",
            placeholder=find,
            aria_label=find,
            data_log="search",
            spellcheck="false",
        ),
        tag("span", cls="matches", data_log="matches", data_text=t("log.matches"), data_none=t("log.no_match"), role="status"),
        _button(t, "previous", "log.previous_mark"),
        _button(t, "next", "log.next_mark"),
        tag("select", *options, aria_label=t("log.levels"), title=t("log.levels"), data_log="level"),
        _button(t, "pause", "log.pause", data_pause=t("log.pause"), data_resume=t("log.resume"), data_new=t("log.resume_new")),
        _button(t, "copy", "log.copy", data_done=t("copy.done")),
        cls="log-bar",
        role="toolbar",
        aria_label=t("log.title"),
    )
    sheet = tag("div", tag("div", cls="log-rows"), cls="log-sheet")
    empty = tag("p", t("log.empty"), cls="empty", data_log="empty")
    newest = tag("button", t("log.newest"), type="button", cls="newest", data_log="newest", hidden=True)
    lines = tag("div", sheet, cls="log-lines", tabindex=0, role="log", aria_label=t("log.title"), aria_live="off")
    return tag("section", toolbar, tag("div", lines, empty, newest, cls="log-box"), cls="panel log", data_log="root")


def _button(t: Translator, name: str, text: str, **labels: str) -> Markup:
    hint = t(f"hint.log.{name}")
    return tag("button", t(text), type="button", cls="quiet", data_log=name, title=hint, aria_label=hint, **labels)
