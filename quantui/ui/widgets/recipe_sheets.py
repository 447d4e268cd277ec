"""What opens above the editor of the Recipe tab: the gallery, pasting in what exists already, and what has changed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from quantui.errors import InputError
from quantui.recipe.imported import Imported, Line
from quantui.recipe.layers import LayerRow
from quantui.ui.drafts import is_shipped
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.facts import empty, problem, sentence
from quantui.ui.widgets.layers import scheme_chip

LAYERS = 12
"""Changed layers that are written out."""
CONTEXT = 2
"""Unchanged lines around a change."""


def gallery(t: Translator, files: Sequence[Path], base: str) -> Markup:
    """Every recipe: for whom it is, what it is known to cost, and a way to open it."""
    shipped = [_card(t, file, base) for file in files if is_shipped(str(file))]
    own = [_card(t, file, base) for file in files if not is_shipped(str(file))]
    mine = join(tag("h3", t("recipe.gallery.own")), tag("div", *own, cls="cards")) if own else None
    return join(mine, tag("h3", t("recipe.gallery.shipped")), tag("div", *shipped, cls="cards"))


def _card(t: Translator, file: Path, base: str) -> Markup:
    name, path = file.stem, str(file)
    use = t.known(f"preset.{name}.use", "") if is_shipped(path) else ""
    seen = t.known(f"preset.{name}.seen", "") if is_shipped(path) else ""
    return tag(
        "button",
        tag("strong", clipped(name, 40)),
        tag("span", use, cls="use") if use else None,
        tag("span", seen, cls="seen") if seen else None,
        type="button",
        cls="preset",
        data_do="open",
        data_path=path,
        aria_current="true" if path == base else None,
    )


def paste_frame(t: Translator) -> Markup:
    """Where another tool's words are pasted; the account of them is filled in beside it."""
    area = tag(
        "textarea", rows=9, spellcheck="false", data_bench="paste", aria_label=t("recipe.paste.label"),
        placeholder=t("recipe.paste.place"),
    )  # fmt: skip
    return tag(
        "div",
        tag("div", tag("p", t("recipe.paste.intro"), cls="muted"), area),
        tag("div", empty(t("recipe.paste.empty")), data_part="report", cls="report"),
        cls="paste",
    )


def report(t: Translator, made: Imported | None, error: InputError | None) -> Markup:
    """What a pasted text would become: parameter by parameter."""
    if error is not None:
        return problem(t, error)
    if made is None:
        return empty(t("recipe.paste.empty"))
    counts = [t.count("recipe.carried", len(made.carried)), t.count("recipe.not_carried", len(made.not_carried))]
    tool = {"llmcompressor": "llm-compressor", "msmodelslim": "msModelSlim", "lmdeploy": "lmdeploy lite"}[made.vocabulary]
    usable = made.recipe.quantizes
    take = tag("button", t("recipe.paste.take"), type="button", cls="quiet", data_do="take", disabled=not usable)
    head = tag("div", tag("strong", tool), tag("span", t("list.comma").join(counts), cls="muted"), take, cls="report-head")
    statistics = tag("p", t("recipe.paste.statistics"), cls="bad") if made.request == "statistics" else None
    notes = [tag("li", sentence(t, note)) for note in made.notes]
    lines = [_carried(t, line, False) for line in made.not_carried] + [_carried(t, line, True) for line in made.carried]
    table = tag("table", tag("tbody", *lines))
    return join(head, statistics, tag("ul", *notes, cls="notes") if notes else None, tag("div", table, cls="report-box"))


def _carried(t: Translator, line: Line, kept: bool) -> Markup:
    mark = tag("td", tag("i", cls="mark"), cls="done" if kept else "cancelled")
    value = tag("td", tag("code", clipped(line.parameter, 40)), tag("code", clipped(line.value, 24), cls="muted"))
    return tag("tr", mark, value, tag("td", sentence(t, line.says)), cls="kept" if kept else "left")


def changes(t: Translator, before: str, after: str, layers: Sequence[tuple[LayerRow, LayerRow]]) -> Markup:
    """What differs from the saved recipe: its lines, and the layers that are treated otherwise."""
    if before == after:
        return empty(t("recipe.changes.none"))
    lines = list(difflib.unified_diff(before.splitlines(), after.splitlines(), n=CONTEXT, lineterm=""))[2:]
    kinds = {"+": "added", "-": "gone", "@": "hunk"}
    text = [tag("span", line if line[:1] != "@" else " ", cls=kinds.get(line[:1], "same")) for line in lines]
    shown = [
        tag("tr", tag("td", tag("code", clipped(old.name, 28))), tag("td", scheme_chip(t, old.scheme, old.ignored)),
            tag("td", scheme_chip(t, new.scheme, new.ignored)))
        for old, new in layers[:LAYERS]
    ]  # fmt: skip
    more = tag("p", t("recipe.more", n=len(layers) - LAYERS), cls="muted") if len(layers) > LAYERS else None
    title = t.count("recipe.changes.layers", len(layers))
    table = tag("table", tag("tbody", *shown), cls="changed-layers") if shown else None
    back = tag("button", t("recipe.revert"), type="button", cls="quiet", data_do="revert", title=t("hint.recipe.revert"))
    side = tag("div", tag("h3", title, back), table, more)
    return tag("div", tag("pre", *text, cls="diff"), side, cls="changes")
