"""What a job is asked to do: the one object that crosses from the web process to the worker, as spec.json."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

QUANTIZE_STAGES = ("start", "load", "evaluate_original", "quantize", "check", "save", "reopen", "evaluate_result")
"""The stages of a quantize job in their order; `evaluate_*` are left out where there is no evaluation data."""


class QuantizeSpec(BaseModel):
    """One quantize job.

    Recipe and calibration travel as text, so that editing the files while the job waits in the queue changes nothing.

    Attributes:
        name: what people call the run, for lists ("chat · fp8-w8a8-kv8").
        model: absolute path of the float model folder.
        recipe: text of the recipe file.
        recipe_path: where the text came from, for messages.
        calibration: text of the calibration file, or None for a recipe that needs no data.
        calibration_path: where that came from; relative paths in the text start at its folder.
        evaluation: absolute path of a jsonl file of held-out questions, or None.
        out: absolute path of the folder to write; must not exist.
        device: "auto", "cpu", "cuda[:n]" or "npu[:n]".
        trust_remote_code: whether Python code inside the model folder may run.
        roots: absolute folders the job may read data from; empty for the command line, which has its user's own rights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["quantize"] = "quantize"
    name: str
    model: str
    recipe: str
    recipe_path: str
    calibration: str | None
    calibration_path: str | None
    evaluation: str | None
    out: str
    device: str = "auto"
    trust_remote_code: bool = False
    roots: tuple[str, ...] = ()

    def stages(self) -> tuple[str, ...]:
        """The stages this job will go through, in order."""
        return tuple(s for s in QUANTIZE_STAGES if self.evaluation or not s.startswith("evaluate"))


JobSpec = QuantizeSpec
