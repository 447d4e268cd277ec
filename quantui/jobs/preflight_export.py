"""Whether an export can work, as far as can be told without reading tensors. No torch."""

from __future__ import annotations

import math
from pathlib import Path

from quantui.checkpoint.files import read_object
from quantui.errors import CheckpointError, InputError, OutputError
from quantui.formats.base import GIB
from quantui.formats.catalog import format_named
from quantui.jobs.store import ID
from quantui.spec import ExportSpec
from quantui.workspace import Workspace, absolute, check_new_folder, free_bytes


def prepare_export(
    workspace: Workspace | None,
    *,
    source: str,
    format: str,
    out: str,
    part_file_size: float | None = None,
    runs: Path | None = None,
) -> ExportSpec:
    """An export job that can work.

    Args:
        workspace: whose roots hold for every path; None lets any path pass, as on the command line.
        source: a folder of quantized weights, the folder of the run that made it, or that run's id.
        part_file_size: most GB (1024^3 bytes) of a file; None leaves it to the format.
        runs: where runs are looked for by id.

    Raises:
        InputError: of the kind of what is wrong.
    """
    if not source.strip():
        raise CheckpointError("nothing is chosen to be exported", todo="give a run or a folder of quantized weights")
    if not out.strip():
        raise OutputError("no output folder is given", todo="name the folder to write")
    held = format_named(format)
    if part_file_size is not None and not 1 <= part_file_size * GIB < math.inf:
        raise InputError(
            f"{part_file_size} is no size of a file", where="--part-file-size", todo="give a number above 0, in GB"
        )
    folder = _folder(workspace, source, runs)
    target = check_new_folder(workspace.writable(out) if workspace else absolute(out))
    if target == folder or folder in target.parents:
        raise OutputError("it lies inside the folder that is exported", where=str(target), todo="choose another place")
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if free_bytes(target) < size:
        what = f"the result may take {size / 1e9:.1f} GB, but only {free_bytes(target) / 1e9:.1f} GB are free"
        raise OutputError(what, where=str(target), todo="free some space, or choose another disk")
    part = None if part_file_size is None else int(part_file_size * GIB)
    return ExportSpec(
        name=f"{folder.name} · {held.name}", source=str(folder), format=held.name, out=str(target), part_bytes=part
    )


def _folder(workspace: Workspace | None, source: str, runs: Path | None) -> Path:
    by_id = runs / source if runs is not None and ID.fullmatch(source) else None
    given = by_id if by_id is not None and (by_id / "spec.json").is_file() else None
    folder = given or (workspace.readable(source) if workspace else absolute(source))
    if not folder.is_dir():
        raise CheckpointError(
            "there is no such folder or run", where=source, todo="give a run or a folder of quantized weights"
        )
    if (folder / "spec.json").is_file() and (folder / "events.jsonl").is_file():
        made = Path(str(read_object(folder / "spec.json").get("out") or ""))
        if not made.is_dir() or made == Path():
            raise CheckpointError("this run has written no model", where=str(folder), todo="choose a run that has ended well")
        return workspace.readable(made) if workspace else made
    return folder
