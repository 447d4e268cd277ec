"""The statistics tables of a workspace: which there are, and each opened once."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from quantui.errors import CheckpointError, InputError
from quantui.jobs.store import JobStore
from quantui.stats.table import META, StatsTable
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.workspace import STAGING, Workspace

DEPTHS = ("*", "*/*", "*/*/*")
"""How deep tables may lie: stats/NAME of a statistics job, runs/ID/stats of a quantize job."""
RUN_TIME = re.compile(r"^\d{8}-\d{6}-")


@dataclass(frozen=True)
class Found:
    """A table on disk.

    Attributes:
        folder: where it is.
        model: path of the model it is of.
        calibration: path of the calibration file.
        samples: how many it saw.
        given: how many the calibration had.
        detail: whether it has distributions.
        made: seconds since the epoch.
    """

    folder: Path
    model: str
    calibration: str
    samples: int
    given: int
    detail: bool
    made: float

    @property
    def name(self) -> str:
        """What people call it: its folder's name, or that of the run it lies in, less the run's time."""
        return RUN_TIME.sub("", self.folder.parent.name) if self.folder.name == "stats" else self.folder.name


def home(workspace: Workspace) -> Path:
    """Where jobs of the page put their tables."""
    return workspace.root / "stats"


def tables(workspace: Workspace) -> list[Found]:
    """Every table under the workspace and the other readable folders, newest first."""
    files = {
        file.parent
        for root in (workspace.root, *workspace.extra_roots)
        for depth in DEPTHS
        for file in root.glob(f"{depth}/{META}")
        if STAGING not in str(file.relative_to(root))
    }
    found = [read for folder in files if (read := _read(folder, _stamp(folder)))]
    return sorted(found, key=lambda one: (-one.made, one.name))


def shown(t: Translator, found: Found) -> str:
    """How a table is listed."""
    return t("stats.table_choice", name=found.name, time=numbers.moment(found.made))


def open_table(folder: Path) -> StatsTable:
    """A table, opened once as long as it does not change.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    return _opened(folder, _stamp(folder))


def free_name(workspace: Workspace, store: JobStore, model: str) -> Path:
    """A folder for a new table of this model that nothing has yet."""
    promised = {run.spec.out for run in store.list() if run.state in ("queued", "running")}
    base, number = Path(model).name or "model", 1
    while True:
        folder = home(workspace) / (base if number == 1 else f"{base}-{number}")
        if not folder.exists() and str(folder) not in promised:
            return folder
        number += 1


def of_run(store: JobStore, run_id: str) -> str:
    """The folder of the table that a run made, "" where it made none or there is no such run."""
    try:
        run = store.get(run_id)
    except InputError:
        return ""
    return run.spec.out if run.spec.kind == "stats" else str(run.folder / "stats")


def _stamp(folder: Path) -> int:
    try:
        return (folder / META).stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=8)
def _opened(folder: Path, _changed: int) -> StatsTable:
    return StatsTable.load(folder)


@functools.lru_cache(maxsize=256)
def _read(folder: Path, changed: int) -> Found | None:
    """What a table says of itself; None where it is none."""
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        samples = len(meta.get("samples") or ())
        return Found(
            folder=folder,
            model=str(meta.get("model", "")),
            calibration=str(meta.get("calibration", "")),
            samples=samples,
            given=int(meta.get("samples_given") or samples),
            detail=bool(meta.get("detail")),
            made=changed / 1e9,
        ) if meta.get("format") == "quantui-stats" else None  # fmt: skip
    except (OSError, ValueError, AttributeError, TypeError):
        return None


def chosen(workspace: Workspace, key: str) -> Path:
    """The folder that the browser asks for.

    Raises:
        AccessError: it lies outside of what the page may read.
        CheckpointError: nothing is asked for.
    """
    if not key:
        raise CheckpointError("no statistics are chosen", todo="choose some, or collect them")
    return workspace.readable(key)
