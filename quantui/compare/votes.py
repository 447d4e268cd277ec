"""Votes of the blind mode: one JSON object a line in the workspace, kept for reports."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantui.workspace import Workspace

FILE = "votes.jsonl"
CHOICES = ("original", "quantized", "same", "neither")
LONGEST = 4000


def add(workspace: Workspace, vote: Mapping[str, Any]) -> None:
    """Keeps a vote."""
    choice = str(vote.get("choice"))
    if choice not in CHOICES:
        return
    texts = {name: str(vote.get(name) or "")[:LONGEST] for name in ("question", "answer_original", "answer_quantized")}
    models = {name: str(vote.get(name) or "") for name in ("original", "quantized")}
    body = {"time": time.time(), "choice": choice, **models, **texts}
    with (workspace.root / FILE).open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(json.dumps(body, ensure_ascii=False) + "\n")


def read(root: Path, quantized: str) -> list[dict[str, Any]]:
    """The votes about a quantized model, oldest first; lines that are none are passed over."""
    try:
        lines = (root / FILE).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            vote = json.loads(line)
        except ValueError:
            continue
        if isinstance(vote, dict) and vote.get("quantized") == quantized and vote.get("choice") in CHOICES:
            found.append(vote)
    return found


def tally(votes: list[dict[str, Any]]) -> dict[str, int]:
    """How many votes each choice has."""
    return {choice: sum(vote["choice"] == choice for vote in votes) for choice in CHOICES}
