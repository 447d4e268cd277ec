"""The conversation with two models as the page asks for it: which pairs there are, and the process that talks."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import summary_of
from quantui.compare.folders import check_pair, model_folder, original_of
from quantui.devices import resolve_name
from quantui.errors import AccessError, CheckpointError, InputError
from quantui.jobs.chat import ChatProcess
from quantui.jobs.store import JobStore
from quantui.ui import rail
from quantui.ui.services import Services

_LOCK = threading.Lock()
_PROCESSES: dict[Path, ChatProcess] = {}

WAIT = 0.5
"""Seconds that a question for news waits for some."""
PASSED_ON = ("messages", "system", "sampling", "switches", "sides", "given", "histories", "picture", "client")


@dataclass(frozen=True)
class Choice:
    """The two models that are talked to; either may be missing."""

    original: Path | None
    quantized: Path | None


def process_of(services: Services) -> ChatProcess:
    """The one process of this workspace that talks."""
    root = services.workspace.root
    with _LOCK:
        if root not in _PROCESSES:
            store = services.store
            log = root / "chat.log"
            _PROCESSES[root] = ChatProcess(log, lambda device: is_wanted(store, device), spare=services.spare)
        return _PROCESSES[root]


def is_wanted(store: JobStore, device: str) -> bool:
    """Whether a job runs on a device, or is about to."""
    return any(run.state in ("queued", "running") and run.spec.device == device for run in store.list())


def quantized_folders(services: Services) -> list[Path]:
    """Quantized models that the page may talk to, the newest first."""
    found = []
    for folder in services.workspace.model_folders():
        if services.workspace.quantized in folder.parents or (folder / "quantui.json").is_file():
            found.append(folder)
    return sorted(found, key=lambda folder: (folder / "config.json").stat().st_mtime, reverse=True)


def originals(services: Services) -> list[Path]:
    """Float models that the page may talk to."""
    quantized = set(quantized_folders(services))
    found = []
    for folder in services.workspace.model_folders():
        try:
            summary = summary_of(open_checkpoint(folder))
        except InputError:
            continue
        if folder not in quantized and summary.quantized is None and not summary.remote_code:
            found.append(folder)
    return found


def chosen(services: Services, asked: Mapping[str, Any]) -> Choice:
    """The pair that is asked for; where nothing is, that of the rail's run, or the newest quantized model.

    Raises:
        InputError: a folder is none, or not allowed.
    """
    roots = services.workspace.readable_roots
    quantized = str(asked.get("quantized") or "")
    second = model_folder(quantized, roots) if quantized else _usual(services, str(asked.get("run") or ""))
    if second is None:
        return Choice(None, None)
    first = str(asked.get("original") or "")
    if first:
        return Choice(model_folder(first, roots), second)
    return Choice(_made_from(services, second), second)


def _made_from(services: Services, quantized: Path) -> Path | None:
    """The original of a quantized model: the one it names, one of that name in the workspace, or what the rail has picked."""
    roots = services.workspace.readable_roots
    named = original_of(quantized)
    picked = rail.load(services.workspace).model
    ways = [named, services.workspace.models / named.name if named else None, Path(picked) if picked else None]
    for folder in ways:
        if folder is not None and (folder / "config.json").is_file():
            try:
                return model_folder(folder, roots)
            except AccessError:
                continue
    return None


def _usual(services: Services, run: str) -> Path | None:
    if run:
        try:
            spec = services.store.get(run).spec
        except InputError:
            spec = None
        if spec is not None:
            named = spec.quantized if spec.kind == "compare" else spec.out if spec.kind == "quantize" else ""
            if named and (Path(named) / "config.json").is_file():
                return services.workspace.readable(named)
    folders = quantized_folders(services)
    return folders[0] if folders else None


def start(services: Services, asked: Mapping[str, Any], do: str) -> str:
    """Sends a request to the process that talks; the id to follow it by.

    Args:
        asked: `original` and `quantized`, and what `quantui.compare.conversation` takes.
        do: open, ask or force.

    Raises:
        QuantUIError: the two cannot be compared, or the process cannot be started.
    """
    choice = chosen(services, asked)
    t = services.t
    if choice.quantized is None or choice.original is None:
        raise CheckpointError(t("compare.no_pair"), todo=t("compare.no_pair_todo"))
    check_pair(choice.original, choice.quantized)
    request = {name: asked[name] for name in PASSED_ON if asked.get(name) is not None}
    models = {"original": str(choice.original), "quantized": str(choice.quantized)}
    return process_of(services).ask({"do": do, **request, **models}, resolve_name(str(asked.get("device") or "auto")))
