"""Calibration files that are being changed: the steps taken so far, kept in the workspace so that a reload finds them.

A draft holds no samples, only what was done to those its file chooses; doing it again gives the same ones. Whoever changes it
says which revision they have seen, so that two browsers never write over each other.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quantui.calibration.edits import Choice
from quantui.calibration.sample import Sample
from quantui.calibration.schema import Calibration
from quantui.calibration.sources import Chosen
from quantui.workspace import Workspace, write_json

FILE = "calibration-drafts.json"
LOCK = threading.RLock()
"""Held from reading a draft to writing it."""
MOST = 20
"""Drafts that are kept; those touched longest ago go first."""

SETTINGS = (
    "sources", "samples", "max_tokens", "shuffle", "seed", "long", "pack", "template", "languages", "dedupe"
)  # fmt: skip
"""The fields of a calibration file that the page changes: all of them."""

Step = Mapping[str, Any]
"""What was done: `do` (settings, drop, move, pin, edit) with its values; `at` is the place of the sample. The values of
settings are all that differ from the file, as plain data."""


@dataclass(frozen=True)
class Draft:
    """What was done to the samples of one file.

    Attributes:
        path: the calibration file.
        seal: checksum of its text when the first step was taken.
        steps: the first one first.
        revision: grows with every change.
    """

    path: str
    seal: int
    steps: tuple[Step, ...] = ()
    revision: int = 1

    def with_step(self, step: Step) -> Draft:
        """One step more."""
        return replace(self, steps=(*self.steps, step), revision=self.revision + 1)

    def without_last(self) -> Draft:
        """The last step taken back."""
        return replace(self, steps=self.steps[:-1], revision=self.revision + 1)

    @property
    def edits_samples(self) -> bool:
        """Whether more was done than settings changed."""
        return any(step["do"] != "settings" for step in self.steps)


def load(workspace: Workspace, path: str, seal: int, calibration: Calibration) -> Draft:
    """The draft of a file; a fresh one where there is none, or the file has changed since."""
    for body in _all(workspace):
        try:
            if (body["path"], body["seal"]) == (path, seal):
                steps = tuple(_step(step, calibration) for step in body["steps"])
                return Draft(path, seal, steps, int(body["revision"]))
        except (KeyError, TypeError, ValueError):
            continue  # edited by hand into something else
    return Draft(path, seal)


def _step(step: Any, calibration: Calibration) -> Step:
    """A step as it was kept.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    if step["do"] == "settings":
        with_settings(calibration, step["values"])
    elif step["do"] not in ("drop", "move", "pin", "edit") or type(step["at"]) is not int:
        raise ValueError(step["do"])
    return dict(step)


def save(workspace: Workspace, draft: Draft) -> None:
    """Keeps the draft, in front of all others."""
    others = [body for body in _all(workspace) if isinstance(body, dict) and body.get("path") != draft.path]
    body = {"path": draft.path, "seal": draft.seal, "steps": list(draft.steps), "revision": draft.revision}
    write_json(workspace.root / FILE, [body, *others][:MOST])


def _all(workspace: Workspace) -> list[Any]:
    try:
        found = json.loads((workspace.root / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


def plain(calibration: Calibration) -> dict[str, Any]:
    """What a calibration file says, as plain data."""
    return calibration.model_dump(mode="json", exclude_unset=True)


def with_settings(calibration: Calibration, values: Mapping[str, Any]) -> Calibration:
    """The calibration with other settings.

    Raises:
        pydantic.ValidationError: they do not go together, or one is out of range.
    """
    return Calibration.model_validate(plain(calibration) | {name: values[name] for name in SETTINGS if name in values})


def changed_settings(draft: Draft) -> Mapping[str, Any]:
    """The settings that the draft changes."""
    return next((step["values"] for step in reversed(draft.steps) if step["do"] == "settings"), {})


def settings_of(calibration: Calibration, draft: Draft) -> Calibration:
    """The calibration as the draft has it."""
    values = changed_settings(draft)
    return with_settings(calibration, values) if values else calibration


def replayed(
    draw: Callable[[Calibration], Chosen], calibration: Calibration, steps: Sequence[Step]
) -> tuple[Choice, list[str]]:
    """Samples after every step, and what to know of them.

    Where samples are drawn again, pinned ones stay, dropped ones stay away and edited ones stay edited.

    Raises:
        InputError: they cannot be drawn, or a step cannot be taken.
    """
    begun = _settings_first(calibration, steps)
    current, rest = begun
    chosen = draw(current)
    choice, notes = Choice(tuple(chosen.samples)), chosen.notes
    gone: set[str] = set()
    changed: dict[str, Sample] = {}
    for place, step in enumerate(rest):
        following = rest[place + 1]["do"] if place + 1 < len(rest) else ""
        if step["do"] == "settings":
            if following == "settings":
                continue  # which replaces this one
            wanted = with_settings(calibration, step["values"])
            if _drawn_otherwise(current, wanted):
                chosen = draw(wanted)
                fresh = [changed.get(each.content, each) for each in chosen.samples]
                choice = choice.redraw([each for each in fresh if each.content not in gone], wanted.samples)
                notes = chosen.notes
            current = wanted
            continue
        before = choice.samples[step["at"]] if 0 <= step["at"] < len(choice.samples) else None
        choice = applied(choice, step)
        if step["do"] == "drop" and before is not None:
            gone.add(before.content)
        elif step["do"] == "edit" and before is not None:
            changed[before.content] = choice.samples[step["at"]]
    return choice, notes


def applied(choice: Choice, step: Step) -> Choice:
    """The choice after one step.

    Raises:
        CalibrationError: it cannot be taken.
    """
    at = int(step["at"])
    if step["do"] == "drop":
        return choice.drop(at)
    if step["do"] == "move":
        return choice.move(at, int(step["to"]))
    if step["do"] == "pin":
        return choice.pin(at, bool(step["on"]))
    return choice.edit(at, text=step.get("text"), messages=step.get("messages"))


def _settings_first(calibration: Calibration, steps: Sequence[Step]) -> tuple[Calibration, Sequence[Step]]:
    """Settings that were changed before anything else, so that nothing is drawn in vain, and the other steps."""
    begin = next((place for place, step in enumerate(steps) if step["do"] != "settings"), len(steps))
    return (with_settings(calibration, steps[begin - 1]["values"]) if begin else calibration), steps[begin:]


def _drawn_otherwise(before: Calibration, after: Calibration) -> bool:
    """Whether other samples are chosen; where long ones are only cut, neither the cut nor the template changes any."""
    names = set(SETTINGS) - (set() if before.reshapes or after.reshapes else {"max_tokens", "template"})
    return any(getattr(before, name) != getattr(after, name) for name in names)
