"""Parameters from one or several places of a pasted text, with the defaults of what they are given to."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from quantui.recipe.imported import Given, Report, refuse_given


@dataclass
class Settings:
    """What is set, and what became of it.

    Attributes:
        report: where the parameters are accounted for.
        given: parameters that were written, by name.
        defaults: what the others are.
        settled: names whose fate is in the report.
    """

    report: Report
    given: dict[str, Given] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def __getitem__(self, name: str) -> Any:
        """The value of a parameter, or its default."""
        given = self.given.get(name)
        return self.defaults.get(name) if given is None else given.value

    def wrote(self, name: str) -> bool:
        """Whether the text sets it."""
        return name in self.given

    def put(self, given: Given) -> None:
        """Takes in a parameter; one that stands twice counts as it stands last."""
        if given.name in self.given:
            self.report.leave(self.given[given.name], f"{given.name} stands again behind it, which counts")
        self.given[given.name] = given
        self.settled.discard(given.name)

    def carry(self, names: str | Iterable[str], became: str) -> None:
        """Says of parameters that were written what they became; once each."""
        for name in [names] if isinstance(names, str) else names:
            if name in self.given and name not in self.settled:
                self.settled.add(name)
                self.report.carry(self.given[name], became)

    def leave(self, names: str | Iterable[str], because: str) -> None:
        """Says of parameters that were written why they are not carried over; once each."""
        for name in [names] if isinstance(names, str) else names:
            if name in self.given and name not in self.settled:
                self.settled.add(name)
                self.report.leave(self.given[name], because)

    def finish(self) -> None:
        """Accounts for what nothing has read."""
        self.leave(list(self.given), "with the other values it has no effect")

    def refuse(self, what: str, name: str, todo: str) -> Exception:
        """An error that points at a parameter, or at the beginning where it has its default; raise it."""
        return refuse_given(what, self.given.get(name), todo)


def nearest(name: str, valid: Iterable[str]) -> str:
    """What to write instead of an unknown name."""
    names = sorted(valid)
    close = difflib.get_close_matches(name[:100], names, n=1)
    return f"did you mean {close[0]}?" if close else f"valid are {', '.join(names)}"
