"""The scores of a workspace: which there are, each opened once, what was really measured, and the job that is making some."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.errors import InputError
from quantui.jobs.store import JobStore, Run
from quantui.recipe import llmcompressor
from quantui.sensitivity.candidates import chosen_schemes
from quantui.sensitivity.scores import METHODS, SCORES, Scores, from_json, load_scores
from quantui.spec import SensitivitySpec
from quantui.stats.finish import model_hash
from quantui.ui.files import Stamp, folder_stamp, stamp
from quantui.workspace import STAGING, Workspace

MEASURED, PARTIAL, SEARCHED = "measured.json", "partial.json", "auto.json"


@dataclass(frozen=True)
class Found:
    """Scores on disk; `made` in seconds since the epoch, the hashes as in Scores.meta."""

    folder: Path
    method: str
    model_hash: str
    recipe_hash: str
    calibration_hash: str
    samples: int
    made: float


@dataclass(frozen=True)
class Measured:
    """What a choice really cost.

    Attributes:
        kl: in nats a token, with its standard error.
        bytes: of the model.
        choice: layer -> scheme.
        cached: keys or values of a layer -> the scheme they were cached in.
    """

    kl: float
    stderr: float
    bytes: int
    choice: dict[str, str]
    cached: dict[str, str]


@dataclass(frozen=True)
class Searched:
    """What a search has found.

    Attributes:
        target: "exact_match" or "kl", and its limit.
        level: how many layers or groups fell back.
        probes: every level that was measured, as `sensitivity.auto.Probe` has it.
        choice: layer -> scheme at that level.
    """

    target: tuple[str, float]
    level: int
    probes: list[dict[str, Any]]
    choice: dict[str, str]

    @property
    def probe(self) -> dict[str, Any]:
        """What was measured at the level that was found."""
        return next(one for one in self.probes if one["level"] == self.level)


def home(workspace: Workspace) -> Path:
    """Where jobs of the page put their scores."""
    return workspace.root / "sensitivity"


def tables(workspace: Workspace) -> list[Found]:
    """Every table of scores, newest first."""
    files = [file for file in home(workspace).glob(f"*/{SCORES}") if STAGING not in str(file)]
    found = [read for file in files if (read := _read(file, stamp(file)))]
    return sorted(found, key=lambda one: (-one.made, one.folder.name))


def best(found: list[Found], *, model: str, recipe: str, wanted: str = "") -> Found | None:
    """The scores to show: those asked for, else the newest of the model, made for the recipe if there are any.

    Args:
        model: hash of the model.
        recipe: hash of the recipe's scope.
        wanted: a folder.
    """
    of_model = [one for one in found if one.model_hash == model]
    asked = next((one for one in of_model if str(one.folder) == wanted), None)
    return asked or next((one for one in of_model if one.recipe_hash == recipe), of_model[0] if of_model else None)


def open_scores(folder: Path) -> Scores:
    """Scores, opened once as long as they do not change.

    Raises:
        InputError: they cannot be read.
    """
    return _opened(folder, stamp(folder / SCORES))


def measured(workspace: Workspace, scores: Scores) -> list[Measured]:
    """What was measured of this model with this calibration, oldest first."""
    found = []
    for file in sorted(home(workspace).glob(f"*/{MEASURED}"), key=lambda file: file.stat().st_mtime):
        body = _json(file, stamp(file))
        same = all(body.get(key) == scores.meta.get(key) for key in ("model_hash", "calibration_hash"))
        if same and STAGING not in str(file):
            found.append(Measured(body["kl"], body["stderr"], body["bytes"], body["choice"], body.get("cached", {})))
    return found


def searched(workspace: Workspace, scores: Scores) -> Searched | None:
    """The newest search with this model, calibration and recipe; None where there is none."""
    for file in sorted(home(workspace).glob(f"*/{SEARCHED}"), key=lambda file: -file.stat().st_mtime):
        body = _json(file, stamp(file))
        same = all(body.get(key) == scores.meta.get(key) for key in ("model_hash", "calibration_hash", "recipe_hash"))
        if same and STAGING not in str(file):
            recipe = llmcompressor.load(file.with_name("recipe.yaml"))
            choice = chosen_schemes(recipe, scores.names, scores.schemes)
            return Searched(tuple(body["target"]), body["level"], body["probes"], choice)
    return None


def going(store: JobStore, model: str) -> Run | None:
    """The sensitivity job of this model that runs or waits, the newest."""
    runs = [run for run in store.list() if run.state in ("queued", "running")]
    return next((run for run in runs if isinstance(run.spec, SensitivitySpec) and run.spec.model == model), None)


def partial(run: Run) -> Scores | None:
    """The table so far of a job that scores; None while there is none."""
    if not isinstance(run.spec, SensitivitySpec) or run.spec.method not in METHODS:
        return None
    try:
        return from_json(json.loads((run.folder / PARTIAL).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        return None


def free_name(workspace: Workspace, store: JobStore, model: str, method: str) -> Path:
    """A folder for new scores that nothing has yet."""
    promised = {run.spec.out for run in store.list() if run.state in ("queued", "running")}
    base, number = f"{Path(model).name or 'model'}-{method}", 1
    while True:
        folder = home(workspace) / (base if number == 1 else f"{base}-{number}")
        if not folder.exists() and str(folder) not in promised:
            return folder
        number += 1


def hash_of(folder: Path) -> str:
    """The hash of a model folder, made once as long as its files stay."""
    return _hash(folder, folder_stamp(folder))


@functools.lru_cache(maxsize=16)
def _hash(folder: Path, _: Stamp) -> str:
    return model_hash(folder)


@functools.lru_cache(maxsize=6)
def _opened(folder: Path, _: Stamp) -> Scores:
    return load_scores(folder)


@functools.lru_cache(maxsize=256)
def _json(file: Path, _: Stamp) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


@functools.lru_cache(maxsize=256)
def _read(file: Path, changed: Stamp) -> Found | None:
    try:
        scores = load_scores(file)
    except InputError:
        return None
    model, recipe, calibration = (str(scores.meta.get(f"{part}_hash") or "") for part in ("model", "recipe", "calibration"))
    count = int(scores.meta.get("samples") or 0)
    return Found(file.parent, scores.method, model, recipe, calibration, count, changed[0][1] / 1e9)
