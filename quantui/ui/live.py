"""What the page asks for again and again: the parts that change while jobs run, and the log lines that are new.

The browser says what it has (a digest a part, the number of its last log line) and gets only what differs, so that an idle
page costs one small answer every few seconds and a log line crosses the wire once.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantui import devices
from quantui.errors import InputError
from quantui.events import Failed, Log, Stamped
from quantui.jobs import launch
from quantui.jobs.preflight_export import prepare_export
from quantui.jobs.store import Run
from quantui.jobs.tail import Snapshot, read_logs, snapshot
from quantui.ui import rail
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup
from quantui.ui.services import Services
from quantui.ui.widgets.facts import problem
from quantui.ui.widgets.header import device_chip, running_chip
from quantui.ui.widgets.jobs import job_list
from quantui.ui.widgets.run import no_run, run_note, run_panel
from quantui.ui.widgets.stages import share, underway

LINES = 5000
"""Log lines in one answer; what is left comes with the next, asked for at once."""

WAIT_NEW, WAIT_OPEN, WAIT_OTHER, WAIT_IDLE = 80, 250, 1000, 2500
"""Milliseconds until the next question: the opened run has just been asked for, is going on, another one is, nothing is."""

NEW_SECONDS = 3.0

DEVICE_SECONDS = 5.0


def answer(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """One answer to the page.

    Args:
        services: whose runs and which language.
        asked: `run` (id, or empty for the one this workspace was last on), `after` (number of the last log line it has),
            `have` (digests of the parts it shows).
    """
    runs = services.store.list()
    run_id = str(asked.get("run") or "") or default_run(services, runs)
    parts, lines, title = _opened(services, run_id, int(asked.get("after") or 0))
    active = [run for run in runs if run.state == "running"]
    waiting = [run for run in runs if run.state == "queued"]
    parts["jobs"] = job_list(services.t, runs, run_id)
    parts["device"] = _devices.chip(services.t)
    parts["running"] = running_chip(services.t, _look(services, active[0].id), len(waiting)) if active else Markup()
    have = asked.get("have") or {}
    digests = {name: _digest(part) for name, part in parts.items()}
    return {
        "run": run_id,
        "title": title,
        "parts": {name: part for name, part in parts.items() if have.get(name) != digests[name]},
        "digests": digests,
        "lines": json.dumps([_line(services.t, stamped) for stamped in lines], ensure_ascii=False),
        "last": lines[-1].seq if lines else int(asked.get("after") or 0),
        "more": len(lines) == LINES,
        "runs": _digest(",".join(f"{run.id}:{run.state}" for run in runs)),
        "wait": _wait(run_id, [*active, *waiting]),
    }


def cancel(services: Services, run_id: str) -> dict[str, str]:
    """Stops a run; the answer is empty, or says why it cannot be."""
    try:
        launch.cancel(services.store, run_id)
    except InputError as error:
        return {"problem": str(error)}
    return {}


def export(services: Services, run_id: str, format: str) -> dict[str, str]:
    """Starts writing a run's result in another format; the answer has the new run, or says why it cannot be."""
    try:
        made = (services.store.result(run_id) or {}).get("out") or ""
        out = services.workspace.free_name(f"{Path(str(made)).name}-{format}")
        spec = prepare_export(services.workspace, source=str(made), format=format, out=str(out))
        run = services.submit(spec)
    except InputError as error:
        return {"problem": str(services.t.error(str(error)))}
    rail.remember(services.workspace, run=run.id)
    return {"run": run.id}


def default_run(services: Services, runs: list[Run]) -> str:
    """The run to show where the address names none: the one picked last, else the newest."""
    picked = rail.load(services.workspace).run
    ids = [run.id for run in runs]
    return picked if picked in ids else ids[0] if ids else ""


def _opened(services: Services, run_id: str, after: int) -> tuple[dict[str, Markup], list[Stamped], str]:
    """The run's parts, its new log lines, and what the browser's tab says."""
    t = services.t
    if not run_id:
        return {"run": no_run(t), "run-note": Markup(t("rail.no_run"))}, [], t("app.name")
    try:
        seen = _look(services, run_id)
        result = services.store.result(run_id) if seen.run.state == "done" else None
        parts = {"run": run_panel(t, seen, result), "run-note": run_note(t, seen, result)}
        return parts, read_logs(services.store, run_id, after, LINES), _title(t, seen)
    except InputError as error:
        return {"run": problem(t, error), "run-note": Markup()}, [], t("app.name")


def _look(services: Services, run_id: str) -> Snapshot:
    seen = snapshot(services.store, run_id)
    return replace(seen, stages=underway(seen.stages)) if seen.run.state == "running" else seen


def _title(t: Translator, seen: Snapshot) -> str:
    stage = next((s for s in seen.stages if s.state == "running"), None)
    done = share(stage.progress) if stage else None
    state = f"{done * 100:.0f} %" if done is not None and seen.run.state == "running" else t(f"state.{seen.run.state}")
    return t("app.title", state=state, name=seen.run.spec.name)


def _line(t: Translator, stamped: Stamped) -> tuple[int, float, str, str, str]:
    """(number, time, level, who said it, text) of a line of the log."""
    event = stamped.event
    if isinstance(event, Log):
        return stamped.seq, stamped.time, event.level, event.source, event.text
    if isinstance(event, Failed):
        text = "\n".join(part for part in (t.error(event.what), event.where, t.error(event.todo)) if part)
        return stamped.seq, stamped.time, "warning" if event.reason == "cancelled" else "error", "quantui", text
    return stamped.seq, stamped.time, "info", "quantui", t("log.done")


def _wait(run_id: str, going: list[Run]) -> int:
    opened = next((run for run in going if run.id == run_id), None)
    if opened is None:
        return WAIT_OTHER if going else WAIT_IDLE
    return WAIT_NEW if time.time() - opened.created < NEW_SECONDS else WAIT_OPEN


def _digest(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


class _Devices:
    """The device jobs go to unless told otherwise, looked at every few seconds: asking a GPU takes a while."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: devices.DeviceInfo | None = None
        self._at = 0.0

    def chip(self, t: Translator) -> Markup:
        with self._lock:
            if self._seen is None or time.monotonic() - self._at > DEVICE_SECONDS:
                self._seen, self._at = devices.describe()[0], time.monotonic()
            return device_chip(t, self._seen)


_devices = _Devices()
