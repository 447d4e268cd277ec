"""The Compare tab: both models answer side by side, and every token says how far they are apart.

Its parts are drawn by assets/compare.js from what `compare_page.answer` tells; a conversation is kept by the browser alone.
"""

from __future__ import annotations

from quantui.ui import compare_page, linked, rail
from quantui.ui.linked import View
from quantui.ui.services import Services
from quantui.ui.shell import Shell
from quantui.ui.widgets.compare_bench import compare_bench

NAME = "compare"


def layout(services: Services) -> View:
    """The frame, and the link behind it."""
    return linked.layout(services, NAME, compare_bench(services.t), compare_page.answer, "quantuiCompare")


def wire(view: View, shell: Shell, services: Services) -> None:
    """The browser is told of another run."""
    linked.wire(view, services, {"run": shell.rail.run}, tell)


def arrive(services: Services) -> str:
    """The page opens: what the rail was left with."""
    return tell(services, run=rail.load(services.workspace).run)


def tell(services: Services, *, run: str | None) -> str:
    """What is picked, for the browser."""
    return linked.told(run=run)
