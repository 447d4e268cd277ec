"""The Statistics tab: what calibration saw, layer by layer. Its parts are drawn by assets/statistics.js."""

from __future__ import annotations

import json

from quantui.ui import linked, rail, statistics_page, statistics_tables
from quantui.ui.linked import View
from quantui.ui.services import Services
from quantui.ui.shell import Shell
from quantui.ui.widgets.statistics_bench import statistics_bench

NAME = "statistics"


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    return linked.layout(services, NAME, statistics_bench(services.t), statistics_page.answer, "quantuiStatistics")


def wire(view: View, shell: Shell, services: Services) -> None:
    """The browser is told of another model or calibration file, and of runs that have ended."""
    pickers = {"model": shell.rail.model, "calibration": shell.rail.calibration}
    linked.wire(view, services, pickers, tell, shell.monitor.runs)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    now = rail.load(services.workspace)
    return tell(services, model=now.model, calibration=now.calibration)


def tell(services: Services, *, model: str | None, calibration: str | None) -> str:
    """What is picked and which tables there are, for the browser."""
    made = [one.made for one in statistics_tables.tables(services.workspace)]
    return json.dumps({"model": model or "", "calibration": calibration or "", "tables": [len(made), max(made, default=0)]})
