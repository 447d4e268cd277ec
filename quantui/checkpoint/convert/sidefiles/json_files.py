"""The small JSON files beside the weights: read with one clear error, written as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantui.errors import CheckpointError


def read_side(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object in the folder; {} where the file is not there.

    Raises:
        CheckpointError: it cannot be read or is no JSON object.
    """
    file = folder / name
    if not file.is_file():
        return {}
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"it cannot be read ({error.strerror})", where=str(file), todo="check its permissions") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"it is not valid JSON ({error})", where=str(file), todo="copy the file again") from error
    if not isinstance(body, dict):
        raise CheckpointError("it is not a JSON object", where=str(file), todo="copy the file again")
    return body


def write_side(folder: Path, name: str, body: dict[str, Any]) -> None:
    """Writes a JSON object into the folder."""
    (folder / name).write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
