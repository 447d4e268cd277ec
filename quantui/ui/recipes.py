"""What the Recipe tab does: every edit as a change of the draft, and everything the page shows of it as one answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quantui.errors import AccessError, InputError, OutputError, RecipeError
from quantui.recipe import edit, llmcompressor
from quantui.recipe.importing import Imported, import_text
from quantui.recipe.llmcompressor.edited import edited
from quantui.recipe.schema import Recipe
from quantui.recipe.text import LONGEST
from quantui.ui import drafts, rail
from quantui.ui.drafts import Draft, Step
from quantui.ui.files import is_plain_name, sealed
from quantui.ui.services import Services
from quantui.workspace import RECIPES, Workspace, write_text


@dataclass(frozen=True)
class Told:
    """What came of an action.

    Attributes:
        draft: the draft afterwards.
        errors: what went wrong, by what it concerns: "field", "layers", "name", "paste", "title".
        typed: the value that a field of the form refused.
        field: that field.
        pasted: what a pasted text would become.
        saved: whether a file was written.
        stale: whether another browser has changed the draft meanwhile, so that nothing was done.
    """

    draft: Draft
    errors: Mapping[str, InputError] = field(default_factory=dict)
    typed: str = ""
    field: str = ""
    pasted: Imported | None = None
    saved: bool = False
    stale: bool = False


def act(services: Services, asked: Mapping[str, Any]) -> Told:
    """Does what the page asks for, unless another browser was first."""
    workspace = services.workspace
    with drafts.LOCK:
        known = drafts.load(workspace)
        draft = known or drafts.started(workspace, str(asked.get("recipe") or rail.load(workspace).recipe))
        action = ACTIONS.get(str(asked.get("action")), _look)
        if action not in (_look, _preview) and asked.get("revision") != draft.revision:
            return Told(draft, stale=True)
        told = action(services, draft, asked)
        if told.draft != known:
            drafts.save(workspace, told.draft)
        return told


def recipe_of(draft: Draft) -> Recipe:
    """The last recipe that could be read; one that quantizes nothing where there was none."""
    try:
        return llmcompressor.read(draft.good).recipe if draft.good else Recipe()
    except InputError:
        return Recipe()


def _look(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """Nothing is changed, unless another recipe was picked in the rail: then that is opened."""
    picked = str(asked.get("recipe") or "")
    if not picked or picked == draft.picked:
        return Told(draft)
    return _open(services, draft, {"path": picked})


def _open(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    path = str(asked.get("path") or "")
    if path == draft.now.base:
        return Told(replace(draft, picked=path))
    try:
        step = drafts.opened(services.workspace, path)
    except InputError as error:
        return Told(replace(draft, picked=path), {"title": error})
    return Told(replace(drafts.with_step(draft, step), picked=path))


def _typed(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    source = str(asked.get("text") or "")[: LONGEST + 1].encode("utf-8", "replace").decode("utf-8")
    return Told(drafts.with_step(draft, replace(draft.now, text=source), typed=True))


def _field(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    name, value = str(asked.get("name") or ""), asked.get("value")
    try:
        return Told(_changed(draft, lambda recipe: edit.set_value(recipe, name, value)))
    except InputError as error:
        return Told(draft, {"field": error}, typed="" if value is None else str(value), field=name)


def _layers(change: Callable[[Recipe, list[str], Mapping[str, Any]], Recipe]) -> Action:
    def act(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
        names = [str(name) for name in asked.get("layers") or ()]
        try:
            return Told(_changed(draft, lambda recipe: change(recipe, names, asked)))
        except InputError as error:
            return Told(draft, {"layers": error})

    return act


def _group(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    try:
        return Told(_changed(draft, lambda recipe: edit.remove_group(recipe, str(asked.get("group")))))
    except InputError as error:
        return Told(draft, {"field": error}, field="targets")


def _undo(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    return Told(drafts.moved(draft, -1))


def _redo(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    return Told(drafts.moved(draft, 1))


def _revert(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """Back to the file, as one more step."""
    try:
        return Told(drafts.with_step(draft, drafts.opened(services.workspace, draft.now.base)))
    except InputError as error:
        return Told(draft, {"title": error})


def _preview(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """What a pasted text would become."""
    try:
        return Told(draft, pasted=import_text(str(asked.get("text") or "")))
    except InputError as error:
        return Told(draft, {"paste": error})


def _take(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """A pasted text becomes the recipe that is edited; llm-compressor's YAML keeps its comments where it needs no change."""
    source = str(asked.get("text") or "")
    try:
        made = import_text(source)
        kept = made.vocabulary == "llmcompressor" and not made.notes
        written = source if kept else llmcompressor.dumps(made.recipe, comment=services.t("recipe.import.comment"))
        llmcompressor.read(written)
    except InputError as error:
        return Told(draft, {"paste": error})
    return Told(drafts.with_step(draft, Step("", 0, written)))


def _save(services: Services, draft: Draft, asked: Mapping[str, Any]) -> Told:
    """Writes the recipe under a name and goes on from there."""
    try:
        path = _target(services, draft, str(asked.get("name") or "").strip())
        llmcompressor.read(draft.now.text)
        write_text(path, draft.now.text)
    except InputError as error:
        return Told(draft, {"name": error})
    step = Step(str(path), sealed(draft.now.text), draft.now.text)
    return Told(replace(drafts.with_step(draft, step), picked=str(path)), saved=True)


Action = Callable[[Services, Draft, Mapping[str, Any]], Told]
ACTIONS: dict[str, Action] = {
    "open": _open,
    "text": _typed,
    "field": _field,
    "float": _layers(lambda recipe, names, _: edit.fall_back(recipe, names)),
    "restore": _layers(lambda recipe, names, asked: edit.restore(recipe, names, asked.get("every") or ())),
    "scheme": _layers(lambda recipe, names, asked: edit.give_scheme(recipe, names, str(asked.get("scheme") or ""))),
    "group": _group,
    "undo": _undo,
    "redo": _redo,
    "revert": _revert,
    "preview": _preview,
    "take": _take,
    "save": _save,
}
"""What the page may ask for; anything else is a look."""


def free_name(workspace: Workspace, draft: Draft) -> str:
    """The name to save under: its own where it may be written to, else one that nothing has yet."""
    base = draft.now.base
    own = Path(base).stem
    if base and Path(base).parent == workspace.recipes:
        return own
    stem = f"{own}-edited" if own else "imported"
    name, number = stem, 2
    while (workspace.recipes / f"{name}.yaml").exists():
        name, number = f"{stem}-{number}", number + 1
    return name


def _changed(draft: Draft, change: Callable[[Recipe], Recipe]) -> Draft:
    """The draft after an edit of its last readable recipe.

    Raises:
        RecipeError: the edit is refused.
    """
    if not draft.good:
        what = "there is no recipe yet that could be changed"
        raise RecipeError(what, where="recipe", todo="correct the marked line, or open a recipe")
    old = recipe_of(draft)
    new = change(old)
    if new == old and draft.now.text == draft.good:
        return draft
    return drafts.with_step(draft, replace(draft.now, text=edited(draft.good, old, new)))


def _target(services: Services, draft: Draft, name: str) -> Path:
    """The file a recipe is saved to.

    Raises:
        OutputError: the name is none, or of a recipe that is not this one.
    """
    t, workspace = services.t, services.workspace
    if not is_plain_name(name):
        raise OutputError(t("recipe.name.none"), todo=t("recipe.name.todo"))
    if (RECIPES / f"{name}.yaml").exists():
        raise OutputError(t("recipe.name.shipped"), todo=t("recipe.name.todo"))
    try:
        path = workspace.writable(workspace.recipes / f"{name}.yaml")
    except AccessError as error:
        raise OutputError(error.what, where=error.where, todo=t("recipe.name.todo")) from error
    if str(path) != draft.now.base and path.exists():
        raise OutputError(t("recipe.name.taken"), todo=t("recipe.name.taken_todo"))
    if path.exists() and drafts.opened(workspace, str(path)).seal != draft.now.seal:
        raise OutputError(t("recipe.name.changed"), todo=t("recipe.name.todo"))
    return path
