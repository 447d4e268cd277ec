"""A worker with something in it changed first: `python -m tests.quantize.changed CODE RUN_FOLDER`."""

from __future__ import annotations

from collections.abc import Sequence

from quantui import worker


def main(arguments: Sequence[str]) -> int:
    """Runs the code, which most jobs have none of, then the job."""
    code, *rest = arguments
    exec(code, {})
    return worker.main(rest)
