"""One run as a whole: its name and state, its stages, and how it ended."""

from __future__ import annotations

import time
from typing import Any

from quantui.jobs.tail import Snapshot
from quantui.spec import JobSpec
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, clipped, join, tag
from quantui.ui.widgets.cards import failure_card, result_card
from quantui.ui.widgets.compare_facts import benchmarks_card, compared_card
from quantui.ui.widgets.converted import converted_card
from quantui.ui.widgets.exported import export_buttons, exported_card
from quantui.ui.widgets.facts import change, empty, state_badge
from quantui.ui.widgets.sensitivity import sensitivity_card
from quantui.ui.widgets.stages import stage_list
from quantui.ui.widgets.statistics import statistics_card


def run_panel(t: Translator, snapshot: Snapshot, result: dict[str, Any] | None) -> Markup:
    """The title line, then the result with its time per stage; or the stages, below how it failed if it did."""
    title = _title(t, snapshot)
    spec = snapshot.run.spec
    if result is not None:
        onward = export_buttons(t, snapshot.run.id, spec.recipe) if spec.kind == "quantize" else None
        return join(title, _card(t, spec, result), onward)
    card = failure_card(t, snapshot.failed) if snapshot.failed else None
    stages = stage_list(t, snapshot.stages, spec.kind, cancelled=snapshot.run.state == "cancelled")
    return join(title, card, stages)


def run_note(t: Translator, snapshot: Snapshot, result: dict[str, Any] | None) -> Markup:
    """The line under the Run picker: "Done, 2.6 MB → 1.8 MB"."""
    has_sizes = result is not None and "bytes_before" in result
    sizes = change(numbers.size(result["bytes_before"]), numbers.size(result["bytes_after"])) if result and has_sizes else None
    return tag("p", state_badge(t, snapshot.run.state), sizes, title=snapshot.run.id)


def _card(t: Translator, spec: JobSpec, result: dict[str, Any]) -> Markup:
    """The result of a job of its kind."""
    if spec.kind == "export":
        return exported_card(t, result)
    if spec.kind == "convert":
        return converted_card(t, spec, result)
    if spec.kind == "compare":
        return compared_card(t, result)
    if spec.kind == "harness":
        return benchmarks_card(t, result)
    if spec.kind == "sensitivity":
        return sensitivity_card(t, result)
    return statistics_card(t, result) if spec.kind == "stats" else result_card(t, result)


def no_run(t: Translator) -> Markup:
    """What stands here before the first run."""
    return empty(t("run.none"))


def _title(t: Translator, snapshot: Snapshot) -> Markup:
    run = snapshot.run
    cancel = None
    if run.state in ("queued", "running"):
        stop = t("run.cancel")
        cancel = tag("button", stop, cls="quiet", type="button", data_act="cancel", data_run=run.id, title=t("hint.cancel"))
    position = t("run.position", n=run.queue_position) if run.queue_position else None
    return tag(
        "header",
        tag("h2", clipped(run.spec.name, 56)),
        state_badge(t, run.state),
        tag("span", position or _elapsed(t, snapshot), cls="elapsed"),
        tag("span", t("run.device", device=run.spec.device), cls="device"),
        cancel,
        cls="run-title",
        data_run=run.id,
        data_state=run.state,
        data_kind=run.spec.kind,
    )


def _elapsed(t: Translator, snapshot: Snapshot) -> str:
    run = snapshot.run
    if run.started is None:
        return ""
    end = run.ended if run.ended is not None else time.time()
    return numbers.seconds(t, max(0.0, end - run.started), rough=True)
