"""The form of the Recipe tab, made from the table of fields: one line a parameter, in plain words with its term beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantui.recipe.companions import main_group
from quantui.recipe.fields import FIELDS, SECTIONS, Field, values_of
from quantui.recipe.schema import QuantGroup, Recipe
from quantui.recipe.words import FLOAT, scheme_words
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.layers import scheme_chip

LONG = 6
"""Lines of a list of layers at most; the rest is scrolled to."""
RARE = "rare"
"""The section that is folded until somebody opens it, or something in it is wrong."""
ALIKE = {"sparse": ("sparse", "fallback")}
"""Sections that stand under one heading."""

NAMES = {
    "gptq": "GPTQ", "autoround": "AutoRound", "hqq": "HQQ", "smoothquant": "SmoothQuant", "m1": "SmoothQuant (m1)",
    "awq": "AWQ (m3)", "spinquant": "SpinQuant", "quip": "QuIP",
}  # fmt: skip
"""How methods are called in any language."""


def recipe_form(t: Translator, recipe: Recipe, wrong: Mapping[str, Markup], typed: Mapping[str, str]) -> Markup:
    """Every field that has a meaning in this recipe, section by section.

    Args:
        t: the language.
        recipe: whose values.
        wrong: what is wrong, by field.
        typed: what was typed into a field and refused, kept so that it can be corrected.
    """
    parts = []
    for section in SECTIONS:
        if section == "fallback":
            continue  # stands with the sparse weights
        fields = [f for f in FIELDS.values() if f.section in ALIKE.get(section, (section,)) and f.is_used(recipe)]
        lines: list[Markup | None] = [_line(t, f, recipe, wrong.get(f.name), typed.get(f.name)) for f in fields]
        if section == "layers":
            lines.append(_overrides(t, recipe))
        elif section == "scheme":
            lines.insert(0, _of_group(t, recipe))
        head, body = t(f"recipe.section.{section}"), tag("div", *lines, cls="fields")
        if section == RARE:
            said = sum(f.get(recipe) not in (None, f.default) for f in fields)
            count = tag("span", t.count("recipe.rare", said), cls="muted") if said else None
            shown = any(f.name in wrong for f in fields)
            inside = tag("details", tag("summary", tag("h3", head), count), body, open=shown, data_fold=section)
        else:
            inside = join(tag("h3", head), body)
        parts.append(tag("section", inside, cls="form-section", data_section=section))
    return join(*parts)


def shown_value(value: object) -> str:
    """A value as an input holds it."""
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "\n".join(str(entry) for entry in value)
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _line(t: Translator, field: Field, recipe: Recipe, wrong: Markup | None, typed: str | None) -> Markup:
    value = shown_value(field.get(recipe)) if typed is None else typed
    name = f"field-{field.name}"
    said = t("list.comma").join(
        t("recipe.called", tool=tool, name=word) for tool, word in _others(field)
    )  # what those who come from elsewhere know it as
    hint = "\n".join(text for text in (t(f"recipe.help.{field.name}"), said) if text)
    own = field.llmcompressor.rsplit(".", 1)[-1].split(",")[0]
    term = field.name if not own or " " in own else own
    label = tag(
        "label", t(f"recipe.field.{field.name}"), tag("small", term), for_=name, title=hint, cls="hinted"
    )  # fmt: skip
    control = _control(t, field, value, name, bool(wrong))
    wide = " wide" if field.kind == "names" else ""
    bad = " wrong" if wrong else ""
    return tag("div", label, control, wrong, cls=f"field{wide}{bad}", data_name=field.name)


def _others(field: Field) -> list[tuple[str, str]]:
    tools = (("llm-compressor", field.llmcompressor), ("msModelSlim", field.msmodelslim), ("lmdeploy", field.lmdeploy))
    return [(tool, word) for tool, word in tools if word]


def _control(t: Translator, field: Field, value: str, name: str, wrong: bool) -> Markup:
    shared: dict[str, Any] = {"id": name, "data_field": field.name, "data_value": value}
    if wrong:
        shared |= {"aria_invalid": "true"}
    if field.kind == "bool":
        return tag("input", type="checkbox", checked=value == "true", **shared)
    if field.kind == "choice":
        choices = [choice for choice in field.choices if choice != "custom" or value == "custom"]
        options = [tag("option", _choice(t, field, each), value=each, selected=each == value) for each in choices]
        if field.optional:
            options.insert(0, tag("option", t("recipe.choice.default"), value="", selected=value == ""))
        return tag("select", *options, **shared)
    if field.kind == "names":
        rows = min(LONG, value.count("\n") + 1 + bool(value))
        return tag("textarea", value, rows=rows, spellcheck="false", wrap="off", **shared)
    mode = "text" if field.kind == "text" else "decimal"
    place = t("recipe.choice.default") if field.optional else None
    return tag(
        "input",
        type="text",
        inputmode=mode,
        value=value,
        placeholder=place,
        autocomplete="off",
        title=values_of(field),
        **shared,
    )


def _choice(t: Translator, field: Field, value: str) -> str:
    return t.known(f"recipe.choice.{field.name}.{value}", t.known(f"recipe.choice.{value}", NAMES.get(value, value)))


def _overrides(t: Translator, recipe: Recipe) -> Markup | None:
    """The groups beside the one that the form speaks of, each with a way to take it out."""
    others = _others_of(recipe)
    if not others:
        return None
    return tag("div", tag("h4", t("recipe.overrides")), *[_override(t, group) for group in others], cls="overrides")


def _of_group(t: Translator, recipe: Recipe) -> Markup | None:
    """Which of several groups the fields of schemes speak of."""
    main = main_group(recipe)
    if main is None or not _others_of(recipe):
        return None
    targets = t("list.comma").join((*main.targets[:3], *("…" for _ in main.targets[3:4])))
    return tag("p", t("recipe.of_group", group=main.name, targets=targets), cls="muted")


def _others_of(recipe: Recipe) -> list[QuantGroup]:
    main = main_group(recipe)
    return [group for group in recipe.groups if main is None or group.name != main.name]


def _override(t: Translator, group: QuantGroup) -> Markup:
    targets = t("list.comma").join(group.targets)
    words = scheme_words(group)
    hint = t("hint.recipe.remove")
    button = tag(
        "button", t("recipe.remove"), type="button", cls="icon-button", data_do="group", data_group=group.name, title=hint,
        aria_label=hint,
    )  # fmt: skip
    chip = scheme_chip(t, words) if words != FLOAT else tag("span", t("recipe.word.float"))
    return tag("div", clipped(targets, 44, cls="targets"), chip, button, cls="override", title=targets)
