"""Rows of the Hugging Face Hub, fetched once into a folder of this machine and read from there ever after."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from quantui.calibration.fields import COLUMNS
from quantui.calibration.lines import JsonLines
from quantui.calibration.presets import PRESETS
from quantui.calibration.schema import Source
from quantui.calibration.tables import Table, parse_split
from quantui.errors import CalibrationError
from quantui.workspace import staged_folder, write_json

ROWS = 2048
"""Rows that are streamed where the split names no slice."""

SECONDS = 5.0
"""How long the hub may take to say that it is there."""

OFFLINE = (
    "fetch it on a machine with a network (datasets.load_dataset(...).save_to_disk(FOLDER)), copy the folder here and use "
    "kind dataset with its path"
)
_TROUBLE = (OSError, ValueError, RuntimeError, LookupError, TypeError, AttributeError, ImportError, NotImplementedError)


@dataclass(frozen=True)
class Wanted:
    """What is asked of the hub; equal ones are fetched once."""

    id: str
    split: str
    start: int
    stop: int | None
    config: str | None
    columns: tuple[tuple[str, str], ...]
    key: str | None
    data_files: str | None
    revision: str | None
    streaming: bool


def folder() -> Path:
    """Where fetched rows are kept: `$QUANTUI_CACHE/hub`, else ~/.cache/quantui/hub."""
    return Path(os.environ.get("QUANTUI_CACHE") or "~/.cache/quantui").expanduser() / "hub"


def fetch(source: Source) -> Table:
    """The rows of a hub source, from this machine where they were fetched before.

    Raises:
        CalibrationError: the hub cannot be reached, has no such dataset, or it would have to execute code.
    """
    wanted = wanted_of(source)
    name = hashlib.sha256(json.dumps(asdict(wanted)).encode()).hexdigest()[:16]
    target = folder() / f"{wanted.id.replace('/', '--')}-{name}"
    if not (target / "rows.jsonl").is_file():
        revision = check_online(wanted)
        with staged_folder(target) as staging:
            count = _write(wanted, staging, target.name)
            write_json(staging / "source.json", asdict(wanted) | {"commit": revision, "rows": count})
    return JsonLines(target / "rows.jsonl")


def wanted_of(source: Source) -> Wanted:
    """What a source asks for, its preset filled in.

    Raises:
        CalibrationError: its split cannot be read.
    """
    preset = PRESETS[source.preset] if source.preset else None
    where = source.id or (preset.id if preset else "")
    name, bounds = parse_split(source.split or (preset.split if preset else "train"), where)
    if any(bound and (bound.endswith("%") or bound.startswith("-")) for bound in bounds or ()):
        raise CalibrationError("a slice of the hub counts rows from the front", where=where, todo="write it as train[:256]")
    start, stop = (int(bounds[0] or 0), int(bounds[1]) if bounds[1] else None) if bounds else (0, None)
    if stop is None and source.streaming:
        stop = start + ROWS
    return Wanted(
        id=where,
        split=name or (preset.split if preset else "train"),
        start=start,
        stop=stop,
        config=source.config or (preset.config if preset else None),
        columns=tuple(sorted((source.columns or (dict(preset.columns) if preset else {})).items())),
        key=source.key,
        data_files=preset.data_files if preset else None,
        revision=preset.revision if preset else None,
        streaming=source.streaming,
    )


def check_online(wanted: Wanted) -> str | None:
    """The commit of the dataset, if the hub answers at once and the dataset needs no code of its own.

    Raises:
        CalibrationError: it does not.
    """
    if any(
        os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")
    ):
        raise CalibrationError("the hub may not be used: HF_HUB_OFFLINE is set", where=wanted.id, todo=OFFLINE)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(wanted.id, revision=wanted.revision, timeout=SECONDS)
    except GatedRepoError as error:
        todo = "accept its terms on its page and log in with `hf auth login`"
        raise CalibrationError("its owner lets only some people read the dataset", where=wanted.id, todo=todo) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise CalibrationError(
            "the hub has no such dataset", where=wanted.id, todo="check the id; it is written owner/name"
        ) from error
    except HfHubHTTPError as error:
        raise CalibrationError(f"the hub refuses ({error})", where=wanted.id, todo=OFFLINE) from error
    except Exception as error:  # what a network can do wrong has no common class
        what = f"the hub cannot be reached ({type(error).__name__})"
        raise CalibrationError(what, where=wanted.id, todo=OFFLINE) from error
    scripts = [
        entry.rfilename for entry in info.siblings or () if entry.rfilename.endswith(".py") and "/" not in entry.rfilename
    ]
    if scripts and wanted.revision is None and wanted.data_files is None:
        what = f"the dataset carries a loading script, {scripts[0]}, which would have to be executed"
        raise CalibrationError(what, where=wanted.id, todo="use another dataset, or its files with kind dataset")
    return info.sha


def _write(wanted: Wanted, staging: Path, name: str) -> int:
    """Writes rows.jsonl and the pictures beside it."""
    (staging / "images").mkdir()
    count = 0
    with (staging / "rows.jsonl").open("w", encoding="utf-8") as file:
        try:
            for row in stream(wanted):
                kept = _row(row, wanted, staging, name, count)
                if kept:
                    file.write(json.dumps(kept, ensure_ascii=False) + "\n")
                    count += 1
        except _TROUBLE as error:
            if isinstance(error, CalibrationError):
                raise
            reason = " ".join(str(error).split())[:300]
            raise CalibrationError(f"the rows could not be fetched ({reason})", where=wanted.id, todo=OFFLINE) from error
    if not count:
        raise CalibrationError(
            "the slice holds no rows", where=f"{wanted.id} {wanted.split}", todo="choose another split or slice"
        )
    return count


def stream(wanted: Wanted) -> Iterator[dict[str, Any]]:
    """The rows as the hub sends them; pictures undecoded."""
    import datasets

    datasets.config.STREAMING_READ_MAX_RETRIES, datasets.config.STREAMING_READ_RETRY_INTERVAL = 2, 1
    rows = datasets.load_dataset(
        wanted.id,
        wanted.config,
        split=wanted.split,
        streaming=wanted.streaming,
        revision=wanted.revision,
        data_files={wanted.split: wanted.data_files} if wanted.data_files else None,
    )
    for column, feature in (rows.features or {}).items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    yield from islice(iter(rows), wanted.start, wanted.stop)


def _row(row: dict[str, Any], wanted: Wanted, staging: Path, name: str, number: int) -> dict[str, Any]:
    """The columns worth keeping under our names; nothing where its text is empty, as half of wikitext is."""
    for theirs in (*(theirs for _, theirs in wanted.columns), *((wanted.key,) if wanted.key else ())):
        if theirs not in row:
            what = f"there is no column {theirs}; there are {', '.join(row)}"
            raise CalibrationError(what, where=wanted.id, todo="name one of these in columns")
    kept = {ours: row[theirs] for ours, theirs in wanted.columns}
    if wanted.key:
        kept[wanted.key] = row[wanted.key]
    if not kept:
        kept = {column: row[column] for column in COLUMNS if column in row} or dict(row)
    if isinstance(kept.get("text"), str) and not kept["text"].strip():
        return {}
    picture = kept.get("image")
    if isinstance(picture, dict) and picture.get("bytes"):
        (staging / "images" / str(number)).write_bytes(picture["bytes"])
        kept["image"] = f"{name}/images/{number}"
    elif "image" in kept:
        raise CalibrationError("its image column holds no pictures", where=wanted.id, todo="name the column that does")
    return {
        column: " ".join(value) if column == "answer" and isinstance(value, list) else value for column, value in kept.items()
    }
