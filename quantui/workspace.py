"""The folder everything is kept in, the roots the page may read and write, and atomic writes.

workspace/
  models/NAME/         float checkpoints; the demo models are put here
  calibration/NAME/    calibration.yaml with its data, evaluation.jsonl beside it
  recipes/NAME.yaml    the user's own recipes
  quantized/NAME/      results, renamed into place only when whole
  runs/ID/             one folder a job
  rail.json            what is selected in the page
  recipe-draft.json    the recipe that is being edited in the page, with every step that can be undone
"""

from __future__ import annotations

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from quantui.errors import AccessError, InputError, OutputError
from quantui.processes import identity

ASSETS = Path(__file__).resolve().parent.parent / "assets"
RECIPES = Path(__file__).resolve().parent.parent / "recipes"
DEMO_MODELS = ("chat", "vision")
DEMO_ORIGINAL = "vision-github"
"""The demo's vision model in the layout that its makers published, which is converted before anything else is done to it."""
STAGING = ".partial-"
"""What the name of a half-written folder holds; such folders are never listed."""


def default_root() -> Path:
    """`$QUANTUI_WORKSPACE`, else `workspace` in the current folder."""
    return Path(os.environ.get("QUANTUI_WORKSPACE") or "workspace").expanduser().resolve()


@dataclass(frozen=True)
class Workspace:
    """A workspace folder and the further folders the page may read from.

    Args:
        root: the workspace; made if it is missing.
        extra_roots: absolute folders outside it whose models and data may be read too.
    """

    root: Path
    extra_roots: tuple[Path, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", absolute(self.root))
        object.__setattr__(self, "extra_roots", tuple(absolute(root) for root in self.extra_roots))
        for folder in (self.models, self.calibration, self.recipes, self.quantized, self.runs):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(
                    f"the workspace cannot be made ({error.strerror})",
                    where=str(folder),
                    todo="choose another with --workspace",
                ) from error

    @property
    def models(self) -> Path:
        """Float checkpoints."""
        return self.root / "models"

    @property
    def calibration(self) -> Path:
        """Calibration files with their data."""
        return self.root / "calibration"

    @property
    def recipes(self) -> Path:
        """The user's own recipes."""
        return self.root / "recipes"

    @property
    def quantized(self) -> Path:
        """Results."""
        return self.root / "quantized"

    @property
    def runs(self) -> Path:
        """Job folders."""
        return self.root / "runs"

    @property
    def readable_roots(self) -> tuple[Path, ...]:
        """Where the page may read: the workspace, the shipped recipes and the extra roots."""
        return (self.root, RECIPES, *self.extra_roots)

    def readable(self, path: str | Path) -> Path:
        """The path made absolute, symlinks followed, if the page may read it.

        Raises:
            AccessError: it lies outside the allowed roots.
        """
        return check_inside(path, self.readable_roots)

    def writable(self, path: str | Path) -> Path:
        """The path made absolute, symlinks followed, if the page may write it: inside the workspace only.

        Raises:
            AccessError: it lies outside the workspace.
        """
        return check_inside(path, (self.root,))

    def model_folders(self) -> list[Path]:
        """Folders with a config.json under models/, quantized/ and the extra roots, two levels deep, by name."""
        found = {
            config.parent
            for root in (self.models, self.quantized, *self.extra_roots)
            for pattern in ("config.json", "*/config.json", "*/*/config.json")
            for config in root.glob(pattern)
            if STAGING not in str(config.relative_to(root))
        }
        return sorted(found, key=lambda p: (self.quantized in p.parents, p.name))

    def recipe_files(self) -> list[Path]:
        """Shipped recipes, then the user's own."""
        return sorted(RECIPES.glob("*.yaml")) + sorted(self.recipes.glob("*.yaml"))

    def calibration_files(self) -> list[Path]:
        """Every YAML file under calibration/, by folder."""
        return sorted(self.calibration.glob("**/*.yaml"))

    def free_name(self, name: str) -> Path:
        """A folder under quantized/ that does not exist yet: the name itself, else with -2, -3 ... behind it."""
        number = 1
        while (path := self.quantized / (name if number == 1 else f"{name}-{number}")).exists():
            number += 1
        return path

    def add_demo(self) -> None:
        """Copies the embedded models and their data in, where they are not there yet."""
        for name in (*DEMO_MODELS, DEMO_ORIGINAL):
            for source, target in (
                (ASSETS / "demo" / name, self.models / name),
                (ASSETS / "demo" / f"{name}-data", self.calibration / name),
            ):
                if source.is_dir() and not target.exists():
                    with staged_folder(target) as staging:
                        shutil.copytree(source, staging, dirs_exist_ok=True)


def check_inside(path: str | Path, roots: Sequence[Path]) -> Path:
    """The path made absolute, symlinks followed, if it lies in one of the roots; with no roots, any path may pass.

    Raises:
        AccessError: it lies in none of them.
    """
    resolved = absolute(path)
    if roots and not any(resolved == root or root in resolved.parents for root in roots):
        allowed = ", ".join(str(root) for root in roots)
        raise AccessError(
            "the path is outside the folders this app may use",
            where=str(path),
            todo=f"move it into one of {allowed}, or start the app with --allow {resolved.parent}",
        )
    return resolved


def absolute(path: str | Path) -> Path:
    """The path made absolute, `~` and symlinks followed.

    Raises:
        InputError: it can be no path: of an unknown user, in a circle, too long, with characters no name has, or shut away.
    """
    try:
        resolved = Path(path).expanduser().resolve()
        str(resolved).encode()  # run folders are written in UTF-8
        resolved.exists()
    except (OSError, ValueError, RuntimeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise InputError(f"this path cannot be used ({reason})", where=ascii(str(path))[1:-1][:300], todo="check it") from error
    return resolved


def check_new_folder(path: Path) -> Path:
    """The path, if a folder can be made there.

    Raises:
        OutputError: something is there already, or nothing can be written where it would be.
    """
    if path.exists():
        raise OutputError("the output folder exists already", where=str(path), todo="choose another name, or delete it first")
    above = next(parent for parent in path.parents if parent.exists())
    if not above.is_dir():
        raise OutputError(f"it would lie inside {above}, which is a file", where=str(path), todo="choose another place")
    if not os.access(above, os.W_OK | os.X_OK):
        raise OutputError(f"nothing can be written into {above}", where=str(path), todo="choose a place you can write to")
    return path


@contextmanager
def staged_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` that becomes `target` when the block ends well and vanishes when it does not.

    The rename is atomic on one file system, so `target` is either absent or whole. What a kill leaves behind has STAGING
    in its name and is swept by `sweep_staging`.

    Raises:
        OutputError: `target` exists, or the folder cannot be made there.
    """
    if target.exists():
        raise OutputError("the folder exists already", where=str(target), todo="choose another name or delete it first")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}{STAGING}{os.getpid()}-", dir=target.parent))
    except OSError as error:
        raise OutputError(
            f"the folder cannot be made ({error.strerror})", where=str(target), todo="choose a place you can write to"
        ) from error
    try:
        staging.chmod(0o755)
        yield staging
        try:
            staging.rename(target)
        except OSError as error:
            raise OutputError(
                "another run has made this folder meanwhile", where=str(target), todo="choose another name"
            ) from error
    finally:
        if staging.exists():
            shutil.rmtree(staging, ignore_errors=True)


def sweep_staging(target: Path) -> None:
    """Deletes what a killed run left half-written beside `target`; staging folders of living processes stay."""
    for leftover in target.parent.glob(f".{glob.escape(target.name)}{STAGING}*"):
        pid = leftover.name.rsplit(STAGING, 1)[1].split("-", 1)[0]
        if not (pid.isdigit() and identity(int(pid))):
            shutil.rmtree(leftover, ignore_errors=True)


def write_json(path: Path, body: object) -> None:
    """Writes JSON in one step: readers see the old file or the new one, never a half."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(body, file, ensure_ascii=False, indent=2)
        Path(temporary).chmod(0o644)  # mkstemp makes it private
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def write_text(path: Path, source: str) -> None:
    """Writes a file in one step: readers see the old one or the new, never a half.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(source)
            Path(temporary).chmod(0o644)  # mkstemp makes it private
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        what = f"the recipe cannot be written ({error.strerror})"
        raise OutputError(what, where=str(path), todo="choose another name") from error


def free_bytes(path: Path) -> int:
    """Free disk space, in bytes, where `path` is or would be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free
