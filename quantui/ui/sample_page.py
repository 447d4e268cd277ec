"""One answer of the Calibration tab: the samples of the draft as the model gets them, or the set in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantui.calibration.advice import advise
from quantui.calibration.cost import forecast
from quantui.calibration.edits import Choice
from quantui.calibration.preview import Seer, see
from quantui.calibration.schema import Calibration
from quantui.calibration.survey import survey
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import InputError
from quantui.ui import linked, numbers, sample_drafts, sample_sets, sample_sources
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, tag
from quantui.ui.sample_drafts import Draft
from quantui.ui.sample_edits import Told, act, free_name
from quantui.ui.sample_sets import Opened
from quantui.ui.services import Services
from quantui.ui.widgets import sample_bench
from quantui.ui.widgets.facts import empty, problem
from quantui.ui.widgets.sample_facts import set_facts
from quantui.ui.widgets.sample_sources import sources_list
from quantui.ui.widgets.samples import sample_cards

FIRST = 20
"""Samples that are shown at first, and more each time more are asked for."""
MOST = 400
"""Samples that are shown at most."""


def answer(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Does what was asked and shows what came of it.

    Args:
        services: whose workspace and which language.
        asked: `part` samples or facts; `action` with what it needs (see `sample_edits.ACTIONS`), `revision` of the draft the
            page has seen, `model`, `calibration` and `recipe` of the rail, `have` (digests of the parts it shows), `shown`
            samples, whether `boundaries` of tokens are, the sample being edited (`editing`), and the `source` that is being
            added or changed.
    """
    parts: dict[str, Markup]
    told: dict[str, Any]
    if asked.get("part") == "facts":
        parts, told = _facts(services, asked)
    else:
        parts, told = _samples(services, asked)
    return told | linked.changed(parts, asked.get("have"))


def _samples(services: Services, asked: Mapping[str, Any]) -> tuple[dict[str, Markup], dict[str, Any]]:
    t = services.t
    path = str(asked.get("calibration") or "")
    try:
        opened = sample_sets.opened(services.workspace, path)
    except InputError as error:
        said = problem(t, error) if path else empty(t("rail.no_calibration"))
        parts = {"title": said, "form": Markup(), "list": empty(t("samples.blocked")), "name": Markup(), "count": Markup()}
        return parts, {"revision": 0, "can": {}, "name": "", "picked": "", "failed": ["title"], "more": False}
    told = act(services, opened, asked)
    draft = told.draft
    calibration = sample_drafts.settings_of(opened.calibration, draft)
    wanted = asked.get("shown")
    shown = max(FIRST, min(wanted, MOST)) if type(wanted) is int else FIRST
    cards, more = _cards(services, opened, told, asked, shown)
    stale = tag("p", t("samples.stale"), cls="bad", role="alert") if told.stale else None
    parts = {
        "title": join(sample_bench.title(t, path, bool(draft.steps)), stale),
        "form": _form(services, opened, told, calibration, asked),
        "list": cards,
        "name": problem(t, told.errors["name"]) if "name" in told.errors else Markup(),
    }
    changed = bool(draft.steps)
    rest = {
        "revision": draft.revision,
        "can": {"undo": changed, "revert": changed, "save": changed},
        "name": free_name(services.workspace, path),
        "picked": told.saved,
        "failed": sorted(map(str, told.errors)),
        "more": more and shown < MOST,
    }
    return parts, rest


def _form(services: Services, opened: Opened, told: Told, calibration: Calibration, asked: Mapping[str, Any]) -> Markup:
    """The settings, and the source that is being added or changed as long as that has not been applied."""
    t = services.t
    applied = asked.get("action") == "source-take" and "source" not in told.errors
    form = None if applied else sample_sources.form_of(asked.get("source"), calibration)
    browsed, form_said = None, _problem(t, told, "source")
    if form is not None and form.browsing:
        try:
            browsed = sample_sources.browsed(services.workspace, form, opened.file.parent)
        except InputError as error:
            form_said = problem(t, error)
    refused = _problem(t, told, "field")
    wrong = {told.field: refused} if refused is not None else {}
    typed = {told.field: told.typed} if told.field else {}
    sources = sources_list(
        t,
        calibration,
        form=form,
        form_said=form_said,
        said=_problem(t, told, "sources"),
        wrong=wrong,
        typed=typed,
        browsed=browsed,
    )
    return sample_bench.form(t, calibration, wrong, typed, sources)


def _problem(t: Translator, told: Told, concern: str) -> Markup | None:
    return problem(t, told.errors[concern]) if concern in told.errors else None


def _cards(services: Services, opened: Opened, told: Told, asked: Mapping[str, Any], shown: int) -> tuple[Markup, bool]:
    """The first samples, and whether there are more; what stands in their way instead."""
    t, draft = services.t, told.draft
    try:
        calibration = sample_drafts.settings_of(opened.calibration, draft)
        seer = sample_sets.seer_of(services, calibration, str(asked.get("model") or ""))
        choice, _ = sample_sets.samples_of(services, opened, draft, seer, limit=shown + 1)
        views = see(seer, choice.samples[:shown], calibration.max_tokens)
    except InputError as error:
        return problem(t, error), False
    editing = asked.get("editing")
    wrong = {at: error for at, error in told.errors.items() if isinstance(at, int)}
    cards = sample_cards(
        t,
        views,
        choice,
        boundaries=bool(asked.get("boundaries")),
        editing=editing if isinstance(editing, int) else None,
        wrong=wrong,
    )
    return cards, len(choice.samples) > shown


def _facts(services: Services, asked: Mapping[str, Any]) -> tuple[dict[str, Markup], dict[str, Any]]:
    t = services.t
    try:
        opened = sample_sets.opened(services.workspace, str(asked.get("calibration") or ""))
        draft = sample_drafts.load(services.workspace, opened.path, opened.seal, opened.calibration)
        calibration = sample_drafts.settings_of(opened.calibration, draft)
        seer = sample_sets.seer_of(services, calibration, str(asked.get("model") or ""))
        choice, notes = sample_sets.samples_of(services, opened, draft, seer)
    except InputError:  # which is said where the samples would be
        return {"facts": empty(t("samples.set.blocked")), "count": Markup()}, {"revision": asked.get("revision")}
    count = tag("span", numbers.whole(len(choice.samples)))
    try:
        facts = _counted(services, opened, draft, (seer, choice, notes), asked)
    except InputError as error:
        facts = problem(t, error)
    return {"facts": facts, "count": count}, {"revision": draft.revision}


def _counted(
    services: Services, opened: Opened, draft: Draft, drawn: tuple[Seer, Choice, list[str]], asked: Mapping[str, Any]
) -> Markup:
    seer, choice, notes = drawn
    calibration = sample_drafts.settings_of(opened.calibration, draft)
    if draft.edits_samples:  # samples that were dropped are not missing
        calibration = calibration.model_copy(update={"samples": min(calibration.samples, len(choice.samples))})
    found = survey(seer, choice.samples, calibration, notes)
    cost = forecast(open_checkpoint(seer.folder), found.samples, found.total_tokens, found.longest)
    model, recipe = str(asked.get("model") or ""), str(asked.get("recipe") or "")
    said = advise(
        found,
        vision_quantized=seer.reads_pictures and sample_sets.quantizes_vision(services, model, recipe),
        evaluation_languages=sample_sets.evaluation_languages(services.workspace, opened),
    )
    return set_facts(services.t, found, cost, said, calibration)
