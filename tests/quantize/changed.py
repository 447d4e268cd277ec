"""A worker with something in it changed first: `python -m tests.quantize.changed CODE RUN_FOLDER`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from quantui import worker


def main(arguments: Sequence[str]) -> int:
    """Runs the code, which most jobs have none of, then the job."""
    code, *rest = arguments
    if "torch" in sys.modules:  # of a process that was started with more threads than tests have
        sys.modules["torch"].set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    exec(code, {})
    return worker.main(rest)
