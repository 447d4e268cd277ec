"""The stages of a run: what is done, what is going on and how long it still takes."""

from __future__ import annotations

from dataclasses import replace

from quantui.events import Progress
from quantui.jobs.tail import StageState
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, tag


def stage_list(t: Translator, stages: tuple[StageState, ...], kind: str, *, cancelled: bool = False) -> Markup:
    """One line a stage of a `kind` of job, with a bar under the one that runs.

    In a `cancelled` run the last one was stopped, and is not at fault.
    """
    return tag("ol", *(_stage(t, stage, kind, cancelled) for stage in stages), cls="stages")


def underway(stages: tuple[StageState, ...]) -> tuple[StageState, ...]:
    """The stages of a job that goes on: between two of them the next one counts as running, so that one always does."""
    if any(stage.state == "running" for stage in stages):
        return stages
    following = next((i for i, stage in enumerate(stages) if stage.state == "waiting"), None)
    if following is None:
        return stages
    begun = replace(stages[following], state="running")
    return (*stages[:following], begun, *stages[following + 1 :])


def share(progress: Progress | None) -> float | None:
    """How much of a stage is done, 0 to 1, counting the part of the current unit; None while it cannot be told."""
    if progress is None or progress.total <= 0 or (progress.total == 1 and progress.part_total <= 0):
        return None
    part = progress.part_done / progress.part_total if progress.part_total > 0 else 0.0
    return min(1.0, (progress.done + min(part, 1.0)) / progress.total)


def detail(t: Translator, progress: Progress | None, seconds: float | None = None) -> str:
    """ "layer 3 of 4, sample 120 of 256", or "1.2 GB of 3.1 GB, 450 MB/s" after so many seconds, as far as it is known."""
    if progress is None or progress.total <= 0 or (progress.total == 1 and progress.part_total <= 0):
        return ""
    if progress.unit == "B":
        read = [t("stage.bytes", done=numbers.size(progress.done), total=numbers.size(progress.total))]
        if seconds and progress.done:
            read.append(t("stage.speed", size=numbers.size(progress.done / seconds)))
        return t("list.comma").join(read)
    inside = progress.part_total > 0
    unit = t.known(f"unit.one.{progress.unit}", progress.unit)
    # The unit being worked on is the next one; a stage without parts counts what is finished.
    position = min(progress.done + 1, progress.total) if inside else progress.done
    texts = [t("stage.of", unit=unit, i=numbers.whole(position), n=numbers.whole(progress.total)).strip()]
    if inside:
        part = t.known(f"unit.one.{progress.part_unit}", progress.part_unit)
        at, of = numbers.whole(progress.part_done), numbers.whole(progress.part_total)
        texts.append(t("stage.of", unit=part, i=at, n=of).strip())
    return t("list.comma").join(texts)


def _stage(t: Translator, stage: StageState, kind: str, cancelled: bool) -> Markup:
    state = "cancelled" if cancelled and stage.state == "failed" else stage.state
    done = share(stage.progress)
    running = stage.state == "running"
    left = stage.progress.seconds_left if running and stage.progress else None
    remaining = t("stage.left", time=numbers.seconds(t, left, rough=True)) if left and left >= 1 else ""
    # What ticks is shown in whole seconds, and nothing at all in the first one.
    ticking = numbers.seconds(t, stage.seconds, rough=True) if stage.seconds and stage.seconds >= 1 else ""
    took = ticking if running else numbers.seconds(t, stage.seconds) if stage.seconds is not None else ""
    name = t.known(f"stage.name.{stage.name}", stage.name)
    hint = t.known(f"hint.stage.{kind}.{stage.name}", t.known(f"hint.stage.{stage.name}", name))
    bar = None
    if running:
        width = f"width:{done * 100:.1f}%" if done is not None else None
        inner = tag("i", style=width)
        percent = round(done * 100) if done is not None else None
        bar = tag("div", inner, cls="bar" if done is not None else "bar unknown", role="progressbar",
                  aria_label=name, aria_valuemin=0, aria_valuemax=100, aria_valuenow=percent)  # fmt: skip
    return tag(
        "li",
        tag("i", cls="mark", aria_label=t(f"stage.state.{state}"), role="img"),
        tag("span", name, cls="name", title=hint),
        tag("span", detail(t, stage.progress, stage.seconds) if running else "", cls="detail"),
        tag("span", remaining, cls="left"),
        tag("span", took, cls="took"),
        bar,
        cls=f"stage {state}",
        data_stage=stage.name,
    )
