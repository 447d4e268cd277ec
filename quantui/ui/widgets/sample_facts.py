"""The set of samples in numbers: lengths with the cut, languages, vocabulary, what it will cost, and warnings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quantui.calibration.advice import Advice
from quantui.calibration.cost import Cost
from quantui.calibration.languages import LANGUAGES
from quantui.calibration.schema import Calibration
from quantui.calibration.survey import Histogram, Survey
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, tag
from quantui.ui.widgets.facts import Row, copyable, facts, figure, sentence

WIDTH, HEIGHT, FOOT = 320, 112, 18
"""Of the histogram, in its own units; the foot holds the numbers of the axis."""
FAR = 1.25
"""A cut so many times beyond the longest sample is named, not drawn."""


def set_facts(t: Translator, found: Survey, cost: Cost, said: Sequence[Advice], calibration: Calibration) -> Markup:
    """Everything that is known of the set, warnings first."""
    figures = tag(
        "div",
        figure(t("samples.set.samples"), tag("strong", numbers.whole(found.samples)), _asked(t, found), t("hint.samples.set")),
        figure(t("samples.set.tokens"), tag("strong", numbers.whole(found.total_tokens)),
               t("samples.set.longest", n=numbers.whole(found.longest)), t("hint.samples.total")),
        cls="figures",
    )  # fmt: skip
    rows: list[Row] = [
        (t("samples.set.cut"), _count(t, found.cut, found.samples), t("hint.samples.cut")),
        (t("samples.set.empty"), numbers.whole(found.empty), t("hint.samples.empty")),
        (t("samples.set.duplicates"), _count(t, found.duplicates, found.samples), t("hint.samples.duplicates")),
        (t("samples.set.vocabulary"), _vocabulary(t, found), t("hint.samples.vocabulary")),
    ]
    if found.pictures:
        value = t("samples.set.pictures_value", pictures=numbers.whole(found.pictures), tiles=numbers.whole(found.tiles))
        rows.append((t("samples.set.pictures"), value, t("hint.samples.pictures")))
    rows += [
        (
            t("samples.set.time"),
            t("forecast.about", value=numbers.seconds(t, cost.seconds, rough=True)),
            t("hint.samples.time"),
        ),
        (t("samples.set.memory"), t("forecast.about", value=numbers.size(cost.memory_bytes)), t("hint.samples.memory")),
    ]
    sources = {calibration.sources[number].name: share for number, share in found.sources.items()}
    return join(
        warnings(t, said),
        figures,
        histogram(t, found.histogram),
        _shares(t, t("samples.set.languages"), {name: found.languages.get(name, 0.0) for name in LANGUAGES}),
        _listed(t("samples.set.scripts"), {t.known(f"samples.script.{name}", name): v for name, v in found.scripts.items()}),
        _listed(t("samples.set.sources"), sources) if len(sources) > 1 else None,
        facts(rows),
        _hash(t, found.token_hash),
        tag("ul", *[tag("li", sentence(t, note)) for note in found.notes], cls="set-notes") if found.notes else None,
    )


def warnings(t: Translator, said: Sequence[Advice]) -> Markup | None:
    """What is likely wrong, the gravest first."""
    lines = [tag("li", tag("i", cls="mark", aria_hidden="true"), tag("span", _advice(t, each))) for each in said]
    return tag("ul", *lines, cls="warnings", role="status") if lines else None


def _advice(t: Translator, advice: Advice) -> str:
    values = {name: numbers.whole(v) if type(v) is int else v for name, v in advice.values.items()}
    if advice.key == "unusable":
        values["first"] = t.error(values["first"])
    if advice.key == "language":
        names = {english: t(f"samples.language.{name}") for name, english in LANGUAGES.items()}
        values = {place: names.get(name, name) for place, name in values.items()}
    return t(f"samples.advice.{advice.key}", **values) if values else t(f"samples.advice.{advice.key}")


def _asked(t: Translator, found: Survey) -> str:
    return t("samples.set.asked", n=numbers.whole(found.asked))


def _count(t: Translator, number: int, of: int) -> str:
    share = numbers.percent(number / of) if of else numbers.NONE
    return t("samples.set.share", n=numbers.whole(number), share=share) if number else numbers.whole(0)


def _vocabulary(t: Translator, found: Survey) -> str:
    share = numbers.percent(found.vocabulary_used / max(found.vocabulary_size, 1))
    return t("samples.set.of", share=share, n=numbers.whole(found.vocabulary_used), of=numbers.whole(found.vocabulary_size))


def histogram(t: Translator, found: Histogram) -> Markup:
    """Bars of token lengths with the line of the cut, and the same numbers as a table below.

    `data-begin` and `data-end` link a bar with its row, and with the samples that it counts.
    """
    bars = [bar for bar in zip(found.edges, found.edges[1:], found.counts, strict=False) if bar[2]]
    longest = bars[-1][1] if bars else 1
    drawn = found.cut <= longest * FAR
    right = max(longest, found.cut) if drawn else longest
    most = max([*found.counts, 1])
    scale = WIDTH / right
    floor = HEIGHT - FOOT
    shapes = []
    for begin, end, count in bars:
        tall = max(2.0, count / most * (floor - 14))
        tip = t("samples.bar", begin=numbers.whole(begin), end=numbers.whole(end - 1), n=numbers.whole(count))
        kind = "beyond" if begin >= found.cut else "within"
        shapes.append(
            tag("rect", tag("title", tip), cls=kind, data_begin=begin, data_end=end, x=round(begin * scale, 1),
                width=round(max((end - begin) * scale - 1, 1), 1), y=round(floor - tall, 1), height=round(tall, 1))
        )  # fmt: skip
    shapes.append(tag("line", x1=0, x2=WIDTH, y1=floor, y2=floor, cls="floor"))
    if drawn:
        at = round(min(found.cut * scale, WIDTH - 1), 1)
        shapes.append(tag("line", x1=at, x2=at, y1=0, y2=floor, cls="cut"))
    axis = [(0, "start"), (right // 2, "middle"), (right, "end")]
    shapes += [
        tag("text", numbers.whole(value), x=round(value * scale, 1), y=HEIGHT - 4, text_anchor=anchor) for value, anchor in axis
    ]
    chart = tag("svg", *shapes, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=t("samples.lengths"))
    cut = numbers.whole(found.cut)
    said = t("samples.cut_at", n=cut) if drawn else t("samples.cut_far", n=cut)
    head = tag(
        "div",
        tag("h3", t("samples.lengths"), title=t("hint.samples.lengths")),
        tag("span", said, cls="cut-at"),
        cls="chart-head",
    )
    return tag("figure", head, chart, _table(t, bars), cls="lengths")


def _table(t: Translator, bars: Sequence[tuple[int, int, int]]) -> Markup:
    rows = [
        tag(
            "tr",
            tag("td", f"{numbers.whole(begin)}–{numbers.whole(end - 1)}"),
            tag("td", numbers.whole(count)),
            data_begin=begin,
            data_end=end,
        )
        for begin, end, count in bars
    ]
    head = tag("tr", tag("th", t("samples.column.tokens")), tag("th", t("samples.column.samples")))
    return tag("details", tag("summary", t("samples.as_table")), tag("table", head, *rows))


def _shares(t: Translator, title: str, shares: Mapping[str, float]) -> Markup:
    """One bar in parts, and what each is."""
    present = {name: share for name, share in shares.items() if share}
    parts = [tag("i", cls=name, style=f"width:{share * 100:.2f}%", data_language=name) for name, share in present.items()]
    words = [
        tag(
            "span",
            tag("i", cls=name),
            t(f"samples.language.{name}"),
            tag("b", numbers.percent(share)),
            cls="key",
            data_language=name,
        )
        for name, share in present.items()
    ]
    return tag(
        "div",
        tag("h3", title),
        tag("div", *parts, cls="share-bar", aria_hidden="true"),
        tag("div", *words, cls="keys"),
        cls="shares",
    )


def _listed(title: str, shares: Mapping[str, float]) -> Markup | None:
    words = [tag("span", name, tag("b", numbers.percent(share)), cls="key") for name, share in shares.items() if share]
    return tag("div", tag("h3", title), tag("div", *words, cls="keys"), cls="shares") if words else None


def _hash(t: Translator, value: str | None) -> Markup:
    shown = copyable(t, value, 20) if value else tag("span", t("samples.set.hash_later"), cls="muted")
    return tag("div", tag("span", t("samples.set.hash"), title=t("hint.samples.hash"), cls="hinted"), shown, cls="hash")
