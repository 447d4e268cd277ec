"""The Quantize tab: what a run will give, starting it, and following it to its result."""

from __future__ import annotations

from typing import Any, NamedTuple, Unpack

import gradio as gr

from quantui import devices
from quantui.errors import InputError
from quantui.jobs import preflight
from quantui.ui import notes, numbers, rail
from quantui.ui.choices import Choices, concern, free_name, prepare, settled
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag
from quantui.ui.services import Services
from quantui.ui.shell import QUIET, Shell, still
from quantui.ui.widgets.facts import empty, panel, problem
from quantui.ui.widgets.forecast import forecast_table
from quantui.ui.widgets.header import device_label
from quantui.ui.widgets.log import log_view

NAME = "quantize"


class View(NamedTuple):
    """The tab's components."""

    tab: gr.Tab
    out: gr.Textbox
    out_note: gr.HTML
    device: gr.Dropdown
    device_note: gr.HTML
    statistics: gr.Checkbox
    trust: gr.Checkbox
    forecast: gr.HTML
    run: gr.Button


class Seen(NamedTuple):
    """What the page shows for one set of choices; `_seen` lists the components in the same order."""

    model_note: Markup
    calibration_note: Markup
    recipe_note: Markup
    out_note: Markup
    device_note: Markup
    forecast: Markup
    run: Any


def layout(t: Translator) -> View:
    """Choose on the left, see in the middle, everything that ran on the right."""
    with gr.Tab(t("tab.quantize"), id=NAME) as tab, gr.Row(elem_id="quantize"):
        with gr.Column(elem_id="q-setup"):
            still(tag("h2", t("setup.title")))
            forecast = still(elem_id="forecast")
            out = gr.Textbox(label=t("setup.out"), elem_id="out-name", max_lines=1)
            out_note = still(elem_id="note-out", elem_classes="note")
            device = gr.Dropdown(device_choices(t), value="auto", label=t("setup.device"), filterable=False, elem_id="device")
            device_note = still(elem_id="note-device", elem_classes="note")
            statistics = gr.Checkbox(
                value=True, label=t("setup.statistics"), info=t("hint.setup.statistics"), elem_id="with-statistics"
            )
            trust = gr.Checkbox(label=t("setup.trust"), info=t("hint.trust"), elem_id="trust")
            run = gr.Button(t("setup.run"), variant="primary", elem_id="run-button", interactive=False)
        with gr.Column(elem_id="q-run"):
            still(tag("section", empty(t("run.loading")), data_live="run", cls="panel run"))
            still(log_view(t), elem_id="q-log")
        with gr.Column(elem_id="q-jobs"):
            still(panel(t("jobs.title"), tag("div", data_live="jobs")))
    return View(tab, out, out_note, device, device_note, statistics, trust, forecast, run)


def wire(view: View, shell: Shell, services: Services) -> None:
    """Every change asks for a new look; the button starts what was looked at."""
    model, calibration, recipe, _ = shell.rail
    chosen = {
        "model": model.choice,
        "calibration": calibration.choice,
        "recipe": recipe.choice,
        "out": view.out,
        "device": view.device,
        "statistics": view.statistics,
        "trust": view.trust,
    }
    seen = _seen(view, shell)
    latest: dict[str, Any] = {**QUIET, "inputs_kwargs": chosen, "trigger_mode": "always_last"}
    model.choice.input(services.bind(choose_model), outputs=[calibration.choice, view.out, *seen], **latest)
    calibration.choice.input(services.bind(choose), outputs=[view.out, *seen], **latest)
    recipe.choice.input(services.bind(choose), outputs=[view.out, *seen], **latest)
    # A Textbox tells of typing through `input`, but of pasting only through `change`.
    for changed in (view.out.change, view.device.input, view.trust.input):
        changed(services.bind(look), outputs=seen, **latest)
    sent = {**QUIET, "inputs_kwargs": chosen | {"model": shell.courier}}
    shell.courier.use(services.bind(use), outputs=[model.choice, calibration.choice, view.out, *seen], **sent)
    made = {**QUIET, "inputs_kwargs": chosen | {"recipe": shell.courier}}
    shell.courier.recipe(services.bind(pick_recipe), outputs=[recipe.choice, view.out, *seen], **made)
    saved = {**QUIET, "inputs_kwargs": chosen | {"calibration": shell.courier}}
    shell.courier.calibration(services.bind(pick_calibration), outputs=[calibration.choice, view.out, *seen], **saved)
    view.run.click(services.bind(start), outputs=[shell.monitor, view.out, *seen], **QUIET, inputs_kwargs=chosen)


def arrivals(view: View, shell: Shell) -> list[Any]:
    """What `arrive` fills, in its order."""
    pickers = [picker.choice for picker in shell.rail[:3]]
    return [*pickers, view.out, view.device, view.trust, *_seen(view, shell)]


def _seen(view: View, shell: Shell) -> list[Any]:
    notes_of_rail = [picker.note for picker in shell.rail[:3]]
    return [*notes_of_rail, view.out_note, view.device_note, view.forecast, view.run]


def device_choices(t: Translator) -> list[rail.Choice]:
    """The devices of this machine, "auto" first."""
    found = devices.describe()
    choices = [(t("setup.auto", label=device_label(t, found[0])), "auto")]
    for device in found:
        free = t("header.free", size=numbers.size(device.free_bytes)) if device.free_bytes else ""
        choices.append((t("list.comma").join(part for part in (device_label(t, device), free) if part), device.name))
    return choices


def arrive(services: Services) -> tuple[Any, ...]:
    """The page opens: the pickers as they were left, the folders as they are now."""
    workspace = services.workspace
    now = rail.load(workspace)
    choices: Choices = {
        "model": now.model,
        "calibration": now.calibration,
        "recipe": now.recipe,
        "out": "",
        "device": "auto",
        "statistics": True,
        "trust": False,
    }
    choices["out"] = free_name(services, choices)
    pickers = (
        gr.update(choices=rail.with_value(rail.models(workspace), now.model), value=now.model or None),
        gr.update(choices=rail.with_value(rail.calibrations(workspace), now.calibration), value=now.calibration or None),
        gr.update(choices=rail.with_value(rail.recipes(workspace), now.recipe), value=now.recipe or None),
    )
    device = gr.update(choices=device_choices(services.t), value="auto")
    return (*pickers, choices["out"], device, False, *look(services, **choices))


def choose_model(services: Services, **choices: Unpack[Choices]) -> tuple[Any, ...]:
    """Another model was picked: the calibration data that goes with it is picked too."""
    workspace = services.workspace
    calibration = rail.matching_calibration(workspace, choices["model"] or "", choices["calibration"] or "")
    offered = rail.with_value(rail.calibrations(workspace), calibration)
    changed: Choices = {**choices, "calibration": calibration}
    return (gr.update(choices=offered, value=calibration or None), *choose(services, **changed))


def use(services: Services, **choices: Unpack[Choices]) -> tuple[Any, ...]:
    """A model was sent here from elsewhere in the page: picked as if by hand."""
    offered = rail.with_value(rail.models(services.workspace), choices["model"])
    return (gr.update(choices=offered, value=choices["model"]), *choose_model(services, **choices))


def pick_recipe(services: Services, **choices: Unpack[Choices]) -> tuple[Any, ...]:
    """A recipe was opened or saved elsewhere in the page: picked as if by hand."""
    offered = rail.with_value(rail.recipes(services.workspace), choices["recipe"])
    return (gr.update(choices=offered, value=choices["recipe"]), *choose(services, **choices))


def pick_calibration(services: Services, **choices: Unpack[Choices]) -> tuple[Any, ...]:
    """Calibration data was saved elsewhere in the page: picked as if by hand."""
    offered = rail.with_value(rail.calibrations(services.workspace), choices["calibration"])
    return (gr.update(choices=offered, value=choices["calibration"]), *choose(services, **choices))


def choose(services: Services, **choices: Unpack[Choices]) -> tuple[Any, ...]:
    """Something was picked in the rail: remembered, the output named after it, and looked at."""
    now = settled(choices)
    rail.remember(services.workspace, model=now["model"], calibration=now["calibration"], recipe=now["recipe"])
    now["out"] = free_name(services, now)
    return (now["out"], *look(services, **now))


def look(services: Services, **choices: Unpack[Choices]) -> Seen:
    """What these choices would give, or what is wrong with them beside the one it concerns."""
    t, workspace = services.t, services.workspace
    now = settled(choices)
    wrong: dict[str, Markup] = {}
    try:
        forecast = forecast_table(t, preflight.forecast(prepare(services, now)))
    except InputError as error:
        concerned = concern(error, now)
        wrong[concerned] = notes.model_problem(t, workspace, now["model"], error) if concerned == "model" else problem(t, error)
        forecast = empty(t("forecast.blocked"))
    return Seen(
        wrong.get("model") or notes.model_note(t, workspace, now["model"]),
        wrong.get("calibration") or notes.calibration_note(t, workspace, now["calibration"]),
        wrong.get("recipe") or notes.recipe_note(t, workspace, now["recipe"]),
        wrong.get("out") or notes.out_note(workspace, now["out"]),
        wrong.get("device") or Markup(),
        forecast,
        gr.update(interactive=not wrong),
    )


def start(services: Services, **choices: Unpack[Choices]) -> tuple[Any, ...]:
    """Starts the run and opens it; what is wrong by now is shown in place instead."""
    now = settled(choices)
    try:
        run = services.submit(prepare(services, now))
    except InputError:
        return (gr.skip(), gr.skip(), *look(services, **now))
    rail.remember(services.workspace, run=run.id)
    # The new output name is a change of its own, which looks again; the run is opened without waiting for that.
    return (run.id, free_name(services, now), *[gr.skip() for _ in Seen._fields])
