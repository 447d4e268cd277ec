"""One answer of the Statistics tab: which tables there are and what collecting costs, or what one of its views shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantui.errors import CheckpointError, InputError
from quantui.jobs.preflight_stats import cost_of, prepare_stats
from quantui.spec import StatsSpec
from quantui.stats.channels import outliers
from quantui.stats.fit import CLIPS, SCHEMES
from quantui.stats.kinds import place_of
from quantui.stats.overview import differences, offenders
from quantui.stats.table import Array, Layer, StatsTable
from quantui.ui import numbers, rail, statistics_tables, statistics_views
from quantui.ui.markup import Markup, join, tag
from quantui.ui.services import Services
from quantui.ui.statistics_tables import Found
from quantui.ui.widgets import statistics_compare, statistics_layer, statistics_parts
from quantui.ui.widgets.facts import empty, problem

OFFENDERS = 100
"""Channels the table beside the overview names."""

CACHED = ("key", "value")
COMPARED = ("input", "output", *CACHED)
"""What two tables may be compared in."""

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
    """The tables there are, and the one to show: that of `table`, of the run `run`, or the newest of the rail's model."""
    t, workspace, model = services.t, services.workspace, str(asked.get("model") or "")
    found = statistics_tables.tables(workspace)
    wanted = str(asked.get("table") or "") or statistics_tables.of_run(services.store, str(asked.get("run") or ""))
    shown = _shown(found, wanted, model)
    parts: dict[str, Markup] = {"facts": Markup(), "message": Markup()}
    if shown is None:
        name = Path(model).name
        parts["message"] = empty(t("stats.none", model=name) if name else t("stats.none_at_all"))
    else:
        try:
            parts["facts"] = statistics_parts.table_line(t, shown, statistics_tables.open_table(shown.folder))
            if asked.get("table") and str(shown.folder) != wanted:
                parts["facts"] = join(tag("p", t("stats.gone"), cls="muted"), parts["facts"])
        except InputError as error:
            parts["message"], shown = problem(t, error), None
    return {
        "parts": parts,
        "tables": [[str(one.folder), statistics_tables.shown(t, one), one.model] for one in found],
        "table": str(shown.folder) if shown else "",
        "made": shown.made if shown else 0,
    }


def cost(services: Services, asked: Asked) -> dict[str, Any]:
    """What collecting takes; asked apart, since counting the tokens of the samples may take a while."""
    said, wrong = _cost(services, asked)
    return {"parts": {"cost": said}, "can": not wrong}


def overview(services: Services, asked: Asked) -> dict[str, Any]:
    """Every layer's range, and the channels that stand out."""
    t, (_, table) = services.t, _table(services, asked)
    role = _role(asked)
    if not table.layers:
        raise CheckpointError("the table has no layers, only keys and values", todo="open Keys and values")
    told = statistics_views.overview(table, role)
    worst = offenders(table, role, OFFENDERS)
    index = {name: at for at, name in enumerate(told["name"])}
    return {
        "ranges": told,
        "question": t("stats.ranges.title"),
        "finding": t("stats.ranges.finding"),  # filled in by the page, of the first row above the threshold
        "parts": {"offenders": statistics_parts.offender_table(t, worst, index)},
        "labels": [statistics_parts.place(t, name) for name in told["name"]],
        "seen": [statistics_parts.seen(t, table, name, role) for name in told["name"]],
    }


def layer(services: Services, asked: Asked) -> dict[str, Any]:
    """One tensor of one layer: its channels, its distribution, what stands out in it and who caused that."""
    t, (_, table) = services.t, _table(services, asked)
    role = _role(asked)
    seen = [one for one in table.layers if table.has(one.name, role)]
    chosen = next((one for one in seen if one.name == asked.get("layer")), None)
    if chosen is None:
        chosen = _loudest(table, role, seen)
    worst = outliers(table, chosen.name, role)
    count = _channels(table, chosen.name, role)
    channel = _whole(asked.get("channel"), worst[0].channel if worst else 0, most=count - 1)
    scheme, lost = _lost(table, chosen, asked)
    if lost is None:
        ratio = statistics_parts.times(worst[0].ratio if worst else 1.0)
        title, good = t("stats.layer.finding", n=numbers.whole(count), ratio=ratio), t("stats.layer.good")
        listed = statistics_layer.outlier_table(t, worst, channel)
    else:
        title, good = statistics_layer.lost_title(t, scheme, lost), t("stats.lost.good")
        listed = statistics_layer.lost_table(t, lost, table.weight(chosen, "absmax"))
    return {
        "layer": chosen.name,
        "kind": chosen.place.kind,
        "channel": channel,
        "names": [[one.name, statistics_parts.place(t, one.name)] for one in seen],
        "title": title,
        "good": good,
        "weight": scheme,
        "schemes": list(table.channel_errors(chosen)),
        "line": _line(table, chosen, role, asked),
        **spread(services, {**asked, "layer": chosen.name}),
        "parts": {
            "layer-facts": statistics_layer.facts_line(t, table, chosen, role),
            "layer-outliers": listed,
            "layer-cause": statistics_layer.cause(t, table, table.cause(chosen.name, role, channel=channel)),
        },
    }


def line(services: Services, asked: Asked) -> dict[str, Any]:
    """The channels of a tensor in another order, or a stretch of them."""
    _, table = _table(services, asked)
    return {"line": _line(table, _layer(table, _known(table, asked)), _role(asked), asked)}


def spread(services: Services, asked: Asked) -> dict[str, Any]:
    """The histogram of a tensor under the grid of a scheme."""
    _, table = _table(services, asked)
    name, role = _known(table, asked), _role(asked)
    scheme = str(asked.get("scheme") or SCHEMES[0])
    scheme = scheme if scheme in SCHEMES else SCHEMES[0]
    clip = min(CLIPS, key=lambda one: abs(one - _number(asked.get("clip"), 1.0)))
    found = statistics_views.spread(table, name, role, scheme, clip)
    return {"spread": found, "fit": statistics_layer.fit_sentence(services.t, scheme, found)}


def cause(services: Services, asked: Asked) -> dict[str, Any]:
    """The sample and token that set a channel's largest magnitude."""
    t, (_, table) = services.t, _table(services, asked)
    name, role = _known(table, asked), _role(asked)
    channel = _whole(asked.get("channel"), 0, most=_channels(table, name, role) - 1)
    return {"parts": {"layer-cause": statistics_layer.cause(t, table, table.cause(name, role, channel=channel))}}


def smooth(services: Services, asked: Asked) -> dict[str, Any]:
    """The input of a layer after smoothing."""
    t, (_, table) = services.t, _table(services, asked)
    name = _known(table, asked)
    try:
        model = services.workspace.readable(str(table.meta.get("model") or ""))
        made = statistics_views.smooth(table, name, min(max(_number(asked.get("strength"), 0.5), 0.0), 1.0), model)
    except InputError as error:
        return {"wrong": problem(t, error)}
    before, after = made["ratios"][0], made["ratios"][1]
    title = t("stats.smooth.finding", before=statistics_parts.times(before), after=statistics_parts.times(after))
    return {"smooth": made, "title": title, "usual": "" if made["usual"] else t("stats.smooth.unusual")}


def export(services: Services, asked: Asked) -> dict[str, Any]:
    """Every channel of a tensor, or of the weight, as CSV."""
    _, table = _table(services, asked)
    chosen = _layer(table, _known(table, asked))
    if _lost(table, chosen, asked)[1] is not None:
        return {"csv": statistics_views.weight_csv(table, chosen)}
    return {"csv": statistics_views.channels_csv(table, chosen.name, _role(asked))}


def cache(services: Services, asked: Asked) -> dict[str, Any]:
    """Keys and values by layer and head, and what quantizing them costs and saves."""
    t, (_, table) = services.t, _table(services, asked)
    if not table.attention:
        raise CheckpointError(
            "the table holds no keys and values", todo="collect the statistics of a model with attention layers"
        )
    return {
        "cache": statistics_views.cache(table),
        "labels": [t("stats.block", n=block) if block is not None else name for name, block in _attention(table)],
    }


def profile(services: Services, asked: Asked) -> dict[str, Any]:
    """One head of keys or values, dimension by dimension."""
    t, (_, table) = services.t, _table(services, asked)
    name, role = str(asked.get("attention") or ""), "value" if asked.get("role") == "value" else "key"
    if not table.has(name, role):
        raise CheckpointError(f"the table has no keys and values of {name!r}", todo="choose another layer")
    heads, width = table.stat(name, role, "max").shape
    head = _whole(asked.get("head"), 0, most=int(heads) - 1)
    found = statistics_views.profile(table, name, role, head, _model(services, table))
    absmax = [max(abs(low), abs(high)) for low, high in zip(found["low"], found["high"], strict=True)]
    median = sorted(absmax)[int(width) // 2] or 1.0
    return found | {
        "head": head,
        "title": t(
            "stats.profile.finding",
            role=t(f"stats.role.{role}"),
            layer=next(
                (t("stats.block", n=block) for one, block in _attention(table) if one == name and block is not None), name
            ),
            head=head,
            dimension=absmax.index(max(absmax)),
            ratio=statistics_parts.times(max(absmax) / median),
        ),
    }


def compare(services: Services, asked: Asked) -> dict[str, Any]:
    """How far the layers of another table reach against this one's."""
    t, (folder, table) = services.t, _table(services, asked)
    other = statistics_tables.chosen(services.workspace, str(asked.get("other") or ""))
    role = str(asked.get("role") or "input")
    role = role if role in COMPARED else "input"
    found = differences(table, statistics_tables.open_table(other), role)
    order = {name: at for at, name in enumerate(table.attention if role in CACHED else [one.name for one in table.layers])}
    return {
        "changes": statistics_views.changes(found, order),
        "title": statistics_compare.title(t, found),
        "parts": {
            "changes": statistics_compare.change_table(t, found, order),
            "compare-note": statistics_compare.note(t, found, len(order), same=folder == other),
        },
    }


def collect(services: Services, asked: Asked) -> dict[str, Any]:
    """Starts a job that collects statistics of the rail's model with its calibration data."""
    run = services.submit(_spec(services, asked))
    rail.remember(services.workspace, run=run.id)
    return {"run": run.id}


ACTIONS: dict[str, Callable[[Services, Asked], dict[str, Any]]] = {
    "look": look,
    "cost": cost,
    "overview": overview,
    "layer": layer,
    "line": line,
    "spread": spread,
    "cause": cause,
    "smooth": smooth,
    "export": export,
    "cache": cache,
    "profile": profile,
    "compare": compare,
    "collect": collect,
}


def _shown(found: list[Found], wanted: str, model: str) -> Found | None:
    """The table that is asked for; else the newest of the rail's model, one with distributions first."""
    asked_for = next((one for one in found if str(one.folder) == wanted), None)
    return asked_for or max((one for one in found if one.model == model), key=lambda one: one.detail, default=None)


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
        not_finite="skip" if asked.get("skip") else "stop",
    )


def _table(services: Services, asked: Asked) -> tuple[Path, StatsTable]:
    folder = statistics_tables.chosen(services.workspace, str(asked.get("table") or ""))
    return folder, statistics_tables.open_table(folder)


def _role(asked: Asked) -> str:
    return "output" if asked.get("role") == "output" else "input"


def _model(services: Services, table: StatsTable) -> Path | None:
    """The model's folder, if the page may read it."""
    try:
        return services.workspace.readable(str(table.meta.get("model") or ""))
    except InputError:
        return None


def _attention(table: StatsTable) -> list[tuple[str, int | None]]:
    return [(name, place_of(name).block) for name in table.attention]


def _known(table: StatsTable, asked: Asked) -> str:
    """The layer that is asked for.

    Raises:
        CheckpointError: the table does not have it.
    """
    name = str(asked.get("layer") or "")
    if not table.has(name, _role(asked)):
        what = f"the table has no layer {name!r}" if name else "no layer is chosen"
        raise CheckpointError(what, todo="choose one of the list")
    return name


def _loudest(table: StatsTable, role: str, seen: list[Layer]) -> Layer:
    """The layer to show where none is asked for.

    Raises:
        CheckpointError: the table has none.
    """
    worst = offenders(table, role, 1)
    if not worst and table.layers:
        raise CheckpointError("the table holds that tensor of no layer", todo="choose inputs")
    if not worst:
        raise CheckpointError("the table has no layers, only keys and values", todo="open Keys and values")
    return next(one for one in seen if one.name == worst[0].layers[0])


def _layer(table: StatsTable, name: str) -> Layer:
    return next(one for one in table.layers if one.name == name)


def _lost(table: StatsTable, layer: Layer, asked: Asked) -> tuple[str, Array | None]:
    """The scheme whose weight error is to be drawn, and that error by output channel; ("", None) where values are."""
    scheme = str(asked.get("weight") or "")
    lost = table.channel_errors(layer).get(scheme)
    return ("" if lost is None else scheme), lost


def _line(table: StatsTable, layer: Layer, role: str, asked: Asked) -> dict[str, Any]:
    _, lost = _lost(table, layer, asked)
    count = _channels(table, layer.name, role) if lost is None else lost.size
    first, last = _whole(asked.get("first"), 0, most=count - 1), _whole(asked.get("last"), count, most=count)
    ordered = asked.get("order") == "size"
    if lost is not None:
        return statistics_views.lost(lost, ordered=ordered, first=first, last=last)
    return statistics_views.line(table, layer.name, role, ordered=ordered, first=first, last=last)


def _channels(table: StatsTable, name: str, role: str) -> int:
    return int(table.arrays["site/size"][table.entries[name, role]])


def _whole(value: object, otherwise: int, *, most: int) -> int:
    """A whole number from 0 to `most`, whatever an address may hold."""
    return min(max(int(_number(value, otherwise)), 0), most)


def _number(value: object, otherwise: float) -> float:
    try:
        number = float(str(value))
    except ValueError:
        return otherwise
    return number if math.isfinite(number) else otherwise
