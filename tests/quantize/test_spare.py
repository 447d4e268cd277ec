"""What jobs are forked from, with all that it imports."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from quantui.jobs.spare import Spare

pytestmark = pytest.mark.engine


def test_what_is_imported_ahead_leaves_no_thread(spare: Spare) -> None:
    """A fork has no threads but its own: one of torch's that was there before would be waited for without end."""
    names = [file.read_text().strip() for file in Path(f"/proc/{spare.pid}/task").glob("*/comm")]
    assert len([name for name in names if name != "jemalloc_bg_thd"]) == 1  # that of pyarrow's memory


def test_a_spare_whose_forks_cannot_use_an_accelerator_serves_the_processor_only() -> None:
    import torch

    code = "import sys; from quantui import forkserver; sys.exit(forkserver.main(sys.argv[1:], slow=('torch',)))"
    spare = Spare("cuda:0", (sys.executable, "-c", code))  # which this machine has not, or may have
    try:
        end = time.monotonic() + 60
        while not spare.is_ready():
            assert spare.is_alive and time.monotonic() < end
            time.sleep(0.01)
        assert spare.is_ready("cuda:0") == torch.cuda.is_available()
    finally:
        spare.end()
