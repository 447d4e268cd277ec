"""What the Calibration tab does: settings and samples changed as steps of a draft, taken back, and saved as a new file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantui.calibration import edits
from quantui.errors import CalibrationError, InputError, OutputError
from quantui.ui import rail, sample_drafts, sample_sets, sample_sources
from quantui.ui.files import is_plain_name
from quantui.ui.sample_drafts import Draft, Step
from quantui.ui.sample_sets import Opened
from quantui.ui.sample_settings import settings
from quantui.ui.services import Services
from quantui.workspace import Workspace


@dataclass(frozen=True)
class Told:
    """What came of an action.

    Attributes:
        draft: the draft afterwards.
        errors: what went wrong, by what it concerns: "field", "source" (the one that is being added or changed), "sources",
            "name", or the place of a sample.
        field: the field of the form that refused a value.
        typed: that value.
        saved: the file that was written.
        stale: whether another browser has changed the draft meanwhile, so that nothing was done.
    """

    draft: Draft
    errors: Mapping[str | int, InputError] = field(default_factory=dict)
    field: str = ""
    typed: str = ""
    saved: str = ""
    stale: bool = False


def act(services: Services, opened: Opened, asked: Mapping[str, Any]) -> Told:
    """Does what the page asks for, unless another browser was first."""
    workspace = services.workspace
    with sample_drafts.LOCK:
        draft = sample_drafts.load(workspace, opened.path, opened.seal, opened.calibration)
        action = ACTIONS.get(str(asked.get("action")))
        if action is None:
            return Told(draft)
        if asked.get("revision") != draft.revision:
            return Told(draft, stale=True)
        told = action(services, opened, draft, asked)
        if told.draft != draft:
            sample_drafts.save(workspace, told.draft)
        return told


def _set(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """A field of the form was changed."""
    name, value = str(asked.get("name") or ""), asked.get("value")
    now = sample_drafts.settings_of(opened.calibration, draft)

    def template() -> str:
        model = str(asked.get("model") or "")
        return sample_sets.seer_of(services, now.model_copy(update={"template": None}), model).words.template

    try:
        values = settings(services, now, name, value, base=opened.file.parent, template=template)
        return Told(draft if values is None else _with(opened, draft, values))
    except InputError as error:
        return Told(draft, {"field": error}, field=name, typed=str(value))


def _with(opened: Opened, draft: Draft, values: Mapping[str, Any]) -> Draft:
    """The draft with other settings.

    Raises:
        CalibrationError: they do not go together.
    """
    now = sample_drafts.settings_of(opened.calibration, draft)
    wanted = {**sample_drafts.changed_settings(draft), **values}
    try:
        made = sample_drafts.with_settings(opened.calibration, wanted)
    except ValidationError as error:
        raise CalibrationError(str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
    return draft if made == now else draft.with_step({"do": "settings", "values": wanted})


def _source(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """A source was added or changed in its form, moved, or taken out."""
    now, action, at = sample_drafts.settings_of(opened.calibration, draft), asked.get("action"), asked.get("at")
    form = sample_sources.form_of(asked.get("source"), now)
    try:
        if action == "source-take":
            if form is None:
                return Told(draft)
            found = sample_sources.applied(services, now, form, opened.file.parent)
        elif type(at) is not int or not 0 <= at < len(now.sources):
            return Told(draft)
        elif action == "source-remove":
            found = sample_sources.without(services, now, at)
        else:
            found = sample_sources.moved(now, at, 1 if action == "source-down" else -1)
        return Told(_with(opened, draft, {"sources": found}))
    except InputError as error:
        return Told(draft, {"source" if action == "source-take" else "sources": error})


def _change(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """A sample was dropped, moved, pinned or edited."""
    at = asked.get("at")
    at = at if isinstance(at, int) else -1
    try:
        calibration = sample_drafts.settings_of(opened.calibration, draft)
        seer = sample_sets.seer_of(services, calibration, str(asked.get("model") or ""))
        choice, _ = sample_sets.samples_of(services, opened, draft, seer)
        step = _step(str(asked["action"]), at, asked, pinned=0 <= at < len(choice.samples) and choice.is_pinned(at))
        after = sample_drafts.applied(choice, step)
    except InputError as error:
        return Told(draft, {at: error})
    return Told(draft if after == choice else draft.with_step(step))


def _step(action: str, at: int, asked: Mapping[str, Any], *, pinned: bool) -> Step:
    if action in ("up", "down"):
        return {"do": "move", "at": at, "to": at + (1 if action == "down" else -1)}
    if action == "pin":
        return {"do": "pin", "at": at, "on": not pinned}
    if action == "take":
        words = {name: asked[name] for name in ("text", "messages") if asked.get(name) is not None}
        return {"do": "edit", "at": at, **words}
    return {"do": "drop", "at": at}


def _undo(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    return Told(draft.without_last() if draft.steps else draft)


def _revert(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    return Told(replace(draft, steps=(), revision=draft.revision + 1) if draft.steps else draft)


def _save(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """Writes the samples as they stand where they were changed by hand, else the settings; the file itself stays as it was."""
    workspace = services.workspace
    try:
        folder = _target(services, str(asked.get("name") or "").strip())
        calibration = sample_drafts.settings_of(opened.calibration, draft)
        if draft.edits_samples:
            seer = sample_sets.seer_of(services, calibration, str(asked.get("model") or ""))
            choice, _ = sample_sets.samples_of(services, opened, draft, seer)
            saved = edits.save(choice, calibration, folder, workspace.readable_roots)
        else:
            saved = edits.save_settings(calibration, folder, workspace.readable_roots)
        _carry_questions(opened.file.parent / "evaluation.jsonl", folder)
    except InputError as error:
        return Told(draft, {"name": error})
    rail.remember(workspace, calibration=str(saved))
    return Told(replace(draft, steps=(), revision=draft.revision + 1), saved=str(saved))


def _target(services: Services, name: str) -> Path:
    """The folder a name stands for.

    Raises:
        OutputError: it is no plain name, or is taken.
    """
    t = services.t
    if not is_plain_name(name):
        raise OutputError(t("recipe.name.none"), todo=t("recipe.name.todo"))
    folder = services.workspace.writable(services.workspace.calibration / name)
    if folder.exists():
        raise OutputError(t("samples.name.taken"), todo=t("recipe.name.todo"))
    return folder


def _carry_questions(questions: Path, folder: Path) -> None:
    """The evaluation data goes with the samples, so that a run with them is measured as before."""
    if not questions.is_file():
        return
    try:
        lines = []
        for line in questions.read_text(encoding="utf-8").splitlines():
            row = json.loads(line) if line.strip() else None
            if isinstance(row, dict) and isinstance(row.get("image"), str):
                row["image"] = str(questions.parent / row["image"])
            lines.append(line if row is None else json.dumps(row, ensure_ascii=False))
        (folder / questions.name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    except (OSError, ValueError):
        return  # a run with the file it came from says what is wrong with it


def free_name(workspace: Workspace, path: str) -> str:
    """A name to save under that nothing has yet."""
    file = Path(path)
    stem = (file.parent.name if file.stem == "calibration" else file.stem).rstrip("0123456789").rstrip("-") or file.stem
    stem = stem if stem.endswith("-edited") else f"{stem}-edited"
    name, number = stem, 2
    while (workspace.calibration / name).exists():
        name, number = f"{stem}-{number}", number + 1
    return name


ACTIONS: Mapping[str, Callable[[Services, Opened, Draft, Mapping[str, Any]], Told]] = {
    "field": _set,
    "source-take": _source,
    "source-up": _source,
    "source-down": _source,
    "source-remove": _source,
    "up": _change,
    "down": _change,
    "pin": _change,
    "take": _change,
    "drop": _change,
    "undo": _undo,
    "revert": _revert,
    "save": _save,
}
"""What the page may ask for, by name; everything else only looks."""
