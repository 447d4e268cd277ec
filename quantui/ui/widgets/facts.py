"""Small pieces every panel is made of: tables of facts, figures, errors, things to copy."""

from __future__ import annotations

from collections.abc import Iterable

from quantui.errors import QuantUIError
from quantui.events import Failed
from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, clipped, join, tag

NAMES = frozenset({"compressed-tensors", "llm-compressor", "lmdeploy", "msModelSlim", "transformers", "vLLM"})
"""Programs that are written so wherever they stand."""
Row = tuple[str, Child, str | None]
"""What it is, its value, and the tooltip that explains it."""


def facts(rows: Iterable[Row], cls: str = "") -> Markup:
    """A table of two columns, what and value."""
    lines = [
        tag("div", tag("dt", label, title=hint, cls="hinted" if hint else ""), tag("dd", value), cls="fact")
        for label, value, hint in rows
    ]
    return tag("dl", *lines, cls=f"facts {cls}".strip())


def change(before: str, after: str) -> Markup:
    """before → after, the second in full strength."""
    return tag("span", tag("span", before, cls="before"), tag("span", "→", cls="arrow"), tag("strong", after), cls="change")


def figure(label: str, value: Child, note: Child, hint: str | None = None) -> Markup:
    """One large number with its name above and a remark below."""
    return tag(
        "div",
        tag("div", label, cls="figure-label", title=hint),
        tag("div", value, cls="figure-value"),
        tag("div", note, cls="figure-note"),
        cls="figure",
    )


def problem(t: Translator, error: QuantUIError | Failed) -> Markup:
    """What is wrong, where, and what to do next, each on its own line."""
    return tag(
        "div",
        tag("p", sentence(t, error.what), cls="what"),
        tag("p", tag("code", clipped(error.where, 96)), cls="where") if error.where else None,
        tag("p", sentence(t, error.todo), cls="todo") if error.todo else None,
        cls="problem",
        role="alert",
    )


def sentence(t: Translator, text: str) -> str:
    """A sentence of the core in the page's language, with a full stop and a capital letter, unless a name stands first."""
    text = t.error(text.strip())
    ended = not text or text.endswith((".", "!", "?", "。"))
    stop = "" if ended else "。" if any(char > "\u2e7f" for char in text) else "."  # by its script: some stays English
    first = text.partition(" ")[0].rstrip(":,;")
    name = first in NAMES or any(char in first for char in "_./")
    return f"{text[:1] if name else text[:1].upper()}{text[1:]}{stop}"


def copyable(t: Translator, text: str, width: int = 64) -> Markup:
    """A path or id that is copied by a click."""
    return tag(
        "button",
        clipped(text, width),
        tag("span", t("copy.done"), cls="copied", aria_hidden="true"),
        cls="copy",
        type="button",
        data_act="copy",
        data_text=text,
        title=f"{text}\n{t('copy.hint')}",
    )


def panel(title: Child, *children: Child, cls: str = "", extra: Child = None) -> Markup:
    """A titled part of the page; `extra` stands at the right end of its title line."""
    head = tag("header", tag("h2", title), tag("div", extra, cls="extra") if extra else None)
    return tag("section", head, *children, cls=f"panel {cls}".strip())


def empty(text: str) -> Markup:
    """One quiet sentence where there is nothing yet."""
    return tag("p", text, cls="empty")


def state_badge(t: Translator, state: str) -> Markup:
    """The state of a run as a mark and a word; the mark's shape tells it without colour."""
    return tag("span", tag("i", cls="mark", aria_hidden="true"), t(f"state.{state}"), cls=f"state {state}")


__all__ = ["change", "copyable", "empty", "facts", "figure", "join", "panel", "problem", "sentence", "state_badge"]
