"""What every tab is given: the workspace, its runs, the language, and the pickers all tabs share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quantui.jobs import launch
from quantui.jobs.spare import Spare
from quantui.jobs.store import JobStore, Run
from quantui.spec import JobSpec
from quantui.ui.i18n import Translator
from quantui.workspace import Workspace


@dataclass(frozen=True)
class Services:
    """One workspace seen in one language."""

    workspace: Workspace
    store: JobStore
    t: Translator
    spare: Callable[[], Spare | None] = lambda: None
    """What processes may be forked from, when there is one."""

    def submit(self, spec: JobSpec) -> Run:
        """Puts a job into the queue and starts it, where none is before it, from the process that stands by.

        Raises:
            DeviceError: the device is unknown or not there.
        """
        run = self.store.submit(spec)
        launch.dispatch(self.store, spare=self.spare())
        return run

    def bind(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """The handler with these services as its first argument, in the form that Gradio's events take."""
        return functools.partial(handler, self)
