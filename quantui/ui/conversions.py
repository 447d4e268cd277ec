"""What is chosen for a conversion, its plan, and the job that makes: the Convert tab's side of `checkpoint.convert`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

from quantui.checkpoint.convert.plan import Plan
from quantui.checkpoint.convert.prepare import parse_size, plan_of, prepare_conversion
from quantui.errors import AccessError, CheckpointError, InputError, OutputError
from quantui.spec import ConvertSpec
from quantui.ui import numbers
from quantui.ui.choices import promised
from quantui.ui.services import Services
from quantui.workspace import check_new_folder, free_bytes

DTYPES = ("keep", "bf16", "fp16")
"""What floating-point weights may be stored as."""

VERIFY = {"auto": None, "yes": True, "no": False}
"""Whether logits are compared, by the choice in the page."""


class Conversion(TypedDict):
    """The inputs of a handler by name. A picker that was emptied gives None, which `settled` turns into ""."""

    source: str
    out: str
    dtype: str
    shard: str
    verify: str
    extra: bool
    processor: str
    image_token: str


def settled(chosen: Conversion) -> Conversion:
    """The choices without a None among them."""
    return {
        "source": (chosen["source"] or "").strip(),
        "out": (chosen["out"] or "").strip(),
        "dtype": chosen["dtype"] or "keep",
        "shard": chosen["shard"] or "",
        "verify": chosen["verify"] or "auto",
        "extra": bool(chosen["extra"]),
        "processor": (chosen["processor"] or "").strip(),
        "image_token": (chosen["image_token"] or "").strip(),
    }


def planned(services: Services, chosen: Conversion) -> Plan:
    """What would be done with the source, with everything that is wrong with it.

    Raises:
        InputError: the source or the processor's folder cannot be read, or there is no conversion; `concern` tells which.
    """
    t = services.t
    if not chosen["source"]:
        raise CheckpointError(t("missing.source"), todo=t("missing.source_todo"))
    processor = services.workspace.readable(chosen["processor"]) if chosen["processor"] else None
    if processor and not processor.is_dir():
        raise CheckpointError(t("missing.folder"), where=str(processor), todo=t("missing.folder_todo"))
    spec = {
        "name": "",
        "model": str(services.workspace.readable(chosen["source"])),
        "out": "",
        "processor_from": str(processor) if processor else None,
        "dtype": chosen["dtype"],
        "allow_extra": chosen["extra"],
        "image_token_id": _token(services, chosen),
    }
    made = ConvertSpec.model_validate(spec)
    return _plan(made, _stamp(made.model), _stamp(made.processor_from or ""))


def checked(services: Services, chosen: Conversion) -> tuple[Plan | None, dict[str, InputError]]:
    """The plan, None where there is none, and what is wrong by the choice it concerns; problems of the plan are in the plan.

    The same as `prepare` would find, but a plan that is known is not made again: this is asked at every key that is pressed.
    """
    wrong: dict[str, InputError] = {}

    def attempt(step: Callable[[], object]) -> Any:
        try:
            return step()
        except InputError as error:
            wrong.setdefault(concern(error, chosen), error)
            return None

    plan: Plan | None = attempt(lambda: planned(services, chosen))
    attempt(lambda: parse_size(chosen["shard"]))
    attempt(lambda: _check_target(services, chosen, plan))
    return plan, wrong


def prepare(services: Services, chosen: Conversion) -> ConvertSpec:
    """The job these choices describe.

    Raises:
        InputError: they cannot work; `concern` tells which of them.
    """
    folder = _target(services, chosen)
    return prepare_conversion(
        services.workspace,
        model=chosen["source"],
        out=folder,
        processor_from=chosen["processor"] or None,
        max_shard_size=chosen["shard"],
        dtype=chosen["dtype"],
        verify=VERIFY[chosen["verify"]],
        allow_extra=chosen["extra"],
        image_token_id=_token(services, chosen),
    )


def concern(error: InputError, chosen: Conversion) -> str:
    """Which of the choices an error is about."""
    if error.where in ("--max-shard-size", "--image-token-id"):
        return "shard" if error.where == "--max-shard-size" else "image_token"
    if isinstance(error, OutputError):
        return "out"
    processor = chosen["processor"]
    if processor and _names(error.where, processor) and not _names(error.where, chosen["source"]):
        return "processor"
    if isinstance(error, AccessError) and error.where.endswith(f"/models/{chosen['out']}"):
        return "out"
    return "source"


def _target(services: Services, chosen: Conversion) -> str:
    """The folder the result goes to.

    Raises:
        OutputError: its name is none, or another run is going to make it.
    """
    t, out = services.t, chosen["out"]
    if not out or "/" in out or out.startswith("."):
        raise OutputError(t("missing.out"), todo=t("missing.out_todo"))
    folder = str(services.workspace.models / out)
    if folder in promised(services):
        raise OutputError(t("missing.promised"), where=folder, todo=t("missing.out_todo"))
    return folder


def _check_target(services: Services, chosen: Conversion, plan: Plan | None) -> None:
    """Refuses a folder that cannot be made or does not fit on its disk.

    Raises:
        InputError: of the kind of what is wrong.
    """
    folder = check_new_folder(services.workspace.writable(_target(services, chosen)))
    free = free_bytes(folder.parent)
    if plan and free < plan.nbytes:
        t = services.t
        what = t("missing.room", needed=numbers.size(plan.nbytes), free=numbers.size(free))
        raise OutputError(what, where=str(folder), todo=t("missing.room_todo"))


def _names(where: str, path: str) -> bool:
    return where == path or where.startswith(f"{path.rstrip('/')}/")


def _token(services: Services, chosen: Conversion) -> int | None:
    """The image token's id.

    Raises:
        InputError: it is no whole number.
    """
    text = chosen["image_token"]
    if text and not (text.isascii() and text.isdigit()):
        t = services.t
        raise InputError(t("missing.token"), where="--image-token-id", todo=t("missing.token_todo"))
    return int(text) if text else None


def _stamp(folder: str) -> tuple[tuple[str, int, int], ...]:
    """The files of a folder with their times and sizes: a plan holds while they stay."""
    try:
        files = [(path.name, path.stat()) for path in Path(folder).iterdir()] if folder else []
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in files))


@functools.lru_cache(maxsize=4)
def _plan(spec: ConvertSpec, *stamps: tuple[tuple[str, int, int], ...]) -> Plan:
    """The plan of a job, kept so that filtering its table reads no header again."""
    return plan_of(spec)
