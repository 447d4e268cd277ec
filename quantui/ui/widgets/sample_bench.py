"""The frame of the Calibration tab and its form; assets/calibration.js fills the frame and follows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quantui.calibration.schema import Calibration
from quantui.calibration.template import PLAIN
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.sample_settings import LANGUAGES, OTHER, OWN
from quantui.ui.widgets.facts import empty

LONG = ("truncate", "windows", "drop")
DEDUPE = ("auto", "yes", "no")
RARE = ("pack", "dedupe", "language", "template", "template_text")
"""Fields that stand under More."""


def sample_bench(t: Translator) -> Markup:
    """Everything of the tab that does not change: settings, samples, the set."""
    left = tag(
        "section",
        tag("div", data_part="title"),
        tag("div", data_part="form", cls="settings"),
        _steps(t),
        _save(t),
        cls="panel samples-settings",
    )
    toggle = tag(
        "label",
        tag("input", type="checkbox", data_cal="boundaries"),
        t("samples.boundaries"),
        title=t("hint.samples.boundaries"),
    )
    middle = tag(
        "section",
        tag(
            "header",
            tag("h2", t("samples.title")),
            tag("span", data_part="count", cls="muted"),
            tag("div", toggle, cls="extra"),
        ),
        tag("div", empty(t("samples.loading")), data_part="list", cls="sample-list"),
        tag("button", t("samples.more"), type="button", cls="quiet more-samples", data_do="more", hidden=True),
        cls="panel samples-list",
    )
    right = tag(
        "section",
        tag(
            "header", tag("h2", t("samples.set.title")), tag("span", t("samples.counting"), cls="muted counting", role="status")
        ),
        tag("div", data_part="facts", cls="set-facts"),
        cls="panel samples-set",
    )
    return tag("div", left, middle, right, cls="bench samples-bench", data_cal="root")


def _steps(t: Translator) -> Markup:
    buttons = [
        tag(
            "button",
            t(f"samples.{name}"),
            type="button",
            cls="quiet",
            data_do=name,
            title=t(f"hint.samples.{name}"),
            disabled=True,
        )
        for name in ("undo", "revert")
    ]
    return tag("div", *buttons, cls="samples-steps")


def _save(t: Translator) -> Markup:
    name = tag("input", type="text", spellcheck="false", autocomplete="off", data_cal="name")
    return tag(
        "div",
        tag("label", tag("span", t("samples.name"), title=t("hint.samples.name")), name),
        tag("div", data_part="name"),
        tag(
            "div",
            tag(
                "button",
                t("samples.save"),
                type="button",
                cls="go",
                data_do="save",
                title=t("hint.samples.save"),
                disabled=True,
            ),
            tag("button", t("samples.use"), type="button", cls="quiet", data_do="use", title=t("hint.samples.use")),
            cls="save-row",
        ),
        cls="samples-save",
    )


def title(t: Translator, path: str, changed: bool) -> Markup:
    """Which file it is, and whether what is seen is what it holds."""
    file = Path(path)
    name = file.parent.name if file.stem == "calibration" else file.stem
    state = t("samples.changed") if changed else t("samples.unchanged")
    mark = tag("i", cls="dot") if changed else None
    told = tag("span", mark, state, role="status", title=t("hint.samples.changed") if changed else None,
               cls="unsaved" if changed else "muted")  # fmt: skip
    return join(tag("h2", clipped(name, 28), title=path), tag("p", told, cls="samples-state"))


def form(
    t: Translator,
    calibration: Calibration,
    wrong: Mapping[str, Markup],
    typed: Mapping[str, str],
    sources: Markup,
) -> Markup:
    """The settings of the file, what is wrong with one under it, and where its samples come from."""
    rare = tag(
        "details",
        tag("summary", t("samples.more_settings")),
        _check(t, "pack", calibration.pack, wrong),
        _select(t, "dedupe", {None: "auto", True: "yes", False: "no"}[calibration.dedupe], DEDUPE, wrong),
        _languages(t, calibration, wrong, typed),
        _template(t, calibration, wrong, typed),
        open=bool(calibration.pack or calibration.template or calibration.languages or calibration.dedupe is not None
                  or any(name.partition(".")[0] in RARE for name in wrong)),
    )  # fmt: skip
    return join(
        _number(t, "samples", calibration.samples, wrong, typed),
        _number(t, "max_tokens", calibration.max_tokens, wrong, typed),
        _select(t, "long", calibration.long, LONG, wrong, disabled=calibration.pack),
        _check(t, "shuffle", calibration.shuffle, wrong),
        _number(t, "seed", calibration.seed, wrong, typed, disabled=not calibration.shuffle),
        sources,
        rare,
    )


def _languages(t: Translator, calibration: Calibration, wrong: Mapping[str, Markup], typed: Mapping[str, str]) -> Markup:
    """Shares of English, Chinese and code, each empty where none is asked for."""
    boxes, said = [], []
    shares: dict[str, float] = {str(name): share for name, share in (calibration.languages or {}).items()}
    for language in LANGUAGES:
        name, share = f"language.{language}", shares.get(language)
        shown = typed.get(name, "" if share is None else f"{share:g}")
        box = tag(
            "input", type="text", inputmode="decimal", data_field=name, data_value=shown, value=shown,
            aria_invalid="true" if name in wrong else None,
        )  # fmt: skip
        boxes.append(tag("label", tag("span", t(f"samples.language.{language}")), box))
        said.append(wrong.get(name))
    words = tag("span", t("samples.field.languages"), cls="label", title=t("hint.samples.field.languages"))
    return tag("div", words, tag("div", *boxes, cls="language-shares"), *said, cls="setting")


def _template(t: Translator, calibration: Calibration, wrong: Mapping[str, Markup], typed: Mapping[str, str]) -> Markup:
    """The model's own template, plain lines, or another: its text, or the file it is in."""
    template = calibration.template
    chosen = OWN if template is None else template if template == PLAIN else OTHER
    choice = _select(t, "template", chosen, (OWN, PLAIN, OTHER), wrong)
    if chosen != OTHER:
        return choice
    shown = typed.get("template_text", template or "")
    area = tag(
        "textarea", f"\n{shown}", data_field="template_text", data_value=shown, rows=6, spellcheck="false",
        aria_label=t("samples.template.text"), title=t("hint.samples.template.text"),
        aria_invalid="true" if "template_text" in wrong else None,
    )  # fmt: skip
    return join(choice, tag("div", area, wrong.get("template_text"), cls="setting"))


def _number(
    t: Translator, name: str, value: int, wrong: Mapping[str, Markup], typed: Mapping[str, str], *, disabled: bool = False
) -> Markup:
    shown = typed.get(name, str(value))
    box = tag(
        "input", type="text", inputmode="numeric", data_field=name, data_value=shown, value=shown, disabled=disabled,
        aria_invalid="true" if name in wrong else None,
    )  # fmt: skip
    return _field(t, name, box, wrong.get(name))


def _select(
    t: Translator, name: str, chosen: str, values: Sequence[str], wrong: Mapping[str, Markup], *, disabled: bool = False
) -> Markup:
    options = [tag("option", t(f"samples.{name}.{value}"), value=value, selected=value == chosen) for value in values]
    return _field(t, name, tag("select", *options, data_field=name, data_value=chosen, disabled=disabled), wrong.get(name))


def _check(t: Translator, name: str, on: bool, wrong: Mapping[str, Markup]) -> Markup:
    box = tag("input", type="checkbox", data_field=name, data_value=str(on).lower(), checked=on)
    words = tag("span", t(f"samples.field.{name}"), title=t(f"hint.samples.field.{name}"))
    return tag("div", tag("label", box, words, cls="check"), wrong.get(name), cls="setting")


def _field(t: Translator, name: str, box: Markup, wrong: Markup | None) -> Markup:
    words = tag("span", t(f"samples.field.{name}"), title=t(f"hint.samples.field.{name}"))
    return tag("div", tag("label", words, box), wrong, cls="setting")
