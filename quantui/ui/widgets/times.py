"""What the card of every finished job ends in: the time of each stage, and notes."""

from __future__ import annotations

from typing import Any

from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Child, Markup, tag


def stage_times(t: Translator, result: dict[str, Any]) -> Markup:
    """Time a stage as a table with bars: what took longest is seen at once."""
    times: dict[str, float] = result.get("seconds") or {}
    longest = max(times.values(), default=0.0) or 1.0
    lines: list[Child] = [
        tag(
            "tr",
            tag("th", t.known(f"stage.name.{name}", name), scope="row"),
            tag("td", tag("i", style=f"width:{value / longest * 100:.1f}%"), cls="bar"),
            tag("td", numbers.seconds(t, value), cls="number"),
        )
        for name, value in times.items()
    ]
    return tag("table", tag("caption", t("result.times")), tag("tbody", *lines), cls="times")


def notes_list(t: Translator, result: dict[str, Any]) -> Markup | None:
    """What a person should know of the result, in the page's language where it is known."""
    notes = [t.error(str(note)) for note in result.get("notes") or []]
    return tag("ul", *(tag("li", note) for note in notes), cls="notes") if notes else None
