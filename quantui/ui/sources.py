"""Folders that can be converted, found by config.json and the names of the files beside it: no tensor header is read."""

from __future__ import annotations

from pathlib import Path

from quantui.checkpoint.convert.kinds import Kind, recognise
from quantui.checkpoint.files import Checkpoint, read_config
from quantui.errors import CheckpointError
from quantui.ui.rail import Choice, models
from quantui.workspace import DEMO_ORIGINAL, Workspace

BACK = "internvl-back"
"""The conversion that leads away from transformers; its results are no models to quantize."""

ENDINGS = {BACK: "github", "pickled": "safetensors", "fp8": "float"}
"""What the name of a result ends in by the name of the conversion; every other makes the model native."""


def kind_of(folder: Path) -> Kind | None:
    """The conversion a folder needs; None where there is none for it, or it is no model folder."""
    try:
        config = read_config(folder)
        names = {path.suffix for path in folder.iterdir()}
        return recognise(Checkpoint(folder, config, {}, ".bin" in names and ".safetensors" not in names))
    except (CheckpointError, OSError):
        return None


def sources(workspace: Workspace) -> list[Choice]:
    """Models of the workspace that have a conversion: those that need one first, then those that may be turned back."""
    kinds = [(choice, kind_of(Path(choice[1]))) for choice in models(workspace)]
    found = [(choice, kind.name == BACK) for choice, kind in kinds if kind]
    return [choice for choice, back in found if not back] + [choice for choice, back in found if back]


def preferred(choices: list[Choice]) -> str:
    """The folder the page opens on: the demo's, else the first there is."""
    values = [value for _, value in choices]
    return next((value for shown, value in choices if shown == DEMO_ORIGINAL), values[0] if values else "")


def result_name(workspace: Workspace, source: str, kind: Kind | None, taken: set[str]) -> str:
    """A name for the result that no model has, and no run is going to make."""
    ending = ENDINGS.get(kind.name, "native") if kind else "native"
    base = f"{Path(source).name or 'model'}-{ending}"
    name, number = base, 2
    while (workspace.models / name).exists() or str(workspace.models / name) in taken:
        name, number = f"{base}-{number}", number + 1
    return name
