"""A worker that stands by: it has imported torch and transformers before there is a job, which then begins seconds earlier."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

from quantui.processes import signal_group

SPARE = (sys.executable, "-m", "quantui.worker", "--spare")


class Spare:
    """A process of `quantui.worker --spare`.

    Args:
        device: the resolved name of the only device it will see.
        environment: its environment.
        command: what starts it.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, device: str, environment: Mapping[str, str], command: Sequence[str] = SPARE) -> None:
        self.device = device
        self.is_taken = False
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        """Of the process that will wait for the job's own."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still stands by."""
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it has imported everything, and still stands by."""
        assert self._process.stdout is not None
        return not self.is_taken and self.is_alive and bool(select.select([self._process.stdout], [], [], 0)[0])

    def take(self) -> subprocess.Popen[bytes]:
        """The process, to be given a run folder on its stdin; this object is of no more use then."""
        self.is_taken = True
        assert self._process.stdout is not None
        self._process.stdout.close()  # it writes to the run's log from now on
        return self._process

    def end(self) -> None:
        """Ends it; it has done nothing yet."""
        signal_group(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
