"""The Layers tab: what every layer costs, and the choice made on the picture. Its parts are drawn by assets/sensitivity.js."""

from __future__ import annotations

from quantui.ui import linked, rail, sensitivity_page
from quantui.ui.linked import View
from quantui.ui.services import Services
from quantui.ui.shell import Shell
from quantui.ui.widgets.sensitivity_bench import sensitivity_bench

NAME = "layers"


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    return linked.layout(services, NAME, sensitivity_bench(services.t), sensitivity_page.answer, "quantuiSensitivity")


def wire(view: View, shell: Shell, services: Services) -> None:
    """The browser is told of another model, calibration file or recipe, and of runs that have ended."""
    pickers = {"model": shell.rail.model, "calibration": shell.rail.calibration, "recipe": shell.rail.recipe}
    linked.wire(view, services, pickers, tell, shell.monitor.runs)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, calibration=now.calibration, recipe=now.recipe)


def tell(services: Services, *, model: str | None, calibration: str | None, recipe: str | None) -> str:
    """What is picked and how many jobs there are, for the browser."""
    ended = sum(run.spec.kind == "sensitivity" and run.state not in ("queued", "running") for run in services.store.list())
    return linked.told(model=model, calibration=calibration, recipe=recipe, ended=str(ended))
