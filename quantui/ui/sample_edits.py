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
from quantui.ui import rail, sample_drafts, sample_sets
from quantui.ui.sample_drafts import SETTINGS, Draft, Step
from quantui.ui.sample_sets import Opened
from quantui.ui.services import Services
from quantui.workspace import Workspace

LEAST = {"samples": 1, "max_tokens": 1, "seed": 0}
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Told:
    """What came of an action.

    Attributes:
        draft: the draft afterwards.
        errors: what went wrong, by what it concerns: "field", "name", or the place of a sample.
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
        draft = sample_drafts.load(workspace, opened.path, opened.seal)
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
    if name not in SETTINGS:
        return Told(draft)
    try:
        values = {each: getattr(now, each) for each in SETTINGS} | {name: _value(services, name, value)}
        wanted = sample_drafts.with_settings(opened.calibration, values)
    except InputError as error:
        return Told(draft, {"field": error}, field=name, typed=str(value))
    except ValidationError as error:
        said = str(error.errors()[0]["msg"]).removeprefix("Value error, ")
        return Told(draft, {"field": CalibrationError(said)}, field=name, typed=str(value))
    return Told(draft if wanted == now else draft.with_step({"do": "settings", "values": values}))


def _value(services: Services, name: str, value: Any) -> Any:
    """What was typed, as the field takes it."""
    if name not in LEAST:
        return value
    text = str(value).strip().replace(",", "").replace("_", "")
    if text.isascii() and text.isdigit() and len(text) < 12 and LEAST[name] <= int(text) <= LARGEST:
        return int(text)
    t = services.t
    raise CalibrationError(t("samples.wrong.number"), todo=t("samples.wrong.number_todo", least=LEAST[name]))


def _change(services: Services, opened: Opened, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """A sample was dropped, moved, pinned or edited."""
    at = asked.get("at")
    at = at if isinstance(at, int) else -1
    try:
        seer = sample_sets.seer_of(services, opened, str(asked.get("model") or ""))
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
    """Writes the samples as they stand; the file they came from is as it was, and so is its draft."""
    workspace = services.workspace
    try:
        folder = _target(services, str(asked.get("name") or "").strip())
        seer = sample_sets.seer_of(services, opened, str(asked.get("model") or ""))
        choice, _ = sample_sets.samples_of(services, opened, draft, seer)
        calibration = sample_drafts.settings_of(opened.calibration, draft)
        saved = edits.save(choice, calibration, folder, workspace.readable_roots)
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
    if not name or "/" in name or "\\" in name or name.startswith(".") or len(name) > 100 or not name.isprintable():
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
