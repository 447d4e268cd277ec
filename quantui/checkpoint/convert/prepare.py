"""Whether a conversion can work, settled before a job is submitted. No torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quantui.checkpoint.convert import sidefiles
from quantui.checkpoint.convert.plan import Cast, Plan, Problem, make_plan, refuse
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import CheckpointError, InputError, OutputError
from quantui.spec import ConvertSpec
from quantui.workspace import Workspace, absolute, check_new_folder, free_bytes

VERIFY_BELOW = 2_000_000_000
"""Models below this many bytes are run to compare logits, unless told otherwise."""

SIDE_KINDS = {"pickled": "keep", "fp8": "keep", "internvl-back": "keep"}
"""Conversions whose side files need no check of their own."""

SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def prepare_conversion(
    workspace: Workspace | None,
    *,
    model: str,
    out: str,
    processor_from: str | None = None,
    max_shard_size: str = "5GB",
    dtype: str = "keep",
    verify: bool | None = None,
    allow_extra: bool = False,
    image_token_id: int | None = None,
) -> ConvertSpec:
    """A convert job that can work, as far as headers and config tell.

    Args:
        workspace: whose roots hold for every path; None lets any path pass, as on the command line.
        max_shard_size: a number with a unit ("5GB"), bytes without one.
        verify: whether logits are compared; None does for models below VERIFY_BELOW.

    Raises:
        InputError: of the kind of what is wrong.
    """
    if not model.strip():
        raise CheckpointError("no model is chosen", todo="choose the folder to convert")
    source = workspace.readable(model) if workspace else absolute(model)
    if dtype not in ("keep", "bf16", "fp16"):
        raise InputError(f"dtype {dtype!r} is unknown", where="--dtype", todo="choose keep, bf16 or fp16")
    chosen: Cast = dtype  # type: ignore[assignment]  # it is one of the three
    processor = None
    if processor_from:
        processor = workspace.readable(processor_from) if workspace else absolute(processor_from)
        if not processor.is_dir():
            todo = "give a folder with tokenizer and processor files, or leave --processor-from out"
            raise CheckpointError("there is no such folder", where=str(processor), todo=todo)
    target = _target(workspace, out, source)
    spec = ConvertSpec(
        name=source.name,
        model=str(source),
        out=str(target),
        processor_from=str(processor) if processor else None,
        max_shard_bytes=parse_size(max_shard_size),
        dtype=chosen,
        allow_extra=allow_extra,
        image_token_id=image_token_id,
    )
    plan = plan_of(spec)
    refuse(plan)
    needed, free = int(plan.nbytes * 1.01) + 2**20, free_bytes(target.parent)
    if free < needed:
        what = f"the result needs {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free"
        raise OutputError(what, where=str(target), todo="free some space, or choose another disk")
    verified = plan.nbytes < VERIFY_BELOW if verify is None else verify
    return spec.model_copy(update={"name": f"{source.name} · {plan.kind.name}", "verify": verified})


def plan_of(spec: ConvertSpec) -> Plan:
    """The plan of a job, with the problems of its side files among the others.

    Raises:
        CheckpointError: the folder is no whole model, or there is no conversion for it.
    """
    source = open_checkpoint(Path(spec.model))
    processor = Path(spec.processor_from) if spec.processor_from else None
    words = processor or source.folder
    problems: list[Problem] = []
    image = spec.image_token_id
    if image is None and sidefiles.has_tokenizer(words):
        try:
            image = sidefiles.image_token_id(words)
        except CheckpointError as error:
            problems.append(Problem("tokenizer", f"cannot be read: {error.what}"))
    plan = make_plan(source, dtype=spec.dtype, allow_extra=spec.allow_extra, image_token_id=image)
    if not plan.config:
        return plan
    notes = list(plan.notes)
    kind = SIDE_KINDS.get(plan.kind.name, plan.kind.name)
    if kind != "keep" and not sidefiles.has_tokenizer(words):
        notes.append("the source has no tokenizer, so none is made: the result cannot read text until it gets one")
        if plan.kind.name == "internvl" and image is None:
            what = "is not there, so nothing tells which token stands for a picture; give --processor-from or --image-token-id"
            problems.append(Problem("tokenizer", what))
    if not problems:
        found = sidefiles.check_native(source.folder, source.config, kind=kind, processor_from=processor)
        problems += [Problem("tokenizer", text) for text in found]
    config = plan.config
    if plan.kind.name == "chatglm" and sidefiles.has_tokenizer(words) and not problems:
        ids = sidefiles.special_ids(source.folder, source.config, kind=kind, processor_from=processor)
        config = config | {name: number for name, number in ids.items() if config.get(name) is None}
    return replace(plan, config=config, problems=(*plan.problems, *problems), notes=tuple(notes))


def parse_size(text: str) -> int:
    """Bytes of "5GB", "500MB", "2GiB" or a plain number.

    Raises:
        InputError: it is none of these, or not above zero.
    """
    cleaned = text.strip().upper().replace(" ", "")
    number = cleaned.rstrip("KMGTIB")
    try:
        size = int(float(number) * SIZES[cleaned[len(number) :]])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size <= 0:
        raise InputError(f"{text!r} is no size", where="--max-shard-size", todo="write it as 5GB or 500MB")
    return size


def _target(workspace: Workspace | None, out: str, source: Path) -> Path:
    if not out.strip():
        raise OutputError("no output folder is given", todo="name the folder the result goes to")
    path = workspace.writable(out) if workspace else absolute(out)
    if path == source:
        raise OutputError("the target is the source itself", where=str(path), todo="choose another folder")
    if source in path.parents:
        raise OutputError("the target lies inside the source", where=str(path), todo="choose a folder beside it")
    return check_new_folder(path)
