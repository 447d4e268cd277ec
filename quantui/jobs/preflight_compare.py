"""Whether a comparison can work, settled before it is submitted. No torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import check_loadable, summary_of
from quantui.compare.folders import check_pair, model_folder, original_of
from quantui.devices import resolve_name
from quantui.errors import CalibrationError, CheckpointError, InputError
from quantui.evaluation.questions import read_questions
from quantui.spec import CompareSpec, HarnessSpec
from quantui.workspace import Workspace, absolute


def prepare_compare(
    workspace: Workspace | None,
    *,
    original: str,
    quantized: str,
    data: str,
    limit: int = 0,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> CompareSpec:
    """A comparison that can work, as far as can be told without loading a model.

    Args:
        workspace: whose roots hold for every path; None lets any path pass, as on the command line.
        original: folder of the float model; empty for the one the quantized folder names.
        quantized: folder of the quantized model, or of the run that made it.
        data: jsonl file of chats with answers.
        limit: rows that are used, from the first; 0 for all.

    Raises:
        InputError: of the kind of what is wrong.
    """
    roots = workspace.readable_roots if workspace else ()
    if not data.strip():
        raise CalibrationError("no evaluation data is chosen", todo="choose a jsonl file of chats with answers")
    first, second = _folders(original, quantized, roots)
    check_loadable(open_checkpoint(first), trust_remote_code=trust_remote_code)
    check_pair(first, second)
    file = workspace.readable(data) if workspace else absolute(data)
    questions = read_questions(file, list(roots))
    pictures = [question for question in questions if question.full.image is not None]
    if pictures and summary_of(open_checkpoint(first)).kind == "text":
        what = "here is a picture, but the model reads only text"
        raise CalibrationError(what, where=pictures[0].full.where, todo="choose an image-text model, or data without pictures")
    return CompareSpec(
        name=f"{second.name} · comparison",
        model=str(first),
        quantized=str(second),
        data=str(file),
        limit=limit,
        device=resolve_name(device),
        trust_remote_code=trust_remote_code,
        roots=tuple(map(str, roots)),
    )


def prepare_harness(
    *,
    original: str,
    quantized: str,
    tasks: Sequence[str],
    tasks_folder: str | None = None,
    limit: int = 0,
    chat: bool = False,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> HarnessSpec:
    """Benchmarks that can be run, as far as can be told without torch; for the command line.

    Args:
        original: folder of the float model; empty for the one the quantized folder names.
        quantized: folder of the quantized model, or of the run that made it.
        tasks: names of the harness's tasks.
        tasks_folder: folder of more tasks. Python files in it would be run by the harness.
        limit: rows of each task that are used, from the first; 0 for all.
        chat: whether prompts go through the model's chat template.

    Raises:
        InputError: of the kind of what is wrong.
    """
    if importlib.util.find_spec("lm_eval") is None:
        what = "lm-evaluation-harness is not installed"
        raise InputError(what, where="lm-eval", todo="install it: python -m pip install -r requirements-lm-eval.txt")
    if not tasks:
        raise InputError("no task is named", where="--tasks", todo="name one or more, by commas")
    first, second = _folders(original, quantized, ())
    checkpoint = open_checkpoint(first)
    check_loadable(checkpoint, trust_remote_code=trust_remote_code)
    if summary_of(checkpoint).kind == "image-text":
        what = "the model reads pictures, and the harness is run on text models here"
        raise CheckpointError(what, where=str(first), todo="use `compare` with a jsonl of questions about pictures")
    check_pair(first, second)
    folder = absolute(tasks_folder) if tasks_folder else None
    if folder is not None and not folder.is_dir():
        raise InputError("there is no such folder of tasks", where=str(folder), todo="check the path")
    code = next(folder.rglob("*.py"), None) if folder is not None and not trust_remote_code else None
    if code is not None:
        what = "a task may run this Python file, and code beside a model or task does not run unasked"
        raise InputError(what, where=str(code), todo="read it, then say --trust-remote-code")
    return HarnessSpec(
        name=f"{second.name} · lm-eval",
        model=str(first),
        quantized=str(second),
        tasks=tuple(tasks),
        tasks_folder=str(folder) if folder else None,
        limit=limit,
        chat=chat,
        device=resolve_name(device),
        trust_remote_code=trust_remote_code,
    )


def _folders(original: str, quantized: str, roots: tuple[Path, ...]) -> tuple[Path, Path]:
    """The folders of both models.

    Raises:
        CheckpointError: one is not named, or is none.
    """
    if not quantized.strip():
        raise CheckpointError("no quantized model is chosen", todo="choose a quantized model folder, or a run")
    second = model_folder(quantized, roots)
    first = model_folder(original, roots) if original.strip() else original_of(second)
    if first is None:
        raise CheckpointError("it does not say which model it was made from", where=str(second), todo="name the original")
    return first, second


def evaluation_beside(calibration: str | None) -> Path | None:
    """The evaluation file that lies beside a calibration file, if there is one."""
    if not calibration:
        return None
    file = Path(calibration).parent / "evaluation.jsonl"
    return file if file.is_file() else None
