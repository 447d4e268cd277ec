"""The frame of the Recipe tab: bar, form, YAML and layer table, empty; assets/recipe.js fills and follows them."""

from __future__ import annotations

from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.widgets.layers import layers_frame
from quantui.ui.widgets.recipe_sheets import paste_frame

SHEETS = ("gallery", "paste", "changes")


def bench(t: Translator) -> Markup:
    """Everything of the tab that does not change."""
    sheets = tag(
        "div",
        tag("div", data_part="gallery", cls="sheet gallery", data_sheet="gallery", hidden=True),
        tag("div", paste_frame(t), cls="sheet", data_sheet="paste", hidden=True),
        tag("div", data_part="changes", cls="sheet", data_sheet="changes", hidden=True),
        cls="sheets",
    )
    top = tag("section", _bar(t), sheets, tag("div", data_part="totals", cls="totals-slot"), cls="panel bench-top")
    form = tag(
        "section",
        tag("header", tag("h2", t("recipe.form.title")), tag("span", t("recipe.form.note"), cls="muted")),
        tag("div", data_part="form", cls="form-body"),
        cls="panel bench-form",
    )
    yaml = tag(
        "section",
        tag("header", tag("h2", t("recipe.yaml.title")), tag("span", t("recipe.yaml.note"), cls="muted")),
        _editor(t),
        tag("div", data_part="remarks", cls="remarks-slot", aria_live="polite"),
        cls="panel bench-yaml",
    )
    return tag("div", top, tag("div", form, yaml, cls="bench-pair"), layers_frame(t), cls="bench", data_bench="root")


def _bar(t: Translator) -> Markup:
    sheets = [
        tag("button", t(f"recipe.sheet.{name}"), type="button", cls="quiet", data_open=name, aria_expanded="false",
            title=t(f"hint.recipe.sheet.{name}"))
        for name in SHEETS
    ]  # fmt: skip
    name = t("recipe.name")
    save = tag(
        "div",
        tag("input", type="text", aria_label=name, title=name, spellcheck="false", autocomplete="off", data_bench="name"),
        tag("button", t("recipe.save"), type="button", cls="go", data_do="save", title=t("hint.recipe.save"), disabled=True),
        cls="save",
    )
    return tag(
        "div",
        tag("div", data_part="title", cls="title-slot"),
        tag("div", *sheets, cls="sheet-buttons"),
        tag("div", _step(t, "undo"), _step(t, "redo"), cls="steps"),
        save,
        tag("button", t("recipe.use"), type="button", cls="quiet", data_do="use", title=t("hint.recipe.use")),
        tag("div", data_part="name", cls="name-slot"),
        cls="bench-bar",
    )


def _step(t: Translator, name: str) -> Markup:
    hint = t(f"hint.recipe.{name}")
    return tag(
        "button", t(f"recipe.{name}_mark"), type="button", cls="quiet", data_do=name, title=hint, aria_label=hint,
        disabled=True,
    )  # fmt: skip


def _editor(t: Translator) -> Markup:
    """A textarea over its own coloured copy, with numbers and marks beside it."""
    area = tag(
        "textarea", spellcheck="false", autocapitalize="off", autocomplete="off", wrap="off", aria_label=t("recipe.yaml.title"),
        data_yaml="text",
    )  # fmt: skip
    return tag(
        "div",
        tag("div", data_yaml="gutter", cls="gutter", aria_hidden="true"),
        tag("div", tag("pre", data_yaml="copy", cls="copy-of", aria_hidden="true"), area, cls="sheet-of"),
        cls="yaml",
        data_yaml="root",
    )
