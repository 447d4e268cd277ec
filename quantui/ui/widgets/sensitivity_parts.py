"""The sentences, totals and tables of the Layers tab that stand beside its charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantui.errors import QuantUIError
from quantui.jobs.preflight_sensitivity import seconds_of
from quantui.recipe.words import FLOAT
from quantui.sensitivity import select
from quantui.sensitivity.apply import Forecast
from quantui.sensitivity.scores import Scores
from quantui.sensitivity.sharing import snapped
from quantui.spec import SensitivitySpec
from quantui.stats.kinds import place_of
from quantui.ui import numbers, statistics_tables, statistics_views
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.services import Services
from quantui.ui.widgets.facts import change, empty
from quantui.ui.widgets.facts import facts as fact_rows
from quantui.ui.widgets.statistics_parts import place, said, table_of, times

SMOOTHABLE = ("q", "k", "v", "qkv", "gate", "up", "gate_up")
"""Kinds that a norm feeds, so that smoothing can move their outliers into weights."""
LOUD = 8.0
"""From how many times the median channel on a channel counts as an outlier."""
SHOWN = 40
"""Layers that the difference names."""


def kl_said(value: float) -> str:
    """A KL with the digits that count."""
    return said(float(f"{value:.3g}"))


def facts(t: Translator, scores: Scores) -> Markup:
    """What the scores are of."""
    floor = scores.meta.get("noise_floor")
    rows = [
        t(f"layers.method.{scores.method}"),
        t.count("count.layers", len(scores.names)),
        t.count("count.samples", int(scores.meta["samples"])),
        t.count("count.tokens", int(scores.meta["tokens"])),
        t("layers.floor", value=kl_said(floor)) if floor is not None else "",
    ]
    notes = [tag("p", note, cls="muted") for note in map(t.error, scores.meta.get("notes") or ())]
    if scores.caches:
        worst = max(scores.caches, key=lambda row: row.kl)
        kl = kl_said(sum(max(row.kl, 0.0) for row in scores.caches))
        rows.append(t("layers.caches", scheme=worst.scheme, kl=kl, worst=worst.name))
    line = t("list.dot").join(part for part in rows if part)
    return join(tag("p", line, title=t("hint.layers.floor") if floor is not None else None), *notes)


def none_yet(t: Translator, model: str, wrong: bool) -> Markup:
    """What stands here before there are scores."""
    name = Path(model).name
    return empty(t("layers.none_wrong", model=name) if wrong else t("layers.none", model=name))


def needs_calibration(t: Translator) -> Markup:
    """Why nothing can be scored."""
    return tag("p", t("layers.no_calibration"), cls="muted")


def cost_line(t: Translator, spec: SensitivitySpec) -> Markup:
    """What scoring will take."""
    return tag(
        "p", t("layers.cost", time=numbers.seconds(t, seconds_of(spec), rough=True)), cls="muted", title=t("hint.layers.cost")
    )


def other_recipe(t: Translator, scores: Scores) -> Markup:
    """That the scores were made for other schemes than the recipe has."""
    return tag("p", t("layers.other_recipe", recipe=Path(str(scores.meta.get("recipe"))).stem), cls="bad", role="alert")


def finding(t: Translator, scores: Scores) -> str:
    """The title of the bars: what stands out."""
    own = scores.schemes[0].name
    units = select.units_of(scores)
    order = select.fallback_order(units, {unit.name: own for unit in units})
    known = {unit.name: unit.option(own).kl for unit in units}
    total = sum(known.values())
    if not order or not total:
        return t("layers.bars.title")
    first = next(unit for unit in units if unit.name == order[0])
    where = _place(t, first.layers)
    return t(
        "layers.bars.finding",
        layer=where,
        share=numbers.percent(round(known[order[0]] / total, 2)),
        scheme=own.partition(" ")[0],
    )


def totals(t: Translator, scores: Scores, base: Forecast, now: Forecast, measured: Sequence[Mapping[str, Any]]) -> Markup:
    """What the choice comes to, beside the recipe as it was saved."""
    unit = t(f"layers.unit.{scores.method}")

    def pair(before: str, after: str) -> Markup:
        return change(before, after) if before != after else tag("strong", after)

    rows = [
        (t("layers.kl"), join(pair(kl_said(base.kl), kl_said(now.kl)), f" {unit}"), t("hint.layers.kl")),
        (t("layers.size"), pair(_bytes(base.bytes), _size(base, now)), t("hint.layers.size")),
        (t("layers.bits"), pair(f"{base.bits:.2f}", f"{now.bits:.2f}"), t("hint.layers.bits")),
        (t("layers.in_float"), pair(str(_floats(base)), str(_floats(now))), t("hint.layers.in_float")),
    ]
    real = next((one for one in reversed(measured) if one["now"]), None)
    if real is not None:
        value = f"{kl_said(real['kl'])} ± {kl_said(real['stderr'])} {t('layers.unit.exact')}"
        rows.insert(1, (t("layers.measured"), tag("strong", value), t("hint.layers.measured")))
    return fact_rows(rows, "sens-totals")


def difference(t: Translator, scores: Scores, base: Mapping[str, str], now: Mapping[str, str]) -> Markup:
    """The layers that the edited recipe treats otherwise than the saved one."""
    moved = [name for name in scores.names if base[name] != now[name]]
    if not moved:
        return tag("p", t("layers.unchanged"), cls="muted")
    columns = [(t("stats.column.layer"), None), (t("layers.column.scheme"), None), ("KL", t("hint.layers.kl"))]
    rows = []
    for name in moved[:SHOWN]:
        kl = [_kl(scores, name, choice[name]) for choice in (base, now)]
        schemes = change(_short(t, base[name]), _short(t, now[name]))
        layer = tag("button", clipped(_place(t, (name,)), 26), type="button", cls="stats-open", data_why=name)
        rows.append(tag("tr", tag("td", layer), tag("td", schemes), tag("td", change(*map(kl_said, kl))), title=name))
    more = tag("p", t("layers.more", n=len(moved) - SHOWN), cls="muted") if len(moved) > SHOWN else None
    return join(
        tag("h4", t("layers.changed", layers=t.count("count.layers", len(moved)))), table_of(columns, rows, "sens-rows"), more
    )


def why_card(services: Services, scores: Scores, name: str) -> tuple[Markup, dict[str, Any] | None]:
    """What is known of one layer, and its histogram under the grid where statistics have one."""
    t = services.t
    together = [other for other in snapped([name], scores.names) if other != name]
    head = [
        tag("p", tag("strong", _place(t, (name,))), " ", tag("code", clipped(name, 48)), cls="why-name"),
        tag("p", t("layers.why.group", layers=t("list.comma").join(_place(t, (one,)) for one in together)), cls="muted")
        if together and len(together) < 8
        else tag("p", t("layers.why.group_many", n=len(together)), cls="muted")
        if together
        else None,
    ]
    columns = [
        (t("layers.column.scheme"), None),
        ("KL", t("hint.layers.kl")),
        ("±", t("hint.layers.stderr")),
        (t("layers.size"), None),
    ]
    rows = []
    for scheme in (*(one.name for one in scores.schemes), FLOAT):
        row = scores.by_layer.get((name, scheme))
        if row is not None:
            title = (
                t("layers.why.parts", text=kl_said(row.parts["kl_text"]), image=kl_said(row.parts["kl_image"]))
                if row.parts
                else None
            )
            cells = [_short(t, scheme), kl_said(row.kl), kl_said(row.stderr), numbers.size(row.bytes)]
            rows.append(tag("tr", *(tag("td", cell) for cell in cells), title=title))
    found = join(
        *head,
        table_of(columns, rows, "sens-rows"),
        _channels(t, scores, name),
        _samples(t, scores, name),
        _advice(t, scores, name),
    )
    return found, _spread(services, scores, name)


def _channels(t: Translator, scores: Scores, name: str) -> Markup | None:
    seen = (scores.meta.get("inputs") or {}).get(name)
    if not seen:
        return None
    median = seen["median"] or 1e-30
    rows = [
        tag("tr", tag("td", str(channel)), tag("td", said(value)), tag("td", t("stats.times", n=times(value / median))))
        for channel, value in seen["top"][:4]
    ]
    columns = [(t("stats.column.channel"), t("hint.stats.channel")), (t("stats.column.absmax"), t("hint.stats.absmax")),
               (t("stats.column.ratio"), t("hint.stats.ratio"))]  # fmt: skip
    return join(tag("h4", t("layers.why.channels")), table_of(columns, rows, "sens-rows"))


def _samples(t: Translator, scores: Scores, name: str) -> Markup | None:
    """The samples that cause most of it."""
    at = next((i for i, row in enumerate(row for row in scores.rows if row.scheme != FLOAT) if row.name == name), None)
    if at is None or not scores.samples:
        return None
    of = sum(_of_sample(scores, part[:, :, at].astype(np.float64)) for part in scores.samples.values())
    total = float(np.sum(of))
    if total <= 0:
        return None
    wheres, order = scores.meta.get("sample_wheres") or [], scores.meta["sample_numbers"]
    rows = []
    for place_ in np.argsort(-np.asarray(of))[:3]:
        where = str(wheres[order[place_]]) if order[place_] < len(wheres) else str(order[place_])
        line = where.rpartition("/")[2]
        rows.append(tag("tr", tag("td", clipped(line, 36), title=where), tag("td", numbers.percent(float(of[place_]) / total))))
    columns = [(t("layers.why.sample"), None), (t("layers.why.share"), t("hint.layers.why.share"))]
    return join(tag("h4", t("layers.why.samples")), table_of(columns, rows, "sens-rows"))


def _of_sample(scores: Scores, part: Any) -> Any:
    return np.square(part).mean(1) / 2 if scores.method == "fisher" else np.abs(part[:, 0])


def _advice(t: Translator, scores: Scores, name: str) -> Markup | None:
    """What would help beside float."""
    kind = place_of(name).kind
    seen = (scores.meta.get("inputs") or {}).get(name)
    if not seen or not seen["median"]:
        return None
    ratio = seen["top"][0][1] / seen["median"]
    key = "calm" if ratio < LOUD else "smooth" if kind in SMOOTHABLE else "not_smooth"
    return tag("p", t(f"layers.why.{key}", ratio=times(ratio)), cls="why-advice")


def _spread(services: Services, scores: Scores, name: str) -> dict[str, Any] | None:
    """The histogram of the layer's input under a grid of 8 bits, where statistics were collected with it."""
    model = str(scores.meta.get("model"))
    for found in statistics_tables.tables(services.workspace):
        if found.model == model and found.detail:
            table = statistics_tables.open_table(found.folder)
            try:
                return statistics_views.spread(table, name, "input", "int8", 1.0) if table.has(name, "input") else None
            except (KeyError, QuantUIError):
                return None
    return None


def _place(t: Translator, names: Sequence[str]) -> str:
    where = place_of(names[0])
    kinds = t("list.comma").join(dict.fromkeys(place_of(name).kind for name in names))
    return place(t, names[0], kinds, where.block, where.expert if len(names) < 3 else None)


def _short(t: Translator, scheme: str) -> str:
    return t("layers.float") if scheme == FLOAT else scheme.partition(" ")[0]


def _kl(scores: Scores, name: str, scheme: str) -> float:
    row = scores.by_layer.get((name, scheme))
    return row.kl if row else 0.0


def _floats(found: Forecast) -> int:
    return sum(scheme == FLOAT for scheme in found.choice.values())


def _size(base: Forecast, now: Forecast) -> str:
    grown = (now.bytes - base.bytes) / max(base.bytes, 1)
    return _bytes(now.bytes) + (f" ({grown * 100:+.1f} %)" if now.bytes != base.bytes else "")


def _bytes(size: int) -> str:
    """A size with three digits, so that one layer shows in it."""
    text = numbers.size(size)
    number, _, unit = text.partition(" ")
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    return f"{size / scale:.2f} {unit}" if size / scale < 10 and number != str(size) else text
