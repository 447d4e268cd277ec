"""What a recipe comes to: its name and state, totals, deployment targets, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from quantui.errors import InputError
from quantui.recipe.layers import LayerTable
from quantui.recipe.schema import Recipe
from quantui.recipe.targets import Target
from quantui.recipe.words import cache_words
from quantui.ui import numbers
from quantui.ui.drafts import Draft, is_shipped
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, middle_cut, tag
from quantui.ui.widgets.facts import change, figure, problem, sentence
from quantui.ui.widgets.layers import scheme_label

SHOWN = 8
"""Problems that are written out."""


class Remark(NamedTuple):
    """Something to say about the recipe: at a line of the text (0 for none) and a field of the form ("" for none)."""

    severity: str
    text: str
    line: int = 0
    field: str = ""
    layer: str = ""


def title(t: Translator, draft: Draft, error: InputError | None, stale: bool) -> Markup:
    """Which recipe is being edited, and whether what is seen is what the file holds."""
    now = draft.now
    name = Path(now.base).stem if now.base else t("recipe.pasted")
    kind = t("recipe.shipped") if is_shipped(now.base) else t("recipe.own") if now.base else None
    state = tag("span", t("recipe.saved"), cls="muted") if now.is_saved else _unsaved(t)
    head = tag(
        "div",
        tag("h2", clipped(name, 40), title=now.base or None),
        tag("span", kind, cls="badge") if kind else None,
        tag("span", state, role="status", cls="draft-state", data_saved=str(now.is_saved).lower()),
        cls="recipe-name",
    )
    said = tag("p", t("recipe.stale"), cls="bad", role="alert") if stale else None
    return join(head, said, problem(t, error) if error else None)


def _unsaved(t: Translator) -> Markup:
    return tag("span", tag("i", cls="dot"), t("recipe.unsaved"), title=t("hint.recipe.unsaved"), cls="unsaved")


def totals(t: Translator, recipe: Recipe, table: LayerTable, model_bytes: int, held: Sequence[Target]) -> Markup:
    """Size, bits, layers, cache and calibration of the recipe for this model, and where the result can be loaded."""
    after = model_bytes - table.bytes_before + table.bytes_after
    bits = f"{table.bits_per_weight:.2f}".rstrip("0").rstrip(".")
    left = len(table.rows) - table.quantized
    cache = cache_words(recipe.kv_cache)
    keys = scheme_label(t, cache) if recipe.value_cache is None else t("recipe.cache.split")
    data = t("recipe.calibration.needed") if recipe.needs_calibration else t("recipe.calibration.none")
    figures = [
        figure(
            t("recipe.total.size"),
            change(numbers.size(model_bytes), numbers.size(after)),
            t("forecast.smaller", ratio=numbers.ratio(model_bytes, after)),
            t("hint.recipe.size"),
        ),
        figure(t("recipe.total.bits"), tag("strong", bits), t("recipe.total.bits_note"), t("hint.recipe.bits")),
        figure(
            t("recipe.total.layers"),
            tag("span", tag("strong", numbers.whole(table.quantized)), cls="quantized"),
            t("recipe.total.left", n=numbers.whole(left)),
            t("hint.layers"),
        ),
        figure(t("recipe.total.cache"), tag("strong", keys.split(" ")[0]), _rest(t, keys, data), t("hint.kv")),
    ]
    engines = tag("div", tag("h3", t("recipe.engines"), title=t("hint.recipe.engines")), _engines(t, held), cls="engines")
    return tag("div", *figures, engines, cls="totals")


def _rest(t: Translator, words: str, data: str) -> str:
    rest = words.partition(" ")[2]
    return t("list.comma").join(part for part in (rest, data) if part)


def _engines(t: Translator, held: Sequence[Target]) -> Markup:
    lines = []
    for target in held:
        mark = tag("i", cls="mark", aria_hidden="true")
        said = sentence(t, target.reason)
        hint = "\n".join(text for text in (said, target.layer) if text)
        word = t("recipe.holds") if target.holds else t("recipe.holds_not")
        reason = tag("span", said, cls="reason")
        name = tag("span", target.name, tag("span", word, cls="sr-only"), cls="engine-name")
        lines.append(tag("li", mark, name, reason, cls="done" if target.holds else "cancelled", title=hint))
    return tag("ul", *lines)


def remarks(t: Translator, found: Sequence[Remark]) -> Markup:
    """What is wrong or worth knowing, errors first; a click on one goes to its line."""
    order = {"error": 0, "warning": 1, "note": 2}
    lines = [_remark(t, each) for each in sorted(found, key=lambda each: order[each.severity])]
    more = tag("li", t("recipe.more", n=len(lines) - SHOWN), cls="muted") if len(lines) > SHOWN else None
    return tag("ul", *lines[:SHOWN], more, cls="remarks") if lines else Markup()


def _remark(t: Translator, each: Remark) -> Markup:
    place = t("recipe.line", n=each.line) if each.line else None
    where = tag("span", place, cls="at") if place else None
    layer = tag("code", middle_cut(each.layer, 48), title=each.layer) if each.layer and each.layer not in each.text else None
    kind = tag("span", t(f"recipe.severity.{each.severity}"), cls="severity")
    words = (kind, where, tag("span", each.text), layer)
    role = "alert" if each.severity == "error" else None
    return tag("li", tag("button", *words, type="button", data_line=each.line or None), cls=each.severity, role=role)
