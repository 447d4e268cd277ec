"""One answer of the Layers tab: the scores, the choice that the edited recipe makes among them, and what it comes to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantui.errors import CheckpointError, InputError, RecipeError
from quantui.jobs.preflight import EVALUATION_FILE
from quantui.jobs.preflight_sensitivity import prepare_sensitivity
from quantui.jobs.store import Run
from quantui.jobs.tail import snapshot
from quantui.recipe import llmcompressor
from quantui.recipe.llmcompressor.edited import edited
from quantui.recipe.schema import Recipe
from quantui.recipe.words import FLOAT
from quantui.sensitivity import select
from quantui.sensitivity.apply import Forecast, applied, forecast
from quantui.sensitivity.candidates import chosen_schemes, scope_hash
from quantui.sensitivity.scores import Scores
from quantui.sensitivity.sharing import snapped
from quantui.spec import SensitivitySpec
from quantui.stats.kinds import ORDER, place_of
from quantui.ui import drafts, linked, rail, recipes, sensitivity_tables
from quantui.ui.drafts import Draft
from quantui.ui.markup import Markup
from quantui.ui.services import Services
from quantui.ui.widgets import sensitivity_parts as parts
from quantui.ui.widgets import sensitivity_why
from quantui.ui.widgets.facts import problem
from quantui.ui.widgets.sensitivity_bench import SAMPLES
from quantui.ui.widgets.stages import share, underway

Asked = Mapping[str, Any]
RESTORE = "recipe"
"""The scheme that a layer has by the recipe's patterns."""


def answer(services: Services, asked: Asked) -> dict[str, Any]:
    """Does what was asked and tells what came of it.

    Args:
        services: whose workspace and which language.
        asked: `action`, one of ACTIONS, with `model`, `calibration` and `recipe` of the rail, `revision` of the draft the page
            has seen, `scores` (a folder, or empty for the newest), `stamp` of the scores it shows, and what the action needs.
    """
    try:
        return ACTIONS.get(str(asked.get("action")), look)(services, asked)
    except InputError as error:
        return {"parts": {"message": problem(services.t, error)}}


def look(services: Services, asked: Asked) -> dict[str, Any]:
    """Everything, of the scores only what the page does not show yet."""
    draft = recipes.act(services, {"action": "look", "recipe": asked.get("recipe")}).draft
    return _told(services, asked, draft)


def edit(services: Services, asked: Asked) -> dict[str, Any]:
    """Layers take a scheme, each with what it shares its format with."""
    scores = _scores(services, asked)
    names = snapped([str(name) for name in asked.get("layers") or ()], scores.names)
    scheme = str(asked.get("scheme") or FLOAT)
    odd = [name for name in names if scheme != RESTORE and (name, scheme) not in scores.by_layer]
    if odd:
        raise RecipeError(f"{odd[0]} cannot be in {scheme}, whose groups do not divide it", todo="choose another scheme for it")

    def change(recipe: Recipe) -> Recipe:
        now = chosen_schemes(recipe, names, scores.schemes)
        back = _by_patterns(scores, recipe, names)
        wanted = scheme
        if scheme == FLOAT and names and all(now[name] == FLOAT for name in names):
            wanted = RESTORE  # what has fallen back already is taken up again
        return applied(recipe, scores, back if wanted == RESTORE else dict.fromkeys(names, wanted))

    return _changed(services, asked, change)


def take(services: Services, asked: Asked) -> dict[str, Any]:
    """A point of the front becomes the choice."""
    scores = _scores(services, asked)
    units = select.units_of(scores, _allowed(scores, asked))
    points = select.front(units)
    point = points[min(max(int(asked.get("point") or 0), 0), len(points) - 1)]
    return _changed(services, asked, lambda recipe: applied(recipe, scores, select.by_layer(units, point.choice)))


def step(services: Services, asked: Asked) -> dict[str, Any]:
    """Undo or redo."""
    draft = recipes.act(services, {"action": str(asked.get("action")), "revision": asked.get("revision")}).draft
    return _told(services, asked, draft)


def why(services: Services, asked: Asked) -> dict[str, Any]:
    """What is known of one layer."""
    scores = _scores(services, asked)
    name = str(asked.get("layer") or "")
    if name not in scores.names:
        raise CheckpointError(f"there are no scores of the layer {name!r}", todo="choose another")
    card, grid = sensitivity_why.why_card(services, scores, name)
    return {"parts": {"why": card}, "grid": grid, "layer": name}


def start(services: Services, asked: Asked) -> dict[str, Any]:
    """Starts a job that scores the layers, or that measures the choice that has been made."""
    run = services.submit(_spec(services, asked, str(asked.get("method") or "fisher")))
    rail.remember(services.workspace, run=run.id)
    return {"run": run.id}


def found(services: Services, asked: Asked) -> dict[str, Any]:
    """What the last search has found becomes the choice."""
    scores = _scores(services, asked)
    made = sensitivity_tables.searched(services.workspace, scores)
    if made is None:
        raise InputError(services.t("layers.auto.none"), todo=services.t("layers.auto.none_todo"))
    return _changed(services, asked, lambda recipe: applied(recipe, scores, made.choice))


def use(services: Services, asked: Asked) -> dict[str, Any]:
    """Saves the recipe where it is not saved yet, so that it can be quantized with."""
    draft = recipes.act(services, {"action": "look"}).draft
    if draft.now.is_saved:
        return {"recipe": draft.now.base}
    asked_to = {"action": "save", "name": recipes.free_name(services.workspace, draft), "revision": draft.revision}
    told = recipes.act(services, asked_to)
    if "name" in told.errors:
        raise told.errors["name"]
    return {"recipe": told.draft.now.base}


ACTIONS: dict[str, Callable[[Services, Asked], dict[str, Any]]] = {
    "look": look, "edit": edit, "take": take, "undo": step, "redo": step, "why": why, "start": start, "use": use,
    "found": found,
}  # fmt: skip


def _told(services: Services, asked: Asked, draft: Draft) -> dict[str, Any]:
    t, model = services.t, str(asked.get("model") or "")
    if not model:
        raise CheckpointError(t("missing.model"), todo=t("missing.model_todo"))
    recipe = recipes.recipe_of(draft)
    run = sensitivity_tables.going(services.store, model)
    scores, stamp = _shown(services, asked, recipe, run)
    can = {"undo": draft.at > 0, "redo": draft.at + 1 < len(draft.steps)}
    shown = {"message": Markup()}
    if asked.get("action") == "look" or scores is None:  # what scoring costs does not change by a choice, and takes a while
        shown["cost"], shown["auto-cost"], wrong = _cost(services, asked)
        can["start"] = not wrong
        can["auto"] = not wrong and scores is not None and Path(stamp).is_absolute()
        shown["facts"] = parts.facts(t, scores) if scores else parts.none_yet(t, model, wrong)
    told: dict[str, Any] = {"revision": draft.revision, "can": can, "stamp": stamp, "going": _going(services, run)}
    if scores is None:
        return told | linked.changed(shown, asked.get("have"))
    if stamp != asked.get("stamp") or asked.get("allowed") != asked.get("allowed_shown"):
        told["scores"] = table_data(services, scores)
        told["front"] = front_data(scores, _allowed(scores, asked))
    now = forecast(scores, recipe)
    base = _forecast(scores, text) if (text := _saved_text(services, draft)) else now
    if scores.meta.get("recipe_hash") != scope_hash(recipe, scores.schemes):
        shown["message"] = parts.other_recipe(t, scores)
    index = {candidate.name: place for place, candidate in enumerate(scores.schemes)} | {FLOAT: -1}
    told["choice"] = [index.get(now.choice[name], -2) for name in scores.names]
    told["now"] = {"kl": now.kl, "bytes": now.bytes, "bits": now.bits}
    searched = sensitivity_tables.searched(services.workspace, scores)
    told["measured"] = _measured(services, scores, now.choice, searched)
    shown["auto"] = parts.search_line(t, searched, searched is not None and searched.choice == now.choice)
    shown["totals"] = parts.totals(t, scores, base, now, told["measured"])
    shown["diff"] = parts.difference(t, scores, base.choice, now.choice)
    return told | linked.changed(shown, asked.get("have"))


@functools.lru_cache(maxsize=8)
def _forecast(scores: Scores, source: str) -> Forecast:
    """What a recipe's text comes to; that of the saved recipe is asked for with every edit."""
    return forecast(scores, llmcompressor.read(source).recipe)


def table_data(services: Services, scores: Scores) -> dict[str, Any]:
    """The bars: one list a number, in the order of the layers."""
    places = [place_of(name) for name in scores.names]
    rows = [[scores.by_layer.get((name, one.name)) for name in scores.names] for one in scores.schemes]
    group = {row.name: row.group for row in scores.rows}
    return {
        "name": list(scores.names),
        "kind": [place.kind for place in places],
        "block": [place.block for place in places],
        "vision": [place.vision for place in places],
        "group": [group[name] for name in scores.names],
        "schemes": [{"name": one.name, "bits": _bits(one.group)} for one in scores.schemes],
        "kl": [[_plain(row.kl) if row else None for row in of] for of in rows],
        "stderr": [[_plain(row.stderr) if row else None for row in of] for of in rows],
        "floor": scores.meta.get("noise_floor"),
        "unit": services.t(f"layers.unit.{scores.method}"),
        "method": scores.method,
        "order": list(ORDER),
        "finding": parts.finding(services.t, scores),
    }


def front_data(scores: Scores, allowed: Sequence[str] | None) -> dict[str, Any]:
    """The front: bytes of the model, bits a weight and KL of every point, smallest first."""
    units = select.units_of(scores, allowed)
    points = select.front(units)
    return {
        "bytes": [scores.sizes.total(point.bytes) for point in points],
        "bits": [round(scores.sizes.bits(point.bytes), 4) for point in points],
        "kl": [_plain(scores.kl_of(select.by_layer(units, point.choice))) for point in points],
        "floats": [sum(scheme == FLOAT for scheme in point.choice.values()) for point in points],
    }


def _changed(services: Services, asked: Asked, change: Callable[[Recipe], Recipe]) -> dict[str, Any]:
    """The draft after an edit, unless another browser was first."""
    with drafts.LOCK:
        draft = recipes.act(services, {"action": "look", "recipe": asked.get("recipe")}).draft
        if asked.get("revision") != draft.revision:
            return _told(services, asked, draft)
        if not draft.good:
            raise RecipeError("there is no recipe yet that could be changed", todo="open one in the Recipe tab")
        old = recipes.recipe_of(draft)
        new = change(old)
        if new != old:
            draft = drafts.with_step(draft, replace(draft.now, text=edited(draft.good, old, new)))
            drafts.save(services.workspace, draft)
    return _told(services, asked, draft)


def _scores(services: Services, asked: Asked) -> Scores:
    """The scores the page shows.

    Raises:
        InputError: there are none.
    """
    folder = str(asked.get("scores") or "")
    if not folder:
        raise InputError(services.t("layers.none_to_edit"), todo=services.t("layers.none_todo"))
    return sensitivity_tables.open_scores(services.workspace.readable(folder))


def _shown(services: Services, asked: Asked, recipe: Recipe, run: Run | None) -> tuple[Scores | None, str]:
    """The scores to show, a table that grows before all others, and what tells them from others."""
    if run is not None and (growing := sensitivity_tables.partial(run)) is not None:
        return growing, f"{run.id} {growing.meta['samples']}"
    model = services.workspace.readable(str(asked.get("model")))
    found = sensitivity_tables.tables(services.workspace)
    of_model = sensitivity_tables.hash_of(model)
    same = next((one for one in found if one.model_hash == of_model and _is_of(one, recipe)), None)
    chosen = same or sensitivity_tables.best(found, model=of_model, recipe="")
    return (None, "") if chosen is None else (sensitivity_tables.open_scores(chosen.folder), str(chosen.folder))


def _is_of(one: sensitivity_tables.Found, recipe: Recipe) -> bool:
    return one.recipe_hash == scope_hash(recipe, sensitivity_tables.open_scores(one.folder).schemes)


def _going(services: Services, run: Run | None) -> dict[str, Any] | None:
    """How far the job is."""
    if run is None or not isinstance(run.spec, SensitivitySpec):
        return None
    seen = underway(snapshot(services.store, run.id).stages)
    stage = next((one for one in seen if one.state == "running"), None)
    done = share(stage.progress) if stage and stage.progress else None
    return {"id": run.id, "method": run.spec.method, "stage": stage.name if stage else "", "done": done}


def _measured(
    services: Services, scores: Scores, choice: Mapping[str, str], searched: sensitivity_tables.Searched | None
) -> list[dict[str, Any]]:
    probes = [
        {
            "kl": one["kl"], "stderr": None, "bytes": one["bytes"], "foretold": _plain(one["foretold"]),
            "now": one["level"] == searched.level and searched.choice == choice,
        }
        for one in searched.probes
    ] if searched else []  # fmt: skip
    now = {name: scheme for name, scheme in choice.items() if scheme != FLOAT}
    return probes + [
        {
            "kl": one.kl, "stderr": one.stderr, "bytes": one.bytes, "foretold": _plain(scores.kl_of(one.choice | one.cached)),
            "now": {name: scheme for name, scheme in one.choice.items() if scheme != FLOAT} == now,
        }
        for one in sensitivity_tables.measured(services.workspace, scores)
    ]  # fmt: skip


def _saved_text(services: Services, draft: Draft) -> str:
    """The text of the file the draft came from; empty where there is none that can be read."""
    try:
        text = drafts.opened(services.workspace, draft.now.base).text if draft.now.base else ""
    except InputError:
        return ""
    return text if drafts.is_readable(text) else ""


def _by_patterns(scores: Scores, recipe: Recipe, names: Sequence[str]) -> dict[str, str]:
    """The scheme each layer has where no rule names it alone."""
    plain = recipe.model_copy(
        update={
            "groups": tuple(g for g in recipe.groups if any(target not in scores.names for target in g.targets)),
            "ignore": tuple(entry for entry in recipe.ignore if entry not in names),
        }
    )
    return chosen_schemes(plain, names, scores.schemes)


def _allowed(scores: Scores, asked: Asked) -> list[str] | None:
    """The schemes that a front may use: all, or the recipe's own beside float."""
    return [scores.schemes[0].name] if asked.get("allowed") == "own" else None


def _cost(services: Services, asked: Asked) -> tuple[Markup, Markup, bool]:
    """What scoring takes and what a search takes, or what stands in the way, and whether something does."""
    t = services.t
    if not asked.get("calibration"):
        return parts.needs_calibration(t), Markup(), True
    try:
        spec = _spec(services, asked, str(asked.get("method") or "fisher"))
    except InputError as error:
        return problem(t, error), Markup(), True
    questions = _questions(asked) if asked.get("target") != "kl" else None
    search = spec.model_copy(update={"method": "auto", "evaluation": questions})
    return parts.cost_line(t, spec), parts.cost_line(t, search), False


def _questions(asked: Asked) -> str | None:
    """The held-out questions beside the calibration file, if there are any."""
    beside = Path(str(asked.get("calibration") or "")).parent / EVALUATION_FILE
    return str(beside) if beside.is_file() else None


def _search(services: Services, asked: Asked) -> dict[str, Any]:
    """What a search is asked to hold.

    Raises:
        InputError: it is no target, or nothing can tell whether it holds.
    """
    t, kind = services.t, "kl" if asked.get("target") == "kl" else "exact_match"
    limit = asked.get("limit")
    if not isinstance(limit, int | float) or limit < 0 or (kind == "exact_match" and limit > 1):
        raise InputError(t("layers.auto.wrong"), todo=t(f"layers.auto.wrong_{kind}"))
    questions = _questions(asked)
    if kind == "exact_match" and questions is None:
        raise InputError(t("layers.auto.no_questions", file=EVALUATION_FILE), todo=t("layers.auto.no_questions_todo"))
    return {"scores": str(asked.get("scores") or ""), "target": f"{kind}={limit}", "evaluation": questions}


def _spec(services: Services, asked: Asked, method: str) -> SensitivitySpec:
    draft = recipes.act(services, {"action": "look", "recipe": asked.get("recipe")}).draft
    model = str(asked.get("model") or "")
    name = Path(draft.now.base).stem if draft.now.base else "recipe"
    return prepare_sensitivity(
        services.workspace,
        model=model,
        calibration=str(asked.get("calibration") or ""),
        recipe=name,
        recipe_text=draft.good,
        out=str(sensitivity_tables.free_name(services.workspace, services.store, model, method)),
        method=method,
        samples=_samples(asked),
        **(_search(services, asked) if method == "auto" else {}),
    )


def _samples(asked: Asked) -> int:
    """How many samples are used at most."""
    given = asked.get("samples")
    return max(int(given), 1) if isinstance(given, int | float) and math.isfinite(given) else SAMPLES


def _bits(group: Any) -> int:
    return int(group.weights.num_bits) if group.weights is not None else 16


def _plain(value: float, digits: int = 5) -> float | None:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
