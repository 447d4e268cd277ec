"""The sources of a calibration file as the page changes them: added, put into another order, taken out, and their options.

What stands in the page's form while a source is added or changed is no part of the draft before it is applied: the browser
keeps it and sends it along.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from quantui.calibration.schema import OPTIONS, Calibration, Source
from quantui.errors import CalibrationError, InputError
from quantui.ui.sample_drafts import plain
from quantui.ui.sample_settings import whole
from quantui.ui.services import Services
from quantui.workspace import STAGING, Workspace

PATHS = ("path", "questions")
BLANK_LINE = re.compile(r"\n[ \t]*\n\s*")
SHOWN = 200
"""Entries of a folder that are listed."""
LOOKED_AT = 2000
"""Entries of a folder that are looked at."""

FITTING: Mapping[str, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson"), "json": (".json",), "boolq": (".jsonl",), "gsm8k": (".jsonl",),
    "dataset": (".parquet", ".arrow", ".feather", ".jsonl", ".ndjson", ".json", ".csv", ".tsv"), "tokens": (".safetensors",),
    "questions": (".jsonl",), "images": (), "ceval": (), "mmlu": (),
}  # fmt: skip
"""Endings of the files that a kind of source, or its questions, are read from; none where it is a folder."""
FOLDERS = ("images", "ceval", "mmlu", "dataset")
"""Kinds that may be a folder."""


@dataclass(frozen=True)
class Form:
    """A source that is being added or changed.

    Attributes:
        kind: of the source.
        at: its place among the sources; None for one that is added.
        typed: what stands in each field.
        browsing: the field that a file is being chosen for; empty for none.
        folder: the folder that is looked into for it; empty for the list of allowed folders, None for where it is now.
    """

    kind: str
    at: int | None = None
    typed: Mapping[str, str] = field(default_factory=dict)
    browsing: str = ""
    folder: str | None = None


@dataclass(frozen=True)
class Entry:
    """Something in a folder: its name, its path, whether it is a folder itself, and whether it may be chosen."""

    name: str
    path: str
    is_folder: bool
    fits: bool


def options(kind: str) -> tuple[str, ...]:
    """The options of a kind of source that the page offers, the one it needs first."""
    needed, more = OPTIONS[kind]
    return (*((needed,) if needed else ()), *more, *(() if kind == "texts" else ("choose",)))


def form_of(asked: object, calibration: Calibration) -> Form | None:
    """What the browser keeps of a source that is being added or changed; None where it keeps nothing of use."""
    if not isinstance(asked, dict) or asked.get("kind") not in OPTIONS:
        return None
    kind, at, sent = str(asked["kind"]), asked.get("at"), asked.get("typed")
    if at is not None and not (type(at) is int and 0 <= at < len(calibration.sources) and calibration.sources[at].kind == kind):
        return None
    held = shown(calibration.sources[at]) if at is not None else {"streaming": "true"}
    typed = held | ({str(name): str(value) for name, value in sent.items()} if isinstance(sent, dict) else {})
    browsing, folder = str(asked.get("browsing") or ""), asked.get("folder")
    return Form(kind, at, typed, browsing if browsing in PATHS else "", folder if isinstance(folder, str) else None)


def shown(source: Source) -> dict[str, str]:
    """The options of a source as its form shows them."""
    found: dict[str, str] = {}
    for name in options(source.kind):
        value = getattr(source, name)
        if name == "texts":
            found[name] = "\n\n".join(value or ())
        elif name == "columns":
            found[name] = ", ".join(f"{ours}={theirs}" for ours, theirs in value.items())
        elif isinstance(value, bool):
            found[name] = "true" if value else ""
        else:
            found[name] = "" if value is None or name not in source.model_fields_set else str(value)
    return found


def applied(services: Services, now: Calibration, form: Form, base: Path) -> list[dict[str, Any]]:
    """The sources with one added, or changed, as its form says.

    Args:
        services: whose folders may be read, and which language.
        now: the calibration before.
        form: the source.
        base: where relative paths start.

    Raises:
        CalibrationError: it cannot be one.
        AccessError: it lies outside the allowed folders.
    """
    sources: list[dict[str, Any]] = plain(now)["sources"]
    old = now.sources[form.at] if form.at is not None else None
    made: dict[str, Any] = {"kind": form.kind}
    if form.at is not None and "weight" in sources[form.at]:
        made["weight"] = sources[form.at]["weight"]
    held = shown(old) if old is not None else {}
    for name in options(form.kind):
        typed = form.typed.get(name, "")
        if form.at is not None and typed == held.get(name):
            made |= {name: sources[form.at][name]} if name in sources[form.at] else {}
        elif (value := _value(services, name, typed, base)) is not None:
            made[name] = value
    try:
        Source.model_validate(made)
    except ValidationError as error:
        raise CalibrationError(_reason(error), todo=services.t("samples.source.todo")) from error
    return [*sources, made] if form.at is None else [*sources[: form.at], made, *sources[form.at + 1 :]]


def _reason(error: ValidationError) -> str:
    problem = error.errors()[0]
    name = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{name}: {message}" if name else message


def _value(services: Services, name: str, typed: str, base: Path) -> Any:
    """One option as it was typed, None where it is left at its default.

    Raises:
        CalibrationError: it is none of its values, or names nothing that is there.
    """
    t = services.t
    if name == "streaming":
        return None if typed == "true" else False
    if name == "texts":
        return texts(typed) or None
    text = typed.strip()
    if not text or (name == "on_bad" and text == "stop"):
        return None
    if name in PATHS:
        path = services.workspace.readable(text if text.startswith("~") else base / text)
        if not path.exists():
            raise CalibrationError(t("samples.wrong.no_file"), where=text, todo=t("samples.wrong.no_file_todo"))
        return str(path)
    if name == "choose":
        return whole(services, text, 1)
    if name == "columns":
        pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
        if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
            raise CalibrationError(t("samples.wrong.columns"), todo=t("samples.wrong.columns_todo"))
        return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    return text


def texts(pasted: str) -> list[str]:
    """The texts of what was pasted: an empty line ends one; where there is none, every line is one."""
    whole_text = pasted.replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    parts = BLANK_LINE.split(whole_text) if BLANK_LINE.search(whole_text) else whole_text.split("\n")
    return [part for part in parts if part.strip()]


def moved(now: Calibration, at: int, by: int) -> list[dict[str, Any]]:
    """The sources with one of them a place up (-1) or down (1)."""
    sources: list[dict[str, Any]] = plain(now)["sources"]
    to = at + by
    if 0 <= at < len(sources) and 0 <= to < len(sources):
        sources[at], sources[to] = sources[to], sources[at]
    return sources


def without(services: Services, now: Calibration, at: int) -> list[dict[str, Any]]:
    """The sources without one of them.

    Raises:
        CalibrationError: it is the only one.
    """
    sources: list[dict[str, Any]] = plain(now)["sources"]
    if len(sources) == 1:
        t = services.t
        raise CalibrationError(t("samples.source.last"), todo=t("samples.source.last_todo"))
    return [source for place, source in enumerate(sources) if place != at]


def browsed(workspace: Workspace, form: Form, base: Path) -> tuple[str, list[Entry]]:
    """The folder that is looked into, and what in it can be gone into or chosen; without one, the allowed folders.

    Raises:
        InputError: it may not be read.
    """
    wanted = "questions" if form.browsing == "questions" else form.kind
    if form.folder == "":
        roots = dict.fromkeys((base, workspace.calibration, workspace.root, *workspace.extra_roots))
        return "", [Entry(str(root), str(root), True, False) for root in roots]
    folder = workspace.readable(form.folder) if form.folder else _beginning(workspace, form, base)
    found: list[Entry] = []
    try:
        for number, path in enumerate(sorted(folder.iterdir(), key=lambda one: (one.is_file(), one.name.lower()))):
            if number >= LOOKED_AT or len(found) >= SHOWN:
                break
            if path.name.startswith(".") or STAGING in path.name:
                continue
            if path.is_dir():
                found.append(Entry(path.name, str(path), True, wanted in FOLDERS))
            elif path.suffix.lower() in FITTING.get(wanted, ()):
                found.append(Entry(path.name, str(path), False, True))
    except OSError as error:
        raise CalibrationError(
            f"the folder cannot be read ({error.strerror})", where=str(folder), todo="choose another"
        ) from error
    return str(folder), found


def _beginning(workspace: Workspace, form: Form, base: Path) -> Path:
    """Where to look first: the folder of what is typed, else that of the calibration file."""
    typed = form.typed.get(form.browsing, "").strip() or form.typed.get("path", "").strip()
    try:
        found = workspace.readable(typed if typed.startswith("~") else base / typed).parent if typed else base
        return found if found.is_dir() and workspace.readable(found) else base
    except InputError:
        return base


__all__ = ["Entry", "Form", "applied", "browsed", "form_of", "moved", "options", "shown", "texts", "without"]
