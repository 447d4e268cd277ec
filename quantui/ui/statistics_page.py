"""One answer of the Statistics tab: which tables there are and what collecting costs, or what one of its views shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantui.errors import InputError
from quantui.jobs import launch
from quantui.jobs.preflight_stats import cost_of, prepare_stats
from quantui.spec import StatsSpec
from quantui.stats.overview import offenders
from quantui.stats.table import StatsTable
from quantui.ui import rail, statistics_tables, statistics_views
from quantui.ui.markup import Markup, tag
from quantui.ui.services import Services
from quantui.ui.statistics_tables import Found
from quantui.ui.widgets import statistics_parts
from quantui.ui.widgets.facts import empty, problem

OFFENDERS = 200
"""Channels the table beside the overview names."""

Asked = Mapping[str, Any]


def answer(services: Services, asked: Asked) -> dict[str, Any]:
    """Does what was asked and tells what came of it.

    Args:
        services: whose workspace and which language.
        asked: `action`, one of ACTIONS, with `model` and `calibration` of the rail, `table` (a folder), and what the view
            shows.
    """
    try:
        return ACTIONS[str(asked.get("action"))](services, asked)
    except InputError as error:
        return {"problem": problem(services.t, error)}


def look(services: Services, asked: Asked) -> dict[str, Any]:
    """The tables there are, the one to show, and what collecting another takes."""
    t, workspace, model = services.t, services.workspace, str(asked.get("model") or "")
    found = statistics_tables.tables(workspace)
    shown = _shown(found, str(asked.get("table") or ""), model)
    parts: dict[str, Markup] = {"facts": Markup(), "message": Markup(), "cost": Markup()}
    cost, wrong = _cost(services, asked)
    parts["cost"] = cost
    if shown is None:
        name = Path(model).name
        parts["message"] = empty(t("stats.none", model=name) if name else t("stats.none_at_all"))
    else:
        try:
            parts["facts"] = statistics_parts.table_line(t, shown, statistics_tables.open_table(shown.folder))
        except InputError as error:
            parts["message"], shown = problem(t, error), None
    return {
        "parts": parts,
        "tables": [[str(one.folder), statistics_tables.shown(t, one)] for one in found],
        "table": str(shown.folder) if shown else "",
        "made": shown.made if shown else 0,
        "detail": bool(shown and shown.detail),
        "can": not wrong,
    }


def overview(services: Services, asked: Asked) -> dict[str, Any]:
    """Every layer's range, and the channels that stand out."""
    t, (_, table) = services.t, _table(services, asked)
    role = _role(asked)
    told = statistics_views.overview(table, role)
    worst = offenders(table, role, OFFENDERS)
    index = {name: at for at, name in enumerate(told["name"])}
    title = t("stats.ranges.title")
    if worst:
        first = worst[0]
        where = statistics_parts.place(t, first.layers[0], first.kind, first.block)
        title = t("stats.ranges.finding", layer=where, channel=first.channel, ratio=f"{first.ratio:,.0f}")
    return {
        "ranges": told,
        "title": title,
        "parts": {"offenders": statistics_parts.offender_table(t, worst, index)},
        "labels": [
            statistics_parts.place(t, name, kind, block, expert)
            for name, kind, block, expert in zip(told["name"], told["kind"], told["block"], told["expert"], strict=True)
        ],
    }


def collect(services: Services, asked: Asked) -> dict[str, Any]:
    """Starts a job that collects statistics of the rail's model with its calibration data."""
    run = services.store.submit(_spec(services, asked))
    launch.dispatch(services.store)
    rail.remember(services.workspace, run=run.id)
    return {"run": run.id}


ACTIONS: dict[str, Callable[[Services, Asked], dict[str, Any]]] = {"look": look, "overview": overview, "collect": collect}


def _shown(found: list[Found], wanted: str, model: str) -> Found | None:
    """The table that is asked for; else the newest of the rail's model."""
    asked_for = next((one for one in found if str(one.folder) == wanted), None)
    return asked_for or next((one for one in found if one.model == model), None)


def _cost(services: Services, asked: Asked) -> tuple[Markup, bool]:
    """What collecting takes, or what stands in its way, and whether something does."""
    t = services.t
    if not asked.get("calibration"):
        return tag("p", t("stats.no_calibration"), cls="muted"), True
    try:
        return statistics_parts.cost_line(t, cost_of(_spec(services, asked))), False
    except InputError as error:
        return problem(t, error), True


def _spec(services: Services, asked: Asked) -> StatsSpec:
    model = str(asked.get("model") or "")
    return prepare_stats(
        services.workspace,
        model=model,
        calibration=str(asked.get("calibration") or ""),
        out=str(statistics_tables.free_name(services.workspace, services.store, model)),
        detail=bool(asked.get("detail", True)),
    )


def _table(services: Services, asked: Asked) -> tuple[Path, StatsTable]:
    folder = statistics_tables.chosen(services.workspace, str(asked.get("table") or ""))
    return folder, statistics_tables.open_table(folder)


def _role(asked: Asked) -> str:
    return "output" if asked.get("role") == "output" else "input"
