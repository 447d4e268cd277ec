"""One answer of the Compare tab: what can be talked to, what the process that talks has said, and what an evaluation found."""

from __future__ import annotations

import base64
import json
import mimetypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quantui.calibration.sources import read_rows
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import summary_of
from quantui.compare import report, votes
from quantui.errors import CheckpointError, InputError, QuantUIError
from quantui.jobs.preflight_compare import prepare_compare
from quantui.jobs.store import Run
from quantui.ui import chats, linked
from quantui.ui.markup import Markup
from quantui.ui.services import Services
from quantui.ui.widgets import compare_bench
from quantui.ui.widgets.compare_facts import measures
from quantui.ui.widgets.facts import problem, sentence

EXAMPLES = 8
FLIPS = 60
ROWS = "rows.jsonl"


def answer(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Does what was asked and says what came of it; what cannot be done comes back as `problem`."""
    action = ACTIONS.get(str(asked.get("action")), _look)
    try:
        return action(services, asked)
    except QuantUIError as error:
        return {"problem": said(services, error.what, error.where, error.todo)}


def said(services: Services, what: str, where: str, todo: str) -> dict[str, str]:
    """An error in the language of the page."""
    t = services.t
    return {"what": sentence(t, what), "where": t.error(where), "todo": sentence(t, todo)}


def _look(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What stands around the conversation."""
    t = services.t
    wrong: Markup | None = None
    try:
        choice = chats.chosen(services, asked)
    except InputError as error:
        choice, wrong = chats.Choice(None, None), problem(t, error)
    parts = {
        "models": compare_bench.models(t, chats.originals(services), chats.quantized_folders(services), choice, wrong),
        "examples": compare_bench.examples(t, _examples(services, choice.original)),
        "measures": _measures(services, choice),
        "votes": compare_bench.tally(t, votes.tally(votes.read(services.workspace.root, str(choice.quantized)))),
    }
    return linked.changed(parts, asked.get("have")) | {
        "original": str(choice.original or ""),
        "quantized": str(choice.quantized or ""),
        "pictures": _reads_pictures(choice.original),
        "ready": choice.original is not None and choice.quantized is not None,
        "measuring": _is_measuring(services, choice),
    }


def _start(do: str) -> Callable[[Services, Mapping[str, Any]], dict[str, Any]]:
    def begin(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"request": chats.start(services, asked, do)}

    return begin


def _poll(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """News of a request; they are waited for a little, so that words come as they are made."""
    after = int(asked.get("after") or 0)
    events, over = chats.process_of(services).events(str(asked.get("request")), after, chats.WAIT)
    for event in events:
        if event["event"] == "failed":
            event["said"] = said(services, event.get("what", ""), event.get("where", ""), event.get("todo", ""))
    return {"events": events, "over": over}


def _stop(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    chats.process_of(services).stop(str(asked.get("request")))
    return {}


def _vote(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    vote = asked.get("vote")
    if isinstance(vote, dict):
        votes.add(services.workspace, vote)
    return _look(services, asked)


def _export_votes(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    kept = votes.read(services.workspace.root, str(asked.get("quantized") or ""))
    return {"file": "votes.json", "text": json.dumps(kept, ensure_ascii=False, indent=2)}


def _report(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The evidence of this pair as one file: from its newest comparison that ended well, or from how it was made."""
    choice = chats.chosen(services, asked)
    if choice.quantized is None:
        raise CheckpointError(services.t("compare.no_pair"), todo=services.t("compare.no_pair_todo"))
    found = report.latest(services.workspace.runs, choice.quantized)
    text = report.render([report.collect(found or choice.quantized)], lang=services.t.lang)
    return {"file": f"{choice.quantized.name}-report.html", "text": text}


def _measure(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Starts a comparison on an evaluation set."""
    choice = chats.chosen(services, asked)
    spec = prepare_compare(
        services.workspace,
        original=str(choice.original or ""),
        quantized=str(choice.quantized or ""),
        data=str(asked.get("data") or ""),
    )
    services.store.submit(spec)
    return _look(services, asked)


def _measures(services: Services, choice: chats.Choice) -> Markup:
    run = latest(services, choice)
    data = evaluation_files(services, choice.original)
    if run is None:
        return measures(services.t, None, None, [], data)
    result = services.store.result(run.id)
    return measures(services.t, run, result, flips_of(run.folder) if result else [], data)


def latest(services: Services, choice: chats.Choice) -> Run | None:
    """The newest comparison of these two, whatever came of it."""
    pair = (str(choice.original), str(choice.quantized))
    runs = (run for run in services.store.list() if run.spec.kind == "compare")
    return next((run for run in runs if run.spec.kind == "compare" and (run.spec.model, run.spec.quantized) == pair), None)


def _is_measuring(services: Services, choice: chats.Choice) -> bool:
    run = latest(services, choice)
    return run is not None and run.state in ("queued", "running")


def flips_of(folder: Path) -> list[dict[str, Any]]:
    """The worst rows of a comparison: those whose answer changes first."""
    found: list[dict[str, Any]] = []
    with (folder / ROWS).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if len(found) >= FLIPS or not row["flips"]:
                break
            found.append(row)
    return found


def _flip_picture(services: Services, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The picture of a row of the flip finder, as the page keeps pictures."""
    run = latest(services, chats.chosen(services, asked))
    rows = flips_of(run.folder) if run else []
    place = int(asked.get("row") or 0)
    if not 0 <= place < len(rows) or not rows[place].get("picture"):
        return {"picture": None}
    file = services.workspace.readable(rows[place]["picture"])
    kind = mimetypes.guess_type(file.name)[0] or "image/png"
    return {"picture": f"data:{kind};base64,{base64.b64encode(file.read_bytes()).decode()}"}


def evaluation_files(services: Services, original: Path | None) -> list[Path]:
    """Files of questions in the workspace, those that go with the model first."""
    found = sorted(services.workspace.calibration.glob("*/evaluation.jsonl"))
    name = original.name if original else ""
    return sorted(found, key=lambda file: (file.parent.name != name, file.parent.name))


def _examples(services: Services, original: Path | None) -> list[str]:
    """Questions to begin with: some of the evaluation set that goes with the model, evenly spaced."""
    if original is None:
        return []
    file = services.workspace.calibration / original.name / "evaluation.jsonl"
    if not file.is_file():
        return []
    try:
        rows = [row for _, row in read_rows(file)]
    except InputError:
        return []
    found: list[str] = []
    for place in range(0, len(rows), max(1, len(rows) // (EXAMPLES * 3))):
        row = rows[place]
        asked = row.get("question") or next((m["content"] for m in row.get("messages") or () if m.get("role") == "user"), None)
        if isinstance(asked, str) and asked not in found and len(asked) < 60:
            found.append(asked)
    return found[:EXAMPLES]


def _reads_pictures(original: Path | None) -> bool:
    if original is None:
        return False
    try:
        return summary_of(open_checkpoint(original)).kind == "image-text"
    except InputError:
        return False


ACTIONS: Mapping[str, Callable[[Services, Mapping[str, Any]], dict[str, Any]]] = {
    "open": _start("open"),
    "ask": _start("ask"),
    "force": _start("force"),
    "poll": _poll,
    "stop": _stop,
    "vote": _vote,
    "votes": _export_votes,
    "report": _report,
    "measure": _measure,
    "flip_picture": _flip_picture,
}
"""What the page may ask for, by name; everything else only looks."""
