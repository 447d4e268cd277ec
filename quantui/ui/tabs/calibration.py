"""The Calibration tab: the settings and sources of the file, every sample as the model gets it, and the set in numbers.

Its parts are drawn by assets/calibration.js from what `sample_page.answer` tells.
"""

from __future__ import annotations

from quantui.ui import linked, rail, sample_page
from quantui.ui.linked import View
from quantui.ui.services import Services
from quantui.ui.shell import Shell
from quantui.ui.widgets.sample_bench import sample_bench

NAME = "calibration"


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    return linked.layout(services, NAME, sample_bench(services.t), sample_page.answer, "quantuiCalibration")


def wire(view: View, shell: Shell, services: Services) -> None:
    """The browser is told of another model, calibration file or recipe."""
    pickers = {"model": shell.rail.model, "calibration": shell.rail.calibration, "recipe": shell.rail.recipe}
    linked.wire(view, services, pickers, tell)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, calibration=now.calibration, recipe=now.recipe)


def tell(services: Services, *, model: str | None, calibration: str | None, recipe: str | None) -> str:
    """What is picked, for the browser."""
    return linked.told(model=model, calibration=calibration, recipe=recipe)
