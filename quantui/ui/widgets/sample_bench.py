"""The frame of the Calibration tab and its form; assets/calibration.js fills the frame and follows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from quantui.calibration.schema import Calibration
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.facts import empty

LONG = ("truncate", "windows", "drop")


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
        tag("button", t("samples.save"), type="button", cls="go", data_do="save", title=t("hint.samples.save"), disabled=True),
        tag("button", t("samples.use"), type="button", cls="quiet", data_do="use", title=t("hint.samples.use")),
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


def form(t: Translator, calibration: Calibration, wrong: Mapping[str, Markup], typed: Mapping[str, str]) -> Markup:
    """The settings of the file, what is wrong with one under it, and where its samples come from."""
    sources = [
        tag(
            "li",
            tag("span", clipped(source.name, 30), title=str(source.path or source.name)),
            tag("span", source.kind, cls="muted"),
        )
        for source in calibration.sources
    ]
    return join(
        _number(t, "samples", calibration.samples, wrong, typed),
        _number(t, "max_tokens", calibration.max_tokens, wrong, typed),
        _long(t, calibration, wrong),
        _shuffle(t, calibration),
        _number(t, "seed", calibration.seed, wrong, typed, disabled=not calibration.shuffle),
        tag("div", tag("span", t("samples.field.sources"), cls="label"), tag("ul", *sources), cls="setting sources"),
    )


def _number(
    t: Translator, name: str, value: int, wrong: Mapping[str, Markup], typed: Mapping[str, str], *, disabled: bool = False
) -> Markup:
    shown = typed.get(name, str(value))
    box = tag(
        "input", type="text", inputmode="numeric", data_field=name, data_value=shown, value=shown, disabled=disabled,
        aria_invalid="true" if name in wrong else None,
    )  # fmt: skip
    return _field(t, name, box, wrong.get(name))


def _long(t: Translator, calibration: Calibration, wrong: Mapping[str, Markup]) -> Markup:
    options = [tag("option", t(f"samples.long.{name}"), value=name, selected=name == calibration.long) for name in LONG]
    box = tag("select", *options, data_field="long", data_value=calibration.long, disabled=calibration.pack)
    return _field(t, "long", box, wrong.get("long"))


def _shuffle(t: Translator, calibration: Calibration) -> Markup:
    on = calibration.shuffle
    box = tag("input", type="checkbox", data_field="shuffle", data_value=str(on).lower(), checked=on)
    words = tag("span", t("samples.field.shuffle"), title=t("hint.samples.field.shuffle"))
    return tag("div", tag("label", box, words, cls="check"), cls="setting")


def _field(t: Translator, name: str, box: Markup, wrong: Markup | None) -> Markup:
    words = tag("span", t(f"samples.field.{name}"), title=t(f"hint.samples.field.{name}"))
    return tag("div", tag("label", words, box), wrong, cls="setting")
