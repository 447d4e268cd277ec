"""The recipe that is being edited: its text and every step that led to it, kept in the workspace so that a reload finds it.

The text is the truth; a recipe is what reads out of it. Whoever changes it says which revision they have seen, so that two
browsers never write over each other.
"""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quantui.errors import InputError, RecipeError
from quantui.recipe import llmcompressor, text
from quantui.ui.files import sealed
from quantui.workspace import RECIPES, Workspace, write_json

FILE = "recipe-draft.json"
LOCK = threading.RLock()
"""Held from reading the draft to writing it."""

MOST = 200
"""Steps that can be undone."""
LARGEST = 4_000_000
"""Characters of all steps together; the oldest go first."""
PAUSE = 1.5
"""Seconds: what is typed without such a pause is one step."""


@dataclass(frozen=True)
class Step:
    """A state the recipe was in.

    Attributes:
        base: the file it was opened from or saved to; empty for one that was pasted.
        seal: checksum of that file's text at that time.
        text: the YAML.
    """

    base: str
    seal: int
    text: str

    @property
    def is_saved(self) -> bool:
        """Whether the text is what the file held."""
        return bool(self.base) and sealed(self.text) == self.seal


@dataclass(frozen=True)
class Draft:
    """What is being edited.

    Attributes:
        steps: every state, the first the oldest.
        at: which of them is shown.
        good: the last text that could be read as a recipe.
        picked: the recipe that the rail had when this was last looked at.
        revision: grows with every change.
        typed: when the last letter was typed, 0 after every other edit.
    """

    steps: tuple[Step, ...]
    at: int = 0
    good: str = ""
    picked: str = ""
    revision: int = 1
    typed: float = 0.0

    @property
    def now(self) -> Step:
        """The state that is shown."""
        return self.steps[self.at]


def load(workspace: Workspace) -> Draft | None:
    """The draft of a workspace; None where there is none, or it was edited by hand into something else."""
    try:
        body: dict[str, Any] = json.loads((workspace.root / FILE).read_text(encoding="utf-8"))
        steps = tuple(Step(str(s["base"]), int(s["seal"]), str(s["text"])) for s in body["steps"])
        at, revision = int(body["at"]), int(body["revision"])
        known = Draft(steps, at, str(body["good"]), str(body["picked"]), revision, float(body["typed"]))
        return known if 0 <= at < len(steps) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(workspace: Workspace, draft: Draft) -> None:
    """Keeps the draft."""
    write_json(workspace.root / FILE, asdict(draft))


def opened(workspace: Workspace, path: str) -> Step:
    """The state a recipe file is in when it is opened.

    Raises:
        InputError: it cannot be read.
    """
    file = workspace.readable(path)
    try:
        if file.exists() and not file.is_file():
            raise RecipeError("it is a folder or device, not a file", where=path, todo="check the path of the recipe")
        if file.stat().st_size > text.LONGEST:
            raise RecipeError("the file is too large for a recipe", where=path, todo="check the path of the recipe")
        source = file.read_text(encoding="utf-8")
    except OSError as error:
        what = f"the recipe cannot be read ({error.strerror})"
        raise RecipeError(what, where=path, todo="check the path of the recipe") from error
    except UnicodeDecodeError as error:
        raise RecipeError("the recipe is not UTF-8 text", where=path, todo="save it as UTF-8") from error
    return Step(path, sealed(source), source)


def started(workspace: Workspace, path: str) -> Draft:
    """A draft of a file, or an empty one where it cannot be read."""
    try:
        step = opened(workspace, path)
    except InputError:
        step = Step("", 0, "")
    return Draft((step,), good=step.text if is_readable(step.text) else "", picked=path)


def with_step(draft: Draft, step: Step, *, typed: bool = False) -> Draft:
    """The draft in another state, which can be undone; what was undone before is forgotten."""
    if step == draft.now:
        return draft
    now = time.time()
    goes_on = typed and now - draft.typed < PAUSE and draft.at == len(draft.steps) - 1 and draft.at > 0
    steps = (*draft.steps[: draft.at + (0 if goes_on else 1)], step)[-MOST:]
    while len(steps) > 2 and sum(len(each.text) for each in steps) > LARGEST:
        steps = steps[1:]
    return _at(replace(draft, steps=steps, typed=now if typed else 0.0), len(steps) - 1)


def moved(draft: Draft, by: int) -> Draft:
    """One step back (-1) or forth (1), where there is one."""
    at = draft.at + by
    return _at(replace(draft, typed=0.0), at) if 0 <= at < len(draft.steps) else draft


def _at(draft: Draft, at: int) -> Draft:
    now = draft.steps[at].text
    return replace(draft, at=at, good=now if is_readable(now) else draft.good, revision=draft.revision + 1)


def is_readable(source: str) -> bool:
    """Whether a text is a recipe."""
    try:
        llmcompressor.read(source)
    except InputError:
        return False
    return True


def is_shipped(path: str) -> bool:
    """Whether it is one of the recipes that come with the program, which nothing writes to."""
    return bool(path) and Path(path).parent == RECIPES
