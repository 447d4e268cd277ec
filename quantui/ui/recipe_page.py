"""One answer of the Recipe tab: everything the page shows of the draft, for the model that is picked."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import Linear, linear_layers
from quantui.errors import CheckpointError, InputError
from quantui.recipe import llmcompressor
from quantui.recipe.fields import FIELDS
from quantui.recipe.layers import LayerTable, differences, layer_table
from quantui.recipe.refusals import refusals
from quantui.recipe.schema import Recipe
from quantui.recipe.surprises import surprises
from quantui.recipe.targets import targets
from quantui.ui import drafts, linked, recipes
from quantui.ui.drafts import Draft
from quantui.ui.files import Stamp, folder_stamp
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, tag
from quantui.ui.recipes import Told
from quantui.ui.services import Services
from quantui.ui.widgets import recipe_facts, recipe_sheets
from quantui.ui.widgets.facts import empty, problem, sentence
from quantui.ui.widgets.layers import layer_data
from quantui.ui.widgets.recipe_facts import Remark
from quantui.ui.widgets.recipe_form import recipe_form
from quantui.ui.yaml_lines import field_at, field_of_place, line_of, line_with, place_of

ModelLayers = tuple[tuple[Linear, ...], int]
"""The Linear layers of a model, and the bytes of all its weights."""

MARKED = 50
"""Problems of layers that are told, each at its line; thousands would take longer to find than anybody reads."""

NOTE = re.compile(r"line (?P<line>\d+): (?P<said>.*)", re.DOTALL)
"""A note of the reader of llm-compressor's YAML."""


def answer(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Does what was asked and shows what came of it.

    Args:
        services: whose workspace and which language.
        asked: `action` with what it needs (see `recipes.ACTIONS`), `revision` of the draft the page has seen, `model` and
            `recipe` of the rail, `have` (digests of the parts it shows), `stamp` of the layers it knows.
    """
    t = services.t
    (layers, size), refused = _layers(services, str(asked.get("model") or ""))
    told = recipes.act(services, {**asked, "every": [layer.name for layer in layers]})
    draft, recipe = told.draft, recipes.recipe_of(told.draft)
    table = _table(draft.good, layers)
    found = _remarks(t, draft, recipe, layers, table)
    parts = {
        "title": recipe_facts.title(t, draft, told.errors.get("title"), told.stale),
        "form": _form(t, told, recipe, found),
        "totals": recipe_facts.totals(t, recipe, table, size, targets(recipe, layers, table)) if layers else Markup(),
        "remarks": recipe_facts.remarks(t, found),
        "layers": _notes(t, refused, told.errors.get("layers")),
        "name": problem(t, told.errors["name"]) if "name" in told.errors else Markup(),
        "gallery": recipe_sheets.gallery(t, services.workspace.recipe_files(), draft.now.base),
        "changes": _changes(services, draft, layers, table),
    }
    if told.pasted or "paste" in told.errors:
        parts["report"] = recipe_sheets.report(t, told.pasted, told.errors.get("paste"))
    return {
        **linked.changed(parts, asked.get("have")),
        "revision": draft.revision,
        "text": draft.now.text,
        "marks": _marks(draft, told, found),
        "layers": layer_data(t, table, asked.get("stamp")),
        "can": {"undo": draft.at > 0, "redo": draft.at + 1 < len(draft.steps), "save": _can_save(draft)},
        "base": draft.now.base,
        "name": recipes.free_name(services.workspace, draft),
        "picked": _to_pick(draft, told, str(asked.get("recipe") or "")),
        "failed": sorted(told.errors),
    }


def _to_pick(draft: Draft, told: Told, picked: str) -> str:
    """The file the rail should pick from now on: the draft's, where that is another or has just been written."""
    base = draft.now.base
    return base if base and "title" not in told.errors and (base != picked or told.saved) else ""


def _can_save(draft: Draft) -> bool:
    return drafts.is_readable(draft.now.text) and not draft.now.is_saved


def _form(t: Translator, told: Told, recipe: Recipe, found: Sequence[Remark]) -> Markup:
    if not told.draft.good:
        return empty(t("recipe.form.empty"))
    wrong: dict[str, Markup] = {}
    for remark in found:
        if remark.field and remark.severity == "error":
            wrong.setdefault(remark.field, tag("p", remark.text, cls="bad", role="alert"))
    if error := told.errors.get("field"):
        said = " ".join(sentence(t, text) for text in (error.what, error.todo) if text)
        wrong[told.field] = tag("p", said, cls="bad", role="alert")
    return recipe_form(t, recipe, wrong, {told.field: told.typed} if told.typed else {})


def _remarks(t: Translator, draft: Draft, recipe: Recipe, layers: Sequence[Linear], table: LayerTable) -> list[Remark]:
    """Everything that is to be said of the text: why it cannot be read, or what cannot work, and what is worth a look."""
    source = draft.now.text
    try:
        notes = llmcompressor.read(source).notes
    except InputError as error:
        line = place_of(error.where) or 1
        field = field_at(source, line)
        said = " ".join(sentence(t, text) for text in (error.what, error.todo) if text)
        kept = Remark("note", t("recipe.kept"))
        return [Remark("error", said, line, field if field in FIELDS else ""), *([kept] if draft.good else [])]
    found = []
    for refusal in refusals(recipe):
        field = field_of_place(refusal.place, recipe)
        said = " ".join(sentence(t, text) for text in (refusal.what, refusal.todo))
        found.append(Remark("error", said, line_of(source, field), field))
    ignored = set(recipe.ignore)
    for each in table.problems[:MARKED] if layers else ():
        field = "ignore" if each.rule in ignored else "targets" if each.rule else ""
        line = line_with(source, each.rule) if each.rule else 0
        found.append(Remark(each.severity, sentence(t, each.what), line, field, each.layer))
    if layers and (more := len(table.problems) - MARKED) > 0:
        found.append(Remark("error", t("recipe.more", n=more)))
    for text in surprises(recipe, layers)[:MARKED]:
        rule = next((entry for entry in table.taken_by if repr(entry) in text), "")
        found.append(Remark("warning", sentence(t, text), line_with(source, rule) if rule else 0))
    return found + [_note(t, note) for note in notes]


def _note(t: Translator, note: str) -> Remark:
    """What was understood in the text though the engine would read it otherwise, at the line it names in front."""
    placed = NOTE.fullmatch(note)
    return Remark("note", sentence(t, placed["said"]), int(placed["line"])) if placed else Remark("note", sentence(t, note))


def _marks(draft: Draft, told: Told, found: Sequence[Remark]) -> list[tuple[int, str, str]]:
    """Lines of the text that have something to say: number, severity, what."""
    marks = [(remark.line, remark.severity, remark.text) for remark in found if remark.line]
    if (error := told.errors.get("field")) and (line := line_of(draft.now.text, told.field)):
        marks.insert(0, (line, "error", str(error)))
    return marks


def _notes(t: Translator, refused: InputError | None, error: InputError | None) -> Markup:
    return join(problem(t, refused) if refused else None, problem(t, error) if error else None)


def _changes(services: Services, draft: Draft, layers: tuple[Linear, ...], table: LayerTable) -> Markup:
    """The draft against the file it came from."""
    before = old = ""
    with contextlib.suppress(InputError):  # of a file that is gone or malformed everything is new
        before = drafts.opened(services.workspace, draft.now.base).text if draft.now.base else ""
        old = before if drafts.is_readable(before) else ""
    changed = differences(_table(old, layers), table) if before != draft.now.text else []
    return recipe_sheets.changes(services.t, before, draft.now.text, changed)


@functools.lru_cache(maxsize=4)
def _table(source: str, layers: tuple[Linear, ...]) -> LayerTable:
    """The layer table of a text that can be read, or of nothing; that of the saved file stays the same from edit to edit."""
    return layer_table(llmcompressor.read(source).recipe if drafts.is_readable(source) else Recipe(), layers)


def _layers(services: Services, model: str) -> tuple[ModelLayers, InputError | None]:
    """The layers of the picked model, or why there are none."""
    t = services.t
    try:
        if not model:
            raise CheckpointError(t("missing.model"), todo=t("missing.model_todo"))
        folder = services.workspace.readable(model)
        return _read_layers(folder, folder_stamp(folder)), None
    except InputError as error:
        return ((), 0), error


@functools.lru_cache(maxsize=8)
def _read_layers(folder: Path, _: Stamp) -> ModelLayers:
    """The layers of a folder, read once as long as its files stay."""
    checkpoint = open_checkpoint(folder)
    return tuple(linear_layers(checkpoint)), checkpoint.nbytes
