"""The one line at the top: where you are, what runs, and how the page looks."""

from __future__ import annotations

import base64
import os

from quantui.devices import DeviceInfo
from quantui.jobs.tail import Snapshot
from quantui.ui import numbers
from quantui.ui.i18n import PAGES, Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.stages import share
from quantui.workspace import ASSETS, Workspace

TERMS = ("scale", "static", "per_tensor", "calibration", "kv_cache", "exact_match", "perplexity")
"""What the help explains, in this order."""


def header(t: Translator, workspace: Workspace) -> Markup:
    """The whole line; its two live slots are filled by the poller."""
    brand = tag("a", tag("img", src=_logo(), alt="", width=22, height=22), t("app.name"), cls="brand", href="./")
    where = join(tag("span", t("header.workspace"), cls="label"), clipped(workspace.root.name, 32))
    return tag(
        "header",
        brand,
        tag("span", where, cls="workspace", title=str(workspace.root)),
        tag("span", cls="slot", data_live="device"),
        tag("span", cls="slot grow", data_live="running"),
        tag("span", t("header.offline"), cls="offline", role="status"),
        _languages(t),
        _icon(tag("i", cls="moon", aria_hidden="true"), "theme", t("header.theme")),
        _icon(t("header.help_mark"), "help", t("header.help")),
        _help(t),
        cls="topbar",
    )


def device_label(t: Translator, device: DeviceInfo) -> str:
    """What a device is called: its maker's name for it, the processor in the page's language."""
    return t.count("device.cpu", os.cpu_count() or 1) if device.name == "cpu" else device.label


def device_chip(t: Translator, device: DeviceInfo) -> Markup:
    """ "CPU, 8 cores · 12.3 GB free"."""
    free = t("header.free", size=numbers.size(device.free_bytes)) if device.total_bytes else None
    of = t("header.of", size=numbers.size(device.total_bytes)) if device.total_bytes else None
    label = tag("span", t("header.device"), cls="label")
    return join(label, clipped(device_label(t, device), 32), tag("span", free, cls="muted", title=of))


def running_chip(t: Translator, snapshot: Snapshot, waiting: int) -> Markup:
    """The job that runs, its stage and how far it is; a click opens it."""
    stage = next((s for s in snapshot.stages if s.state == "running"), None)
    done = share(stage.progress) if stage else None
    name = t.known(f"stage.name.{stage.name}", stage.name) if stage else t(f"state.{snapshot.run.state}")
    more = t("header.waiting", n=waiting) if waiting else None
    return tag(
        "button",
        tag("i", cls="mark", aria_hidden="true"),
        clipped(snapshot.run.spec.name, 36),
        tag("span", name, cls="muted"),
        tag("span", tag("i", style=f"width:{done * 100:.0f}%"), cls="bar") if done is not None else None,
        tag("span", more, cls="muted") if more else None,
        type="button",
        cls="running-chip",
        data_act="open",
        data_run=snapshot.run.id,
        title=t("header.open_run"),
    )


def _logo() -> str:
    return f"data:image/svg+xml;base64,{base64.b64encode((ASSETS / 'logo.svg').read_bytes()).decode()}"


def _icon(content: str, act: str, label: str) -> Markup:
    return tag("button", content, type="button", cls="icon", data_act=act, title=label, aria_label=label)


def _languages(t: Translator) -> Markup:
    links = [
        tag("a", t(f"language.{lang}"), href=f"?lang={lang}", data_act="language", data_lang=lang, lang=lang,
            aria_current="true" if lang == t.lang else None)
        for lang in PAGES
    ]  # fmt: skip
    return tag("nav", *links, cls="languages", aria_label=t("header.language"))


def _help(t: Translator) -> Markup:
    steps = [tag("li", t(f"help.step.{n}")) for n in (1, 2, 3, 4)]
    terms = [tag("div", tag("dt", t(f"term.{name}")), tag("dd", t(f"hint.{name}")), cls="fact") for name in TERMS]
    return tag(
        "dialog",
        tag("h2", t("help.title")),
        tag("ol", *steps),
        tag("h3", t("help.terms")),
        tag("dl", *terms, cls="facts terms"),
        tag("form", tag("button", t("help.close"), cls="quiet"), method="dialog"),
        cls="help",
        data_dialog="help",
    )
