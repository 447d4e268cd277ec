"""The list of runs with the state of each; a click opens one."""

from __future__ import annotations

from collections.abc import Sequence

from quantui.jobs.store import Run
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, tag
from quantui.ui.widgets.facts import empty, state_badge

SHOWN = 100
"""How many runs the list holds; older ones are reached by their id in the address."""


def job_list(t: Translator, runs: Sequence[Run], opened: str | None) -> Markup:
    """One button a run, newest first."""
    if not runs:
        return empty(t("jobs.none"))
    return tag("ul", *(_job(t, run, run.id == opened) for run in runs[:SHOWN]), cls="jobs")


def _job(t: Translator, run: Run, opened: bool) -> Markup:
    state = state_badge(t, run.state)
    if run.queue_position is not None:
        state = tag("span", state, t("jobs.position", n=run.queue_position), cls="queued")
    button = tag(
        "button",
        clipped(run.spec.name, 30, "name"),
        state,
        tag("time", numbers.moment(run.created), title=run.id),
        type="button",
        data_act="open",
        data_run=run.id,
        aria_current="true" if opened else None,
        cls=f"job {run.state}",
    )
    return tag("li", button)
