"""The layer table of the Recipe tab: its frame, and its rows as plain data, drawn by assets/layers.js where in sight."""

from __future__ import annotations

import re
import zlib
from typing import Any

from quantui.recipe.layers import LayerRow, LayerTable
from quantui.recipe.schemes import PRESETS
from quantui.recipe.words import FLOAT
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag

BITS = re.compile(r"W(\d)A|A(\d+) activations")
KINDS = ("float", "bits8", "bits4", "fallback")
COLUMNS = ("name", "shape", "scheme", "rule", "before", "after")


def scheme_kind(words: str, ignored: bool = False) -> str:
    """How a scheme is coloured: float, bits8, bits4, or fallback for a layer that was left out by hand."""
    if words == FLOAT:
        return "fallback" if ignored else "float"
    bits = BITS.search(words)
    return "bits4" if bits and int(bits[1] or bits[2]) <= 4 else "bits8"


def scheme_label(t: Translator, words: str) -> str:
    """A scheme in the page's language; what is a term of the field stays as it is."""
    said = words.replace("per tensor", "per-tensor").replace("activations only", "activations-only")
    return " ".join(t.known(f"recipe.word.{word}", word) for word in said.split())


def scheme_chip(t: Translator, words: str, ignored: bool = False) -> Markup:
    """A scheme with its colour; the shape of the mark tells it without."""
    return tag("span", tag("i", cls="swatch"), scheme_label(t, words), cls=f"scheme {scheme_kind(words, ignored)}")


def layers_frame(t: Translator) -> Markup:
    """The table without its rows: filter, legend, what can be done with a selection, and the heads of its columns."""
    words = t("recipe.layers.filter")
    legend = [
        tag("span", tag("i", cls="swatch"), t(f"recipe.legend.{kind}"), cls=f"scheme {kind}") for kind in KINDS
    ]  # fmt: skip
    bar = tag(
        "div",
        tag("h2", t("recipe.layers.title"), title=t("hint.recipe.layers")),
        tag("span", cls="count", role="status", data_layers="count", data_all=t("recipe.layers.count.other"),
            data_one=t("recipe.layers.count.one"), data_part=t("recipe.layers.part")),
        tag("span", *legend, cls="legend"),
        tag("input", type="search", placeholder=words, aria_label=words, spellcheck="false", data_layers="filter"),
        cls="layers-bar",
    )  # fmt: skip
    return tag(
        "section",
        bar,
        _selection(t),
        tag("div", data_part="layers", cls="layers-note"),
        _grid(t),
        cls="panel layers",
        data_layers="root",
    )


def _selection(t: Translator) -> Markup:
    """What is done with the selected layers."""
    schemes = [tag("option", t("recipe.layers.scheme"), value="", selected=True)]
    schemes += [tag("option", name, value=name) for name in PRESETS if name != "UNQUANTIZED"]
    return tag(
        "div",
        tag("span", data_layers="selected", data_none=t("recipe.layers.hint"), data_one=t("recipe.layers.selected.one"),
            data_other=t("recipe.layers.selected.other")),
        _button(t, "float"),
        _button(t, "restore"),
        tag("select", *schemes, aria_label=t("recipe.layers.scheme"), title=t("hint.recipe.scheme"), data_layers="scheme",
            disabled=True),
        _button(t, "every"),
        _button(t, "none"),
        cls="layers-selection",
    )  # fmt: skip


def _button(t: Translator, name: str) -> Markup:
    enabled = name == "every"
    return tag(
        "button", t(f"recipe.layers.{name}"), type="button", cls="quiet", data_layers=name, title=t(f"hint.recipe.{name}"),
        disabled=not enabled,
    )  # fmt: skip


def _grid(t: Translator) -> Markup:
    heads = [
        tag("span", t(f"recipe.column.{name}"), cls=f"cell {name}", title=t(f"hint.recipe.column.{name}"), role="columnheader")
        for name in COLUMNS
    ]
    head = tag("div", tag("span", cls="cell pick"), *heads, cls="layers-head", role="row")
    body = tag(
        "div", tag("div", cls="layers-sheet"), cls="layers-body", tabindex=0, role="grid", aria_multiselectable="true",
        aria_label=t("recipe.layers.title"), data_layers="body",
    )  # fmt: skip
    empty = tag("p", t("recipe.layers.no_match"), cls="empty", data_layers="empty", hidden=True)
    return tag("div", head, body, empty, cls="layers-grid")


def layer_data(t: Translator, table: LayerTable, seen: object) -> dict[str, Any]:
    """The rows for the browser: what a model fixes (name, shape, size) only where it does not have it yet.

    Args:
        t: the language.
        table: the rows.
        seen: the checksum of the fixed part that the browser has.
    """
    schemes: dict[tuple[str, bool], int] = {}
    rules: dict[tuple[str, bool, tuple[str, ...]], int] = {}
    cells = []
    for row in table.rows:
        scheme = schemes.setdefault((row.scheme, row.ignored), len(schemes))
        rule = rules.setdefault((row.rule or "", row.ignored, row.beaten), len(rules))
        cells.append((scheme, rule, numbers.size(row.bytes_after)))
    fixed = [(row.name, _shape(row), numbers.size(row.bytes_before)) for row in table.rows]
    stamp = zlib.crc32(repr(fixed).encode())
    told: dict[str, Any] = {
        "stamp": stamp,
        "schemes": [(scheme_label(t, words), scheme_kind(words, ignored)) for words, ignored in schemes],
        "rules": [(_rule(t, rule, ignored), _hint(t, rule, beaten)) for rule, ignored, beaten in rules],
        "cells": cells,
    }
    return told if seen == stamp else told | {"fixed": fixed}


def _shape(row: LayerRow) -> str:
    return "×".join(str(size) for size in row.shape)


def _rule(t: Translator, rule: str, ignored: bool) -> str:
    if not rule:
        return t("recipe.rule.none")
    return t("recipe.rule.ignore", rule=rule) if ignored else rule


def _hint(t: Translator, rule: str, beaten: tuple[str, ...]) -> str:
    """The whole rule, and those that would take the layer too."""
    others = t("recipe.rule.beats", rules=t("list.comma").join(beaten)) if beaten else ""
    return "\n".join(text for text in (rule, others) if text)
