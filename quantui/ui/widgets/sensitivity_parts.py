"""The sentences, totals and tables of the Layers tab that stand beside its charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantui.jobs.preflight_sensitivity import seconds_of
from quantui.recipe.words import FLOAT
from quantui.sensitivity import select
from quantui.sensitivity.apply import Forecast
from quantui.sensitivity.scores import Scores
from quantui.spec import SensitivitySpec
from quantui.stats.kinds import place_of
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.sensitivity_tables import Searched
from quantui.ui.widgets.facts import change, empty
from quantui.ui.widgets.facts import facts as fact_rows
from quantui.ui.widgets.statistics_parts import place, said, table_of

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
    layer = where(t, first.layers)
    return t(
        "layers.bars.finding",
        layer=layer,
        share=numbers.percent(round(known[order[0]] / total, 2)),
        scheme=own.partition(" ")[0],
    )


def totals(t: Translator, scores: Scores, base: Forecast, now: Forecast, measured: Sequence[Mapping[str, Any]]) -> Markup:
    """What the choice comes to, beside the recipe as it was saved."""
    unit = t(f"layers.unit.{scores.method}")

    def pair(before: str, after: str) -> Markup:
        return change(before, after) if before != after else tag("strong", after)

    def kl(of: Forecast) -> str:
        return kl_said(of.kl) if len(of.unknown) < len(of.choice) else "–"  # none of it was scored

    rows = [
        (t("layers.kl"), join(pair(kl(base), kl(now)), f" {unit}"), t("hint.layers.kl")),
        (t("layers.size"), pair(_bytes(base.bytes), _size(base, now)), t("hint.layers.size")),
        (t("layers.bits"), pair(f"{base.bits:.2f}", f"{now.bits:.2f}"), t("hint.layers.bits")),
        (t("layers.in_float"), pair(str(_floats(base)), str(_floats(now))), t("hint.layers.in_float")),
    ]
    real = next((one for one in reversed(measured) if one["now"]), None)
    if real is not None:
        spread = f" ± {kl_said(real['stderr'])}" if real["stderr"] is not None else ""  # a search keeps none
        value = f"{kl_said(real['kl'])}{spread} {t('layers.unit.exact')}"
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
        before, after = (kl_said(_kl(scores, name, choice[name])) for choice in (base, now))
        schemes = change(short(t, base[name]), short(t, now[name]))
        layer = tag("button", clipped(where(t, (name,)), 26), type="button", cls="stats-open", data_why=name)
        rows.append(tag("tr", tag("td", layer), tag("td", schemes), tag("td", after), title=f"{name}: {before} → {after}"))
    more = tag("p", t("layers.more", n=len(moved) - SHOWN), cls="muted") if len(moved) > SHOWN else None
    return join(
        tag("h4", t("layers.changed", layers=t.count("count.layers", len(moved)))), table_of(columns, rows, "sens-rows"), more
    )


def search_line(t: Translator, found: Searched | None, taken: bool) -> Markup:
    """What the last search has found, and a button that takes it."""
    if found is None:
        return Markup()
    probe, (kind, limit) = found.probe, found.target
    goal = t(f"layers.auto.goal.{kind}", limit=numbers.percent(limit) if kind == "exact_match" else kl_said(limit))
    reached = numbers.percent(probe["exact_match"]) if kind == "exact_match" else kl_said(probe["kl"])
    text = t(
        "layers.auto.found", goal=goal, reached=reached, n=found.level, size=_bytes(probe["bytes"]), kl=kl_said(probe["kl"])
    )
    button = tag("button", t("layers.auto.take"), type="button", cls="quiet", data_do="found", title=t("hint.layers.auto.take"))
    return tag("p", text, " ", tag("span", t("layers.auto.taken"), cls="muted") if taken else button)


def where(t: Translator, names: Sequence[str]) -> str:
    """Where layers are that take their scheme together."""
    kinds = t("list.comma").join(dict.fromkeys(place_of(name).kind for name in names))
    return place(t, names[0], kinds, expert=len(names) < 3)


def short(t: Translator, scheme: str) -> str:
    """A scheme in one word."""
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
