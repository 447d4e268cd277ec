"""Every error this project raises on purpose: what is wrong, where, and what to do next.

QuantUIError
├── InputError              what was given cannot work; found before the long work starts (exit code 2)
│   ├── CheckpointError     a model folder, one of its shards or its config.json
│   ├── RecipeError         a recipe, or a recipe that does not fit the model
│   ├── CalibrationError    a calibration or evaluation file, or a row of it
│   ├── DeviceError         a device that is not there
│   ├── OutputError         the output folder, or the room on its disk
│   └── AccessError         a path outside the allowed roots
└── RunError                it failed while running (exit code 1)
    ├── EngineError         the quantization engine raised
    ├── ResultError         the result is not what was asked for: bad scales, wrong layer count, does not re-open
    └── CancelledError      somebody stopped it
"""

from __future__ import annotations


class QuantUIError(Exception):
    """An error a person can act on.

    Args:
        what: what is wrong, without a full stop ("the shard is truncated").
        where: the file, line, key or layer it concerns; empty when there is none.
        todo: what to do next, as an instruction ("copy it again").
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", todo: str = "") -> None:
        self.what, self.where, self.todo = what, where, todo
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        advice = f"; {self.todo}" if self.todo else ""
        return f"{place}{self.what}{advice}."


class InputError(QuantUIError):
    """What was given cannot work."""

    exit_code = 2


class CheckpointError(InputError):
    """A model folder, one of its shards or its config.json cannot be used."""


class RecipeError(InputError):
    """A recipe is malformed or does not fit the model."""


class CalibrationError(InputError):
    """A calibration or evaluation file, or one of its rows, cannot be used."""


class DeviceError(InputError):
    """A device is unknown or not there."""


class OutputError(InputError):
    """The output folder cannot be written."""


class AccessError(InputError):
    """A path lies outside the allowed roots."""


class RunError(QuantUIError):
    """It failed while running."""


class EngineError(RunError):
    """The quantization engine raised."""


class ResultError(RunError):
    """The result is not what was asked for."""


class CancelledError(RunError):
    """Somebody stopped the job."""


def unfit_torchvision(error: BaseException) -> EngineError | None:
    """What to say where torchvision was built for another torch, so that nothing of transformers can be imported."""
    first = error
    while isinstance(first, Exception) and first.__cause__ is not None:
        first = first.__cause__
    if not isinstance(error, ImportError | RuntimeError | OSError) or "torchvision" not in str(first):
        return None
    what = f"the installed torchvision does not fit this torch ({' '.join(str(first).split())[:200]})"
    todo = "uninstall it, since nothing here needs it, or install the one that was built for this torch"
    return EngineError(what, todo=todo)
