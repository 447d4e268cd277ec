"""What the Calibration tab reads: the file, the model's words, the samples and the set, each kept while nothing has changed."""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.calibration import schema
from quantui.calibration.edits import Choice
from quantui.calibration.languages import language_shares
from quantui.calibration.preview import Seer, open_seer
from quantui.calibration.schema import Calibration
from quantui.calibration.sources import Chosen
from quantui.calibration.survey import gather
from quantui.calibration.template import read_template
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import linear_layers
from quantui.errors import CalibrationError, CheckpointError, InputError
from quantui.evaluation.questions import read_questions
from quantui.recipe import llmcompressor
from quantui.recipe.layers import layer_table
from quantui.recipe.text import LONGEST
from quantui.recipe.words import FLOAT
from quantui.ui import sample_drafts
from quantui.ui.files import Stamp, folder_stamp, sealed, stamp
from quantui.ui.sample_drafts import Draft
from quantui.ui.services import Services
from quantui.workspace import Workspace

KEPT = 8
_kept: OrderedDict[tuple[Any, ...], Chosen] = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class Opened:
    """A calibration file as it is on disk.

    Attributes:
        path: as the rail names it.
        file: where it really is.
        seal: checksum of its text.
        calibration: what it says.
    """

    path: str
    file: Path
    seal: int
    calibration: Calibration


def opened(workspace: Workspace, path: str) -> Opened:
    """Reads a calibration file.

    Raises:
        InputError: it cannot be read, or may not be.
    """
    if not path:
        raise CalibrationError("no calibration file is picked", todo="pick one on the left")
    file = workspace.readable(path)
    text = schema.read_text(file, longest=LONGEST)
    calibration = schema.loads(text, where=str(file), base=file.parent)
    return Opened(path, file, sealed(text), calibration)


def seer_of(services: Services, calibration: Calibration, model: str) -> Seer:
    """What of the picked model is needed to see samples as it does, through the template that the calibration asks for.

    Raises:
        InputError: it cannot be read, or may not be.
    """
    t = services.t
    if not model:
        raise CheckpointError(t("missing.model"), todo=t("missing.model_todo"))
    folder = services.workspace.readable(model)
    template = read_template(calibration, services.workspace.readable_roots)
    return _seer(folder, template, folder_stamp(folder))


@functools.lru_cache(maxsize=4)
def _seer(folder: Path, template: str | None, _: Stamp) -> Seer:
    """What is read of a folder, once as long as its files stay."""
    return open_seer(folder, template)


def samples_of(
    services: Services, found: Opened, draft: Draft, seer: Seer, limit: int | None = None
) -> tuple[Choice, list[str]]:
    """The samples of a draft, and what to know of them.

    Args:
        services: whose folders may be read.
        found: the file.
        draft: what was done to them.
        seer: the model's words, where long samples are split or dropped.
        limit: only the first so many, where nothing but settings was changed; else all, since steps name places.

    Raises:
        InputError: they cannot be drawn, or a step cannot be taken.
    """
    first = limit if not draft.edits_samples else None

    def drawn(calibration: Calibration) -> Chosen:
        words = (folder_stamp(seer.folder), seer.words.template) if calibration.reshapes else ()
        key = ("drawn", calibration.model_dump_json(), _data(calibration), first, words)
        whole = (*key[:3], None, *key[4:])
        roots = services.workspace.readable_roots
        if whole in _kept:
            return _once(whole, lambda: gather(seer, calibration, roots))
        return _once(key, lambda: gather(seer, calibration, roots, first))

    return sample_drafts.replayed(drawn, found.calibration, draft.steps)


def _data(calibration: Calibration) -> Stamp:
    """Times and sizes of what the samples are read from."""
    return stamp(*(each for source in calibration.sources for each in (source.path, source.questions) if each is not None))


def _once(key: tuple[Any, ...], make: Callable[[], Chosen]) -> Chosen:
    with _lock:
        if key in _kept:
            _kept.move_to_end(key)
            return _kept[key]
    made = make()
    with _lock:
        _kept[key] = made
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return made


def evaluation_languages(workspace: Workspace, found: Opened) -> Mapping[str, float]:
    """Shares of languages of the questions beside the file; nothing where there are none to read."""
    beside = found.file.parent / "evaluation.jsonl"
    try:
        return _languages(workspace.readable(beside), stamp(beside)) if beside.is_file() else {}
    except InputError:
        return {}


@functools.lru_cache(maxsize=8)
def _languages(path: Path, _: Stamp) -> Mapping[str, float]:
    return language_shares(question.full.plain for question in read_questions(path))


def quantizes_vision(services: Services, model: str, recipe: str) -> bool:
    """Whether the picked recipe quantizes layers of the picked model's vision tower; False where that cannot be told."""
    try:
        layers = linear_layers(open_checkpoint(services.workspace.readable(model)))
        table = layer_table(llmcompressor.load(services.workspace.readable(recipe)), layers)
    except InputError:
        return False
    return any("vision" in row.name and row.scheme != FLOAT for row in table.rows)
