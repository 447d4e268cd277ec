"""What is chosen for a run, and the job that makes: shared by every tab that starts one."""

from __future__ import annotations

from typing import TypedDict

from quantui.errors import AccessError, CalibrationError, CheckpointError, DeviceError, InputError, OutputError, RecipeError
from quantui.jobs import preflight
from quantui.spec import QuantizeSpec
from quantui.ui import rail
from quantui.ui.services import Services


class Choices(TypedDict):
    """The inputs of a handler by name. A picker that was emptied gives None, which `settled` turns into ""."""

    model: str
    calibration: str
    recipe: str
    out: str
    device: str
    statistics: bool
    trust: bool


CONCERNS: tuple[tuple[type[InputError], str], ...] = (
    (CheckpointError, "model"),
    (RecipeError, "recipe"),
    (CalibrationError, "calibration"),
    (DeviceError, "device"),
    (OutputError, "out"),
)


def settled(choices: Choices) -> Choices:
    """The choices without a None among them."""
    return {
        "model": choices["model"] or "",
        "calibration": choices["calibration"] or "",
        "recipe": choices["recipe"] or "",
        "out": (choices["out"] or "").strip(),
        "device": choices["device"] or "auto",
        "statistics": bool(choices["statistics"]),
        "trust": bool(choices["trust"]),
    }


def prepare(services: Services, choices: Choices) -> QuantizeSpec:
    """The job these choices describe.

    Raises:
        InputError: they cannot work; `concern` tells which of them.
    """
    t = services.t
    if not choices["model"]:
        raise CheckpointError(t("missing.model"), todo=t("missing.model_todo"))
    if not choices["recipe"]:
        raise RecipeError(t("missing.recipe"), todo=t("missing.recipe_todo"))
    out = choices["out"]
    if not out or "/" in out or out.startswith("."):
        raise OutputError(t("missing.out"), todo=t("missing.out_todo"))
    folder = str(services.workspace.quantized / out)
    if folder in promised(services):
        raise OutputError(t("missing.promised"), where=folder, todo=t("missing.out_todo"))
    return preflight.prepare(
        services.workspace,
        model=choices["model"],
        recipe=choices["recipe"],
        calibration=choices["calibration"] or None,
        out=folder,
        device=choices["device"],
        trust_remote_code=choices["trust"],
        statistics=choices["statistics"],
    )


def concern(error: InputError, choices: Choices) -> str:
    """Which of the choices an error is about."""
    for kind, name in CONCERNS:
        if isinstance(error, kind):
            return name
    if isinstance(error, AccessError):
        paths = {"model": choices["model"], "recipe": choices["recipe"]}
        return next((name for name, path in paths.items() if path and path in error.where), "calibration")
    return "out"


def promised(services: Services) -> set[str]:
    """Folders that runs which have not ended yet are going to make."""
    return {run.spec.out for run in services.store.list() if run.state in ("queued", "running")}


def free_name(services: Services, choices: Choices) -> str:
    """A name for the result that nothing has yet."""
    return rail.output_name(services.workspace, choices["model"], choices["recipe"], promised(services))
