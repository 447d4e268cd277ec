"""What was quantized on its way into other formats: the buttons on a result, and how an export ended."""

from __future__ import annotations

import functools
from typing import Any

from quantui.errors import RecipeError
from quantui.formats.forecast import Fit, fits
from quantui.recipe import llmcompressor
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.widgets.facts import Row, change, copyable, facts, figure
from quantui.ui.widgets.times import stage_times

OWN = "compressed-tensors"
"""The format that the result of a run has already."""


def export_buttons(t: Translator, run_id: str, recipe: str) -> Markup | None:
    """A button for every format; those that cannot hold what this recipe makes say why."""
    buttons = [_button(t, run_id, fit) for fit in _fits(recipe) if fit.format != OWN]
    if not buttons:
        return None
    note = tag("p", cls="note", role="status", data_export_note=True)
    label = tag("span", t("export.as"), cls="label", title=t("hint.export.as"))
    return tag("div", label, tag("div", *buttons, cls="buttons"), note, cls="card exports", data_card="exports")


def exported_card(t: Translator, result: dict[str, Any]) -> Markup:
    """Format, sizes, layers and proof of a finished export, and where its folder is."""
    off = float(result["largest_deviation"])
    proof = t("export.same") if off == 0 else t("export.off", share=f"{off:.2g}")
    origin = t("export.from", format=str(result["source_format"]))
    note = t("export.untouched", n=numbers.whole(int(result["tensors"])))
    before, after = numbers.size(result["bytes_before"]), numbers.size(result["bytes_after"])
    figures = (
        figure(t("export.format"), tag("strong", str(result["format"])), origin, t("hint.export.format")),
        figure(t("result.size"), change(before, after), None, t("hint.size")),
        figure(t("result.layers"), tag("strong", numbers.whole(int(result["layers"]))), note, t("hint.export.layers")),
    )
    rows: list[Row] = [
        (t("export.proof"), proof, t("hint.export.proof")),
        (t("export.files"), t.count("count.files", len(result["files"])), "\n".join(result["files"])),
        (t("result.memory"), numbers.size(result.get("peak_memory_bytes")), t("hint.peak_memory")),
        (t("result.time"), numbers.seconds(t, result.get("seconds_total")), t("hint.time")),
    ]
    return tag(
        "div",
        tag("div", *figures, cls="figures"),
        tag("div", facts(rows), stage_times(t, result), cls="columns"),
        tag("div", tag("span", t("result.folder"), cls="label"), copyable(t, str(result["out"]), 88), cls="folder"),
        cls="card result",
        data_card="exported",
    )


@functools.lru_cache(maxsize=64)
def _fits(recipe: str) -> tuple[Fit, ...]:
    """Which formats hold what a recipe makes of layers of convenient shapes; the job looks at the shapes themselves."""
    try:
        return tuple(fits(llmcompressor.loads(recipe)))
    except RecipeError:
        return ()


def _button(t: Translator, run_id: str, fit: Fit) -> Markup:
    said = t("hint.export.to") if fit.holds else t.error(fit.reason)
    return tag(
        "button", fit.format, type="button", cls="quiet", title=said, disabled=not fit.holds,
        data_act="export", data_run=run_id, data_format=fit.format,
    )  # fmt: skip
