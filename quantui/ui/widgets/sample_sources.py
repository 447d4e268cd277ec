"""The sources of a calibration file as a list, the form in which one is added or changed, and the choice of a file for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from quantui.calibration.presets import PRESETS
from quantui.calibration.schema import OPTIONS, Calibration, Source
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.sample_sources import PATHS, Entry, Form, options
from quantui.ui.widgets.facts import empty

Browsed = tuple[str, Sequence[Entry]]
"""A folder, and what in it can be gone into or chosen; "" is the list of allowed folders."""


def sources_list(
    t: Translator,
    calibration: Calibration,
    *,
    form: Form | None,
    form_said: Markup | None,
    said: Markup | None,
    wrong: Mapping[str, Markup],
    typed: Mapping[str, str],
    browsed: Browsed | None,
) -> Markup:
    """Every source with its weight and what can be done with it.

    Args:
        t: the language.
        calibration: whose sources.
        form: the source that is being added or changed.
        form_said: what is wrong with that.
        said: what could not be done with the list.
        wrong: what is wrong with a field, by its name.
        typed: what was typed into a field and refused.
        browsed: the folder that is looked into for a file.
    """
    last = len(calibration.sources) - 1
    rows = []
    for at, source in enumerate(calibration.sources):
        open_form = source_form(t, form, form_said, browsed) if form is not None and form.at == at else None
        rows.append(tag("li", _row(t, source, at, last, wrong, typed), open_form))
    added = source_form(t, form, form_said, browsed) if form is not None and form.at is None else _adder(t)
    words = tag("span", t("samples.field.sources"), cls="label", title=t("hint.samples.field.sources"))
    return tag("div", words, tag("ul", *rows), said, added, cls="setting sources")


def _row(t: Translator, source: Source, at: int, last: int, wrong: Mapping[str, Markup], typed: Mapping[str, str]) -> Markup:
    field = f"weight.{at}"
    shown = typed.get(field, f"{source.weight:g}" if source.weight is not None else "")
    hint = t("hint.samples.field.weight")
    weight = tag(
        "input", type="text", inputmode="decimal", data_field=field, data_value=shown, value=shown, aria_label=hint, title=hint,
        placeholder=t("samples.field.weight"), aria_invalid="true" if field in wrong else None, cls="weight",
    )  # fmt: skip
    name = tag("span", clipped(source.name, 30), title=str(source.path or source.name), cls="source-name")
    kind = tag("span", t(f"samples.source.kind.{source.kind}"), cls="muted")
    head = tag("div", name, tag("div", kind, weight, cls="source-facts"), cls="source-head")
    buttons = tag(
        "div",
        _button(t, "up", at, disabled=at == 0),
        _button(t, "down", at, disabled=at == last),
        _button(t, "edit", at, kind=source.kind),
        _button(t, "remove", at, disabled=last == 0),
        cls="sample-buttons",
    )
    return join(head, buttons, wrong.get(field))


def _button(t: Translator, name: str, at: int, *, disabled: bool = False, kind: str | None = None) -> Markup:
    hint = t(f"hint.samples.source.{name}")
    return tag(
        "button", t(f"samples.source.{name}"), type="button", cls="quiet", data_do=f"source-{name}", data_at=at, title=hint,
        aria_label=hint, disabled=disabled, data_kind=kind,
    )  # fmt: skip


def _adder(t: Translator) -> Markup:
    """The kinds of sources that can be added."""
    kinds = [
        tag("option", t(f"samples.source.kind.{kind}"), value=kind, title=t(f"hint.samples.source.{kind}")) for kind in OPTIONS
    ]
    first = tag("option", t("samples.source.add"), value="", selected=True)
    return tag("select", first, *kinds, data_cal="add", aria_label=t("samples.source.add"))


def source_form(t: Translator, form: Form, said: Markup | None, browsed: Browsed | None) -> Markup:
    """The options of one source."""
    needed, _ = OPTIONS[form.kind]
    first = [name for name in options(form.kind) if name == needed or (not needed and name in ("id", "preset"))]
    first += ["questions", "question"] if form.kind == "images" else []
    rest = [name for name in options(form.kind) if name not in first]
    more = tag(
        "details",
        tag("summary", t("samples.source.more")),
        *[_option(t, form, name, browsed) for name in rest],
        open=any(form.typed.get(name) not in (None, "", "true", "stop") for name in rest),
    )
    take = t("samples.source.take") if form.at is None else t("samples.source.apply")
    buttons = tag(
        "div",
        tag("button", take, type="button", cls="go", data_do="source-take"),
        tag("button", t("samples.leave"), type="button", cls="quiet", data_do="source-leave"),
        cls="editor-buttons",
    )  # fmt: skip
    title = tag("p", t(f"samples.source.kind.{form.kind}"), cls="source-title")
    about = tag("p", t(f"hint.samples.source.{form.kind}"), cls="muted")
    main = [_option(t, form, name, browsed) for name in first]
    parts = (title, about, *main, more if rest else None, said, buttons)
    at = "" if form.at is None else form.at
    return tag("div", *parts, cls="source-form", data_kind=form.kind, data_at=at)


def _option(t: Translator, form: Form, name: str, browsed: Browsed | None) -> Markup:
    value = form.typed.get(name, "")
    words = tag("span", t(f"samples.option.{name}"), title=t(f"hint.samples.option.{name}"))
    if name == "streaming":
        box = tag("input", type="checkbox", data_option=name, checked=value == "true")
        return tag("label", box, words, cls="check")
    if name == "texts":
        area = tag("textarea", f"\n{value}", data_option=name, rows=8, placeholder=t("samples.option.texts_place"))
        return tag("label", words, area)
    if name in ("on_bad", "preset"):
        return tag("label", words, _choice(t, name, value))
    place = {
        "question": Source.model_fields["question"].default,
        "split": "train[:256]",
        "columns": "image=picture, question=caption",
    }
    box = tag(
        "input", type="text", data_option=name, value=value, spellcheck="false", autocomplete="off",
        placeholder=place.get(name), inputmode="numeric" if name == "choose" else None,
    )  # fmt: skip
    if name not in PATHS:
        return tag("label", words, box)
    browse = tag("button", t("samples.browse"), type="button", cls="quiet", data_do="source-browse", data_name=name,
                 title=t("hint.samples.browse"))  # fmt: skip
    picker = _picker(t, form, browsed) if form.browsing == name and browsed is not None else None
    return join(tag("label", words, tag("span", box, browse, cls="path-box")), picker)


def _choice(t: Translator, name: str, value: str) -> Markup:
    if name == "preset":
        pairs = [("", t("samples.option.no_preset")), *((preset, preset) for preset in PRESETS)]
    else:
        pairs = [("stop", t("samples.option.on_bad.stop")), ("skip", t("samples.option.on_bad.skip"))]
    chosen = value or pairs[0][0]
    return tag("select", *[tag("option", shown, value=key, selected=key == chosen) for key, shown in pairs], data_option=name)


def _picker(t: Translator, form: Form, browsed: Browsed) -> Markup:
    """A folder to look into: what can be gone into, and what can be chosen."""
    folder, entries = browsed
    up = str(Path(folder).parent) if folder else ""
    head = tag(
        "div",
        tag("button", t("samples.browse.up"), type="button", cls="quiet", data_do="source-enter", data_path=up,
            title=t("hint.samples.browse.up"), disabled=not folder),
        tag("button", t("samples.browse.roots"), type="button", cls="quiet", data_do="source-enter", data_path=""),
        tag("code", clipped(folder, 40), title=folder) if folder else None,
        cls="browse-head",
    )  # fmt: skip
    lines = []
    for entry in entries:
        go = "source-enter" if entry.is_folder else "source-pick"
        mark = f"{entry.name}/" if entry.is_folder and folder else entry.name
        name = tag("button", clipped(mark, 34), type="button", cls="link", data_do=go, data_path=entry.path, title=entry.path)
        use = tag("button", t("samples.browse.use"), type="button", cls="quiet", data_do="source-pick", data_path=entry.path)
        lines.append(tag("li", name, use if entry.is_folder and entry.fits else None))
    body = tag("ul", *lines) if lines else empty(t("samples.browse.empty"))
    return tag("div", head, body, cls="browse", data_picker=form.browsing)
