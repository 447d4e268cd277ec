"""What stands around every tab: the header, the rail with its four pickers, and the monitor that keeps the page true."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from quantui.ui import live, notes, rail
from quantui.ui.markup import tag
from quantui.ui.services import Services
from quantui.ui.widgets.header import header

MONITOR_JS = "quantui.start(element, trigger, props, server, watch); /* its events: 'opened' 'runs' */"
"""Gradio finds the names of a component's own events in this text."""


COURIER_JS = "quantui.carry(trigger, props); /* its events: 'use' 'convert' 'recipe' 'calibration' */"

QUIET: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
"""Events of ours answer at once, without a spinner, and are no public API."""


class Picker(NamedTuple):
    """A dropdown of the rail and the line under it: a summary of what is picked, or what is wrong with it."""

    choice: gr.Dropdown
    note: gr.HTML


class RailView(NamedTuple):
    """The pickers every tab reads."""

    model: Picker
    calibration: Picker
    recipe: Picker
    run: Picker


class Shell(NamedTuple):
    """The parts other parts wire to.

    `monitor` holds the id of the run that is opened in this browser; `courier` the path that a button inside HTML was
    pressed for, to `use` that model in the Quantize tab, to `convert` that folder, or to pick that `recipe` or `calibration`.
    """

    rail: RailView
    monitor: gr.HTML
    courier: gr.HTML


def still(value: str = "", **options: Any) -> gr.HTML:
    """HTML that is only looked at: no default styles, no click event."""
    return gr.HTML(value, apply_default_css=False, js_on_load=None, **options)


def layout_header(services: Services) -> None:
    """The line at the top."""
    still(header(services.t, services.workspace), elem_id="q-header")


def layout_rail(services: Services) -> RailView:
    """The four pickers, one under the other, on what was picked last."""
    t, workspace = services.t, services.workspace
    picked = rail.load(workspace)
    listed = services.store.list()
    models = rail.with_value(rail.models(workspace), picked.model)
    calibrations = rail.with_value(rail.calibrations(workspace), picked.calibration)
    recipes = rail.with_value(rail.recipes(workspace), picked.recipe)
    run = live.default_run(services, listed)
    return RailView(
        _picker("model", t("rail.model"), models, picked.model, notes.model_note(t, workspace, picked.model)),
        _picker("calibration", t("rail.calibration"), calibrations, picked.calibration,
                notes.calibration_note(t, workspace, picked.calibration)),
        _picker("recipe", t("rail.recipe"), recipes, picked.recipe, notes.recipe_note(t, workspace, picked.recipe)),
        _picker("run", t("rail.run"), rail.runs(t, listed), run, tag("div", data_live="run-note"), custom=False),
    )  # fmt: skip


def _picker(name: str, label: str, choices: list[rail.Choice], value: str, note: str, *, custom: bool = True) -> Picker:
    choice = gr.Dropdown(
        choices,
        value=value or None,
        label=label,
        allow_custom_value=custom,
        elem_id=f"rail-{name}",
        elem_classes="picker",
        interactive=True,
        num_choices_shown=200,
    )
    return Picker(choice, still(note, elem_id=f"note-{name}", elem_classes="note"))


def layout_monitor(services: Services) -> gr.HTML:
    """An invisible component: the browser's side of `live`, and the way its events reach Python."""

    def answer(asked: dict[str, Any]) -> dict[str, Any]:
        return live.answer(services, asked)

    def cancel(run: str) -> dict[str, str]:
        return live.cancel(services, run)

    def export(asked: dict[str, str]) -> dict[str, str]:
        return live.export(services, asked["run"], asked["format"])

    return gr.HTML(
        "",
        html_template="",
        js_on_load=MONITOR_JS,
        server_functions=[answer, cancel, export],
        apply_default_css=False,
        elem_id="q-monitor",
    )


def layout_courier() -> gr.HTML:
    """An invisible component: how a button that is drawn as HTML reaches a handler in Python."""
    return gr.HTML("", html_template="", js_on_load=COURIER_JS, apply_default_css=False, elem_id="q-courier")


def wire(shell: Shell, services: Services) -> None:
    """Keeps the Run picker and the opened run the same."""
    picker = shell.rail.run.choice
    shell.monitor.opened(services.bind(open_run), inputs_kwargs={"run": shell.monitor}, outputs=[picker], **QUIET)
    shell.monitor.runs(services.bind(list_runs), inputs_kwargs={"run": shell.monitor}, outputs=[picker], **QUIET)
    picker.input(services.bind(pick_run), inputs_kwargs={"run": picker}, outputs=[shell.monitor], **QUIET)


def open_run(services: Services, *, run: str) -> Any:
    """A run was opened in the page: remembered, and shown in its picker."""
    rail.remember(services.workspace, run=run)
    return list_runs(services, run=run)


def list_runs(services: Services, *, run: str) -> Any:
    """The list of runs has changed."""
    choices = rail.runs(services.t, services.store.list())
    return gr.update(choices=choices, value=run if run in (value for _, value in choices) else None)


def pick_run(services: Services, *, run: str | None) -> str:
    """A run was picked: remembered, and opened through the monitor."""
    rail.remember(services.workspace, run=run or "")
    return run or ""
