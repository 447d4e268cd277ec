"""The card of the Layers tab that says why a layer hurts: its scores, its input, who causes it and what would help."""

from __future__ import annotations

from typing import Any

import numpy as np

from quantui.errors import InputError
from quantui.recipe.words import FLOAT
from quantui.sensitivity.scores import Scores
from quantui.sensitivity.sharing import snapped
from quantui.stats.fit import SCHEMES
from quantui.stats.kinds import place_of
from quantui.stats.smoothed import AFTER_NORM
from quantui.stats.table import StatsTable
from quantui.ui import numbers, statistics_tables, statistics_views
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.services import Services
from quantui.ui.widgets.sensitivity_parts import kl_said, short, where
from quantui.ui.widgets.statistics_layer import fit_sentence
from quantui.ui.widgets.statistics_parts import said, table_of, times

LOUD = 8.0
"""From how many times the median channel on a channel counts as an outlier."""
STRENGTH = 0.5
"""Of the smoothing that is foretold: half of the difficulty goes into the weights."""


def why_card(services: Services, scores: Scores, name: str) -> tuple[Markup, dict[str, Any] | None]:
    """What is known of one layer, and its histogram under the grid where statistics have one."""
    t, table = services.t, _table(services, scores, name)
    together = [other for other in snapped([name], scores.names) if other != name]
    head = [
        tag("p", tag("strong", where(t, (name,))), " ", tag("code", clipped(name, 48)), cls="why-name"),
        tag("p", t("layers.why.group", layers=t("list.comma").join(where(t, (one,)) for one in together)), cls="muted")
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
            cells = [short(t, scheme), kl_said(row.kl), kl_said(row.stderr), numbers.size(row.bytes)]
            rows.append(tag("tr", *(tag("td", cell) for cell in cells), title=title))
    found = join(
        *head,
        table_of(columns, rows, "sens-rows"),
        _channels(t, scores, name),
        _samples(t, scores, name),
        _advice(t, scores, name),
        _smoothing(services, table, name) if table else None,
        None if table else _no_statistics(t),
    )
    return found, _grid(t, scores, table, name) if table else None


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
    key = "calm" if ratio < LOUD else "smooth" if kind in AFTER_NORM else "not_smooth"
    return tag("p", t(f"layers.why.{key}", ratio=times(ratio)), cls="why-advice")


def _table(services: Services, scores: Scores, name: str) -> StatsTable | None:
    """The newest statistics of the model that have this layer, those with distributions first."""
    model = str(scores.meta.get("model"))
    found = [one for one in statistics_tables.tables(services.workspace) if one.model == model]
    for one in sorted(found, key=lambda one: not one.detail):
        try:
            table = statistics_tables.open_table(one.folder)
        except InputError:
            continue
        if table.has(name, "input"):
            return table
    return None


def _grid(t: Translator, scores: Scores, table: StatsTable, name: str) -> dict[str, Any] | None:
    """The histogram of the layer's input under the grid that the recipe's scheme rounds it to."""
    scheme = _scheme(scores)
    found = statistics_views.spread(table, name, "input", scheme, 1.0)
    return None if found is None else {"spread": found, "title": fit_sentence(t, scheme, found)}


def _scheme(scores: Scores) -> str:
    """The grid of statistics that is nearest to how inputs are rounded; 8 bits where they are not."""
    args = scores.schemes[0].inputs
    if args is None:
        return SCHEMES[0]
    name = "fp8" if args.type == "float" else f"int{args.num_bits}{'' if args.symmetric else '-asym'}"
    return name if name in SCHEMES else SCHEMES[0]


def _smoothing(services: Services, table: StatsTable, name: str) -> Markup | None:
    """What smoothing would make of the input, and which neighbours take part in it."""
    t = services.t
    if place_of(name).kind not in AFTER_NORM:
        return None
    try:
        model = services.workspace.readable(str(table.meta.get("model") or ""))
        made = statistics_views.smooth(table, name, STRENGTH, model)
    except InputError:
        return None  # the weights are not where they were
    before, after, weight_before, weight_after = (times(ratio) for ratio in made["ratios"])
    rows = [(t("layers.why.input"), before, after), (t("layers.why.weights"), weight_before, weight_after)]
    lines = [tag("tr", tag("td", what), *(tag("td", t("stats.times", n=n)) for n in (old, new))) for what, old, new in rows]
    columns = [(t("stats.column.ratio"), t("hint.stats.ratio")), (t("layers.why.before"), None), (t("layers.why.after"), None)]
    neighbours = [
        tag("button", where(t, (one,)), type="button", cls="stats-open", data_why=one, title=one) for one in made["layers"]
    ]
    shared = [child for one in neighbours for child in (t("list.comma"), one)][1:]
    return join(
        tag("h4", t("layers.why.smoothing", strength=STRENGTH), title=t("hint.stats.smooth"), cls="hinted"),
        table_of(columns, lines, "sens-rows"),
        tag("p", t("layers.why.neighbours"), " ", *shared, cls="muted"),
    )


def _no_statistics(t: Translator) -> Markup:
    button = tag("button", t("layers.why.collect"), type="button", cls="quiet", data_do="statistics",
                 title=t("hint.layers.why.collect"))  # fmt: skip
    return tag("p", t("layers.why.no_statistics"), " ", button, cls="muted")
