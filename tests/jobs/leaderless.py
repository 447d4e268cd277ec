"""A process whose first thread ends before another one does, as those of torch may be ended: for a while it can neither be seen
nor be asked how it ended. `python -m tests.jobs.leaderless`
"""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from collections.abc import Sequence

EXIT = {"x86_64": 60, "aarch64": 93}
"""The number of the system call that ends a thread."""
LATER = 0.3
CODE = 3


def _end() -> None:
    time.sleep(LATER)
    os._exit(CODE)


def main(argv: Sequence[str] | None = None) -> int:
    """Ends its first thread, and with the second one itself."""
    threading.Thread(target=_end).start()
    ctypes.CDLL(None).syscall(ctypes.c_long(EXIT[platform.machine()]), 0)
    return 1
