"""Options that several commands share, in the same words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Model = Annotated[str, typer.Option(help="Folder of the float model.")]
Calibration = Annotated[str, typer.Option(help="Calibration file.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda[:n] or npu[:n].")]
TrustRemoteCode = Annotated[bool, typer.Option("--trust-remote-code", help="Let Python code in the model folder run.")]
KeptIn = Annotated[Path | None, typer.Option(help="Where the job's folder is kept; ./workspace if it is not given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]

err = Console(stderr=True, highlight=False, soft_wrap=True)
"""What is said beside a result goes here."""
