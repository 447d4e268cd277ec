"""The Calibration tab: the settings of the file, every sample as the model gets it, and the set in numbers.

As in the Recipe tab the parts are drawn by a script of its own, assets/calibration.js, from what `sample_page.answer` tells.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import gradio as gr

from quantui.ui import rail, sample_page
from quantui.ui.services import Services
from quantui.ui.shell import QUIET, Shell, still
from quantui.ui.widgets.sample_bench import sample_bench

NAME = "calibration"
LINK_JS = "quantuiCalibration.start(props, server, watch)"


class View(NamedTuple):
    """The tab's components: what is drawn, and the invisible one through which the browser asks."""

    tab: gr.Tab
    frame: gr.HTML
    link: gr.HTML


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    t = services.t
    with gr.Tab(t("tab.calibration"), id=NAME) as tab:
        frame = still(sample_bench(t), elem_id="calibration")

        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            return sample_page.answer(services, asked)

        link = gr.HTML(
            "",
            html_template="",
            js_on_load=LINK_JS,
            server_functions=[answer],
            apply_default_css=False,
            elem_id="calibration-link",
        )
    return View(tab, frame, link)


def wire(view: View, shell: Shell, services: Services) -> None:
    """Whatever the rail picks is told to the browser, which asks what it means."""
    pickers = {"model": shell.rail.model, "calibration": shell.rail.calibration, "recipe": shell.rail.recipe}
    picked = {name: picker.choice for name, picker in pickers.items()}
    told: dict[str, Any] = {**QUIET, "inputs_kwargs": picked, "outputs": [view.link], "trigger_mode": "always_last"}
    for picker in picked.values():
        picker.change(services.bind(tell), **told)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, calibration=now.calibration, recipe=now.recipe)


def tell(services: Services, *, model: str | None, calibration: str | None, recipe: str | None) -> str:
    """What is picked, for the browser."""
    return json.dumps({"model": model or "", "calibration": calibration or "", "recipe": recipe or ""})
