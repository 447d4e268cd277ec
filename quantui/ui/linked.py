"""A tab whose parts a script of its own draws: what the browser asks for, what is sent back, and what the rail tells it.

Gradio's own components are not used in such a tab, since its fields come and go and its texts and tables have any length. An
invisible component is the link: its server function answers, and its value is what is picked.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gradio as gr

from quantui.ui.markup import Markup
from quantui.ui.services import Services
from quantui.ui.shell import QUIET, Picker, still

Answer = Callable[[Services, Mapping[str, Any]], dict[str, Any]]


class View(NamedTuple):
    """The tab's components: what is drawn, and the invisible one through which the browser asks."""

    tab: gr.Tab
    frame: gr.HTML
    link: gr.HTML


def layout(services: Services, name: str, frame: Markup, answer: Answer, script: str) -> View:
    """The frame, and the link behind it.

    Args:
        services: whose workspace and which language.
        name: of the tab, which is also its key and the id of its frame.
        frame: what does not change.
        answer: does what the browser asks for and says what came of it.
        script: the object of the tab's script that is started with the link.
    """
    with gr.Tab(services.t(f"tab.{name}"), id=name) as tab:
        still_frame = still(frame, elem_id=name)

        def ask(asked: dict[str, Any]) -> dict[str, Any]:
            return answer(services, asked)

        ask.__name__ = "answer"  # what the script calls it
        link = gr.HTML(
            "",
            html_template="",
            js_on_load=f"{script}.start(props, server, watch)",
            server_functions=[ask],
            apply_default_css=False,
            elem_id=f"{name}-link",
        )
    return View(tab, still_frame, link)


def wire(
    view: View,
    services: Services,
    pickers: Mapping[str, Picker],
    tell: Callable[..., str],
    runs: Callable[..., object] | None = None,
) -> None:
    """Whatever the rail picks is told to the browser, which asks what it means.

    Args:
        view: the tab's components.
        services: whose workspace and which language.
        pickers: of the rail, by the names that `tell` gives them.
        tell: what is told.
        runs: the monitor's event of runs that change, where the tab shows what they leave.
    """
    picked = {name: picker.choice for name, picker in pickers.items()}
    told: dict[str, Any] = {**QUIET, "inputs_kwargs": picked, "outputs": [view.link], "trigger_mode": "always_last"}
    for choice in picked.values():
        choice.change(services.bind(tell), **told)
    if runs is not None:
        runs(services.bind(tell), **told)


def told(**picked: str | None) -> str:
    """What is picked, for the browser."""
    return json.dumps({name: value or "" for name, value in picked.items()})


def changed(parts: Mapping[str, Markup], have: object) -> dict[str, Any]:
    """Those parts that the browser does not show yet, and the digests of all.

    Args:
        parts: by name.
        have: digests of what it shows.
    """
    digests = {name: zlib.crc32(html.encode("utf-8", "replace")) for name, html in parts.items()}
    known = have if isinstance(have, dict) else {}
    return {"parts": {name: html for name, html in parts.items() if known.get(name) != digests[name]}, "digests": digests}
