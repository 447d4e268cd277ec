"""The Statistics tab: what calibration saw, layer by layer. Its parts are drawn by assets/statistics.js."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import gradio as gr

from quantui.ui import rail, statistics_page, statistics_tables
from quantui.ui.services import Services
from quantui.ui.shell import QUIET, Shell, still
from quantui.ui.widgets.statistics_bench import statistics_bench

NAME = "statistics"
LINK_JS = "quantuiStatistics.start(props, server, watch)"


class View(NamedTuple):
    """The tab's components: what is drawn, and the invisible one through which the browser asks."""

    tab: gr.Tab
    frame: gr.HTML
    link: gr.HTML


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    t = services.t
    with gr.Tab(t("tab.statistics"), id=NAME) as tab:
        frame = still(statistics_bench(t), elem_id="statistics")

        def answer(asked: dict[str, Any]) -> dict[str, Any]:
            return statistics_page.answer(services, asked)

        link = gr.HTML(
            "",
            html_template="",
            js_on_load=LINK_JS,
            server_functions=[answer],
            apply_default_css=False,
            elem_id="statistics-link",
        )
    return View(tab, frame, link)


def wire(view: View, shell: Shell, services: Services) -> None:
    """The browser is told of another model or calibration file, and of runs that have ended."""
    picked = {"model": shell.rail.model.choice, "calibration": shell.rail.calibration.choice}
    told: dict[str, Any] = {**QUIET, "inputs_kwargs": picked, "outputs": [view.link], "trigger_mode": "always_last"}
    for picker in picked.values():
        picker.change(services.bind(tell), **told)
    shell.monitor.runs(services.bind(tell), **told)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, calibration=now.calibration)


def tell(services: Services, *, model: str | None, calibration: str | None) -> str:
    """What is picked and which tables there are, for the browser."""
    made = [one.made for one in statistics_tables.tables(services.workspace)]
    return json.dumps({"model": model or "", "calibration": calibration or "", "tables": [len(made), max(made, default=0)]})
