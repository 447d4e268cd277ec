"""Samples out of their sources, still unrendered. No torch: rows of text, paths of pictures, positions in a token file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from quantui.calibration.schema import Calibration, Source, read_text
from quantui.checkpoint.files import read_header
from quantui.errors import CalibrationError, CheckpointError, InputError
from quantui.workspace import absolute, check_inside

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
ROW_KEYS = "messages, text or prompt"


@dataclass(frozen=True)
class Sample:
    """One sample before the model's template.

    Attributes:
        where: the file and line, or the picture, for messages.
        messages: chat messages {role, content}; for a picture the user's text of it.
        text: plain text that no template touches.
        image: path of the picture that goes with the first message.
        tokens: (file, row) of a token file.
        complete: False when an answer of the model is still to come, so that the template opens its turn.
    """

    where: str
    messages: tuple[dict[str, Any], ...] = ()
    text: str | None = None
    image: Path | None = None
    tokens: tuple[Path, int] | None = None
    complete: bool = True


def read_samples(calibration: Calibration, roots: Sequence[Path] = ()) -> list[Sample]:
    """The samples a calibration file chooses, in the order they are used.

    Args:
        roots: folders that data may be read from; none means any.

    Raises:
        CalibrationError: a source is missing, empty or malformed (the line is named).
        AccessError: a source lies outside the roots.
    """
    found = [sample for source in calibration.sources for sample in read_source(source, roots)]
    if calibration.shuffle:
        # numpy's permutation is what datasets.Dataset.shuffle(seed) draws
        order = np.random.default_rng(calibration.seed).permutation(len(found))
        found = [found[int(i)] for i in order[: calibration.samples]]
    return found[: calibration.samples]


def read_source(source: Source, roots: Sequence[Path] = ()) -> list[Sample]:
    """All samples of one source, in their own order."""
    check_inside(source.path, roots)
    if source.questions is not None:
        check_inside(source.questions, roots)
    if not source.path.exists():
        raise CalibrationError(
            "there is no such file or folder", where=str(source.path), todo="check the path in the calibration file"
        )
    samples = list(_READERS[source.kind](source))
    if not samples:
        todo = f"give it rows with {ROW_KEYS}" if source.kind == "jsonl" else "put at least one sample into it"
        raise CalibrationError("it holds no samples", where=str(source.path), todo=todo)
    for sample in samples:
        if sample.image is not None:
            check_inside(sample.image, roots)
    return samples


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, row) for each line of a jsonl file that is not blank.

    Raises:
        CalibrationError: a line is not a JSON object.
    """
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(
                f"the line is not valid JSON ({error})", where=where, todo="mend or delete that line"
            ) from error
        if not isinstance(row, dict):
            raise CalibrationError("the line is not a JSON object", where=where, todo=f"write it as an object with {ROW_KEYS}")
        yield where, row


def check_messages(messages: Any, where: str) -> tuple[dict[str, Any], ...]:
    """Chat messages as given, if they are some.

    Raises:
        CalibrationError: they are not a non-empty list of {role, content}.
    """
    good = (
        isinstance(messages, list)
        and messages
        and all(
            isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str | list)
            for m in messages
        )
    )
    if not good:
        todo = 'write it as [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        raise CalibrationError("messages is not a list of objects with role and content", where=where, todo=todo)
    return tuple(messages)


def _jsonl(source: Source) -> Iterator[Sample]:
    for where, row in read_rows(source.path):
        if row.get("messages") is not None:
            messages = check_messages(row["messages"], where)
            yield Sample(where, messages=messages, complete=messages[-1]["role"] == "assistant")
        elif row.get("text") is not None:
            yield Sample(where, text=_some_text(row, "text", where))
        elif row.get("prompt") is not None:
            yield Sample(where, messages=({"role": "user", "content": _some_text(row, "prompt", where)},), complete=False)
        else:
            keys = ", ".join(map(str, row)) or "none"
            raise CalibrationError(f"the row has none of {ROW_KEYS}; its keys are {keys}", where=where, todo="rename its key")


def _some_text(row: dict[str, Any], key: str, where: str) -> str:
    if not isinstance(row[key], str) or not row[key].strip():
        raise CalibrationError(f"{key} is not text, or is empty", where=where, todo="mend or delete that line")
    return str(row[key])


def _images(source: Source) -> Iterator[Sample]:
    if not source.path.is_dir():
        raise CalibrationError("it is not a folder of pictures", where=str(source.path), todo="give the folder that holds them")
    if source.questions is None:
        pictures = sorted(p for p in source.path.rglob("*") if p.suffix.lower() in PICTURES and p.is_file())
        for picture in pictures:
            yield image_sample(str(picture), picture, source.question, None)
        return
    for where, row in read_rows(source.questions):
        yield image_row(where, row, source.questions.parent, source.question)


def image_row(where: str, row: dict[str, Any], base: Path, question: str) -> Sample:
    """The sample of a row {image, question, answer}; `image` is relative to `base`.

    Raises:
        CalibrationError: there is no image in the row, or no such file.
    """
    if not isinstance(row.get("image"), str):
        raise CalibrationError("the row has no image", where=where, todo='write it as {"image": "a.png", "question": "..."}')
    try:
        picture = absolute(base / row["image"])
    except InputError as error:
        raise CalibrationError(f"image: {error.what}", where=where, todo=error.todo) from error
    if not picture.is_file():
        raise CalibrationError(
            f"there is no picture {row['image']}", where=where, todo="check the path; it is relative to this file"
        )
    asked, answer = row.get("question", question), row.get("answer")
    if not isinstance(asked, str) or not isinstance(answer, str | None):
        raise CalibrationError("question and answer must be text", where=where, todo="mend the row")
    return image_sample(where, picture, asked, answer)


def image_sample(where: str, picture: Path, question: str, answer: str | None) -> Sample:
    """A picture with its question, and the model's answer if there is one."""
    messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": question},)
    if answer is not None:
        messages = (*messages, {"role": "assistant", "content": answer})
    return Sample(where, messages=messages, image=picture, complete=answer is not None)


def _tokens(source: Source) -> Iterator[Sample]:
    try:
        tensor = read_header(source.path).get("input_ids")
    except CheckpointError as error:
        raise CalibrationError(
            error.what, where=str(source.path), todo="write input_ids (N, L) int64 as safetensors"
        ) from error
    if tensor is None or len(tensor.shape) != 2 or not tensor.shape[1] or tensor.dtype != "I64":
        what = "it has no input_ids of shape (N, L) and dtype int64 with L of at least 1"
        raise CalibrationError(what, where=str(source.path), todo="write input_ids (N, L) int64 as safetensors")
    for row in range(tensor.shape[0]):
        yield Sample(f"{source.path}[{row}]", tokens=(source.path, row))


_READERS = {"jsonl": _jsonl, "images": _images, "tokens": _tokens}
