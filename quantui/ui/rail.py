"""The context every tab shares: which model, calibration, recipe and run are picked, kept in workspace/rail.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from quantui.devices import npus
from quantui.jobs.store import Run
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.workspace import DEMO_MODELS, Workspace, write_json

Choice = tuple[str, str]
"""What a picker shows, and the value behind it."""

DEMO_RECIPE, NPU_RECIPE = "fp8-w8a8-kv8", "int8-w8a8-static"
"""Picked at first; the second where there is an NPU, few of which have float8."""


@dataclass(frozen=True)
class Rail:
    """What is picked: absolute paths and a run id, each empty where there is nothing to pick."""

    model: str = ""
    calibration: str = ""
    recipe: str = ""
    run: str = ""


def load(workspace: Workspace) -> Rail:
    """What was picked last; the demo's where that is gone or nothing was."""
    try:
        body = json.loads((workspace.root / "rail.json").read_text(encoding="utf-8"))
        stored = Rail(**{key: str(body.get(key, "")) for key in asdict(Rail())})
    except (OSError, ValueError, AttributeError):
        stored = Rail()  # never written, or edited by hand into something else
    demo = _demo(workspace)
    kept = {key: value if value and Path(value).exists() else getattr(demo, key) for key, value in asdict(stored).items()}
    return Rail(**kept | {"run": stored.run})


def save(workspace: Workspace, rail: Rail) -> None:
    """Remembers it for the next reload and for other browsers."""
    write_json(workspace.root / "rail.json", asdict(rail))


def remember(workspace: Workspace, **picked: str) -> Rail:
    """Changes some of what is picked and saves it."""
    rail = replace(load(workspace), **picked)
    save(workspace, rail)
    return rail


def models(workspace: Workspace) -> list[Choice]:
    """Float models: everything that is not a result of ours, which is reached through its run."""
    folders = [f for f in workspace.model_folders() if workspace.quantized not in f.parents]
    return _named([(folder.name, str(folder)) for folder in folders])


def calibrations(workspace: Workspace) -> list[Choice]:
    """Calibration files, by the name of their folder where it holds only one."""
    files = workspace.calibration_files()
    folders = [file.parent for file in files]
    return [(_calibration_name(workspace, file, folders.count(file.parent) == 1), str(file)) for file in files]


def recipes(workspace: Workspace) -> list[Choice]:
    """Shipped recipes, then the user's own."""
    return _named([(file.stem, str(file)) for file in workspace.recipe_files()])


def runs(t: Translator, listed: list[Run]) -> list[Choice]:
    """Runs, newest first, with the time each was asked for."""
    return [(t("rail.run_choice", name=run.spec.name, time=numbers.moment(run.created)), run.id) for run in listed]


def with_value(choices: list[Choice], value: str) -> list[Choice]:
    """The choices, and the value itself where it is none of them: a path that somebody typed."""
    return choices if not value or value in (v for _, v in choices) else [*choices, (value, value)]


def matching_calibration(workspace: Workspace, model: str, current: str) -> str:
    """The calibration file to use after a change of model: the one of its name, unless the current one is the user's own.

    A folder named like the beginning of the model's name goes with it too, so that vision's data serves vision-native.
    Only a file that goes with another model (its folder has that model's name), or none at all, is replaced.
    """
    own = _own_calibration(workspace, Path(model).name)
    names = {Path(path).name for _, path in models(workspace)} | set(DEMO_MODELS)
    anothers = bool(current) and Path(current).parent.name in names and Path(current).parent != own.parent
    return str(own) if own.is_file() and (anothers or not current) else current


def output_name(workspace: Workspace, model: str, recipe: str, taken: set[str]) -> str:
    """A name for the result, `<model>-<recipe>`, numbered where that folder is there or promised to another run."""
    base = "-".join(part for part in (Path(model).name, Path(recipe).stem) if part) or "result"
    name, number = base, 2
    while (workspace.quantized / name).exists() or str(workspace.quantized / name) in taken:
        name, number = f"{base}-{number}", number + 1
    return name


def _demo(workspace: Workspace) -> Rail:
    """The demo's pieces, or the first there are."""

    def first(choices: list[Choice], name: str) -> str:
        values = [value for _, value in choices]
        return next((value for shown, value in choices if shown == name), values[0] if values else "")

    model = first(models(workspace), DEMO_MODELS[0])
    own = _own_calibration(workspace, Path(model).name)
    calibration = str(own) if model and own.is_file() else first(calibrations(workspace), DEMO_MODELS[0])
    return Rail(model, calibration, first(recipes(workspace), NPU_RECIPE if npus() else DEMO_RECIPE))


def _own_calibration(workspace: Workspace, model: str) -> Path:
    """The file of the folder with the longest name that the model's begins with; that of its own name if there is none."""
    words = model.split("-")
    for end in range(len(words), 0, -1):
        if (file := workspace.calibration / "-".join(words[:end]) / "calibration.yaml").is_file():
            return file
    return workspace.calibration / model / "calibration.yaml"


def _calibration_name(workspace: Workspace, file: Path, alone: bool) -> str:
    inside = file.relative_to(workspace.calibration)
    return str(inside.parent if alone and len(inside.parts) > 1 else inside.with_suffix(""))


def _named(pairs: list[Choice]) -> list[Choice]:
    """The pairs, with the folder added to names that stand twice."""
    names = [name for name, _ in pairs]
    return [(name if names.count(name) == 1 else f"{name} ({Path(value).parent})", value) for name, value in pairs]
