"""A row of some file as a sample: which of its columns is what."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from quantui.calibration.sample import Sample, StoredPicture, chat_sample, check_messages, image_sample
from quantui.errors import CalibrationError, InputError
from quantui.workspace import absolute

ROW_KEYS = "messages, text or prompt"

COLUMNS = (
    "messages", "conversations", "image", "text", "prompt", "inputs_pretokenized", "input_ids", "question", "answer",
    "instruction", "input", "output", "ans",
)  # fmt: skip
"""Columns that are looked for. Of those that are there the first of messages, conversations, image, text, prompt,
inputs_pretokenized, input_ids, question and instruction decides what the row is; the others go with it."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system", "tool": "tool"}
"""Whom `conversations` names, as ShareGPT writes them."""

Column = Callable[[str], StoredPicture]


def wanted_columns(names: Iterable[str], key: str | None, columns: dict[str, str]) -> list[str]:
    """Which columns of a table are worth reading; all of them where none is known, so that an error can name them."""
    there = list(names)
    asked = [*columns.values(), *((key,) if key else ())]
    found = [name for name in there if name in asked or (not key and name in COLUMNS)]
    return found if found and not set(asked) - set(there) else there


def to_sample(row: Any, where: str, *, key: str | None, columns: dict[str, str], base: Folders, stored: Column) -> Sample:
    """The sample that a row is.

    Args:
        key: the column that holds the text or the messages; None looks for it.
        columns: usual name to the name here.
        base: where the paths of pictures start, and what is asked of them.
        stored: gives the picture a column of this row holds.

    Raises:
        CalibrationError: the row is none; its columns are named.
    """
    if isinstance(row, list) and len(row) == 1 and isinstance(row[0], str):
        row = row[0]  # as in msModelSlim's lists of lists
    if isinstance(row, str):
        row, key, columns = {"text": row}, None, {}
    if not isinstance(row, dict):
        raise CalibrationError("the line is not a JSON object", where=where, todo=f"write it as an object with {ROW_KEYS}")
    for name in (*columns.values(), *((key,) if key else ())):
        if name not in row:
            raise CalibrationError(f"there is no column {name}; there are {_named(row)}", where=where, todo="name one of these")
    row = {**row, **{ours: row[theirs] for ours, theirs in columns.items()}}
    if key is not None:
        return _named_key(row, key, where)
    for name, reader in _READERS:
        if row.get(name) is not None:
            return reader(row, name, where, base, functools.partial(stored, columns.get(name, name)))
    what = f"the row has none of {ROW_KEYS}; its keys are {_named(row)}"
    raise CalibrationError(what, where=where, todo="rename its key, or name the one to read as key")


class Folders:
    """Where the paths of pictures start.

    Args:
        file: the folder of the file that names them.
        pictures: a folder to look in where they are not there.
        question: what is asked of a picture that comes without a question.
    """

    def __init__(self, file: Path, question: str, pictures: Path | None = None) -> None:
        self.file, self.question, self.pictures = file, question, pictures

    def find(self, name: str, where: str) -> Path:
        """The picture of this name.

        Raises:
            CalibrationError: there is none.
        """
        places = [self.file / name]
        if self.pictures is not None:
            places += [self.pictures / name, self.pictures / Path(name).name]
        for place in places:
            try:
                picture = absolute(place)
            except InputError as error:
                raise CalibrationError(f"image: {error.what}", where=where, todo=error.todo) from error
            if picture.is_file():
                return picture
        what = f"there is no picture {name}"
        raise CalibrationError(what, where=where, todo="check the path; it is relative to this file")


def image_row(where: str, row: dict[str, Any], base: Path, question: str, pictures: Path | None = None) -> Sample:
    """The sample of a row {image, question, answer}; `image` is relative to `base`, or to `pictures`.

    Raises:
        CalibrationError: there is no image in the row, or no such file.
    """
    if not isinstance(row.get("image"), str):
        raise CalibrationError("the row has no image", where=where, todo='write it as {"image": "a.png", "question": "..."}')
    picture = Folders(base, question, pictures).find(row["image"], where)
    asked, answer = row.get("question", question), row.get("answer")
    if not isinstance(asked, str) or not isinstance(answer, str | None):
        raise CalibrationError("question and answer must be text", where=where, todo="mend the row")
    return image_sample(where, picture, asked, answer)


def _named(row: dict[str, Any]) -> str:
    return ", ".join(map(str, row)) or "none"


def _named_key(row: dict[str, Any], key: str, where: str) -> Sample:
    value = row[key]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _chat(check_messages(value, where), where)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    return Sample(where, text=_some_text(value, key, where))


def _some_text(value: Any, key: str, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise CalibrationError(f"{key} is not text, or is empty", where=where, todo="mend or delete that line")
    return value


def _chat(messages: tuple[dict[str, Any], ...], where: str) -> Sample:
    return Sample(where, messages=messages, complete=messages[-1]["role"] == "assistant")


def _messages(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    sample = _chat(check_messages(row[name], where), where)
    if not isinstance(row.get("image"), str):
        return sample
    return Sample(where, sample.messages, image=base.find(row["image"], where), complete=sample.complete)


def _conversations(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    turns = row[name]
    if isinstance(turns, list) and all(isinstance(turn, dict) and "from" in turn for turn in turns):
        turns = [{"role": _ROLES.get(str(turn["from"]), str(turn["from"])), "content": turn.get("value")} for turn in turns]
    return _chat(check_messages(turns, where), where)


def _image(row: dict[str, Any], name: str, where: str, base: Folders, stored: Callable[[], StoredPicture]) -> Sample:
    value = row["image"]
    if isinstance(value, str):
        asked = {key: row[key] for key in ("question", "answer") if row.get(key) is not None}
        return image_row(where, {"image": value, **asked}, base.file, base.question, base.pictures)
    if not isinstance(value, dict) or not (isinstance(value.get("bytes"), bytes) or isinstance(value.get("path"), str)):
        raise CalibrationError("image is no picture: neither a path nor bytes", where=where, todo="name the column that is")
    picture: Path | StoredPicture = stored() if value.get("bytes") else base.find(value["path"], where)
    asked_, answer = row.get("question"), row.get("answer")
    if isinstance(answer, list):
        answer = " ".join(map(str, answer))  # flickr30k has five captions a picture
    if not isinstance(asked_, str | None) or not isinstance(answer, str | None):
        raise CalibrationError("question and answer must be text", where=where, todo="mend the row")
    return image_sample(where, picture, base.question if asked_ is None else asked_, answer)


def _text(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    value = row[name]
    if name == "inputs_pretokenized" and isinstance(value, list) and len(value) == 1:
        value = value[0]
    return Sample(where, text=_some_text(value, name, where))


def _prompt(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    answer = row.get("ans")  # as msModelSlim's mixes have it
    return chat_sample(where, _some_text(row[name], name, where), answer if isinstance(answer, str) else None)


def _question(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    answer = row.get("answer")
    return chat_sample(where, _some_text(row[name], name, where), answer if isinstance(answer, str) else None)


def _instruction(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    asked = _some_text(row[name], name, where)
    if isinstance(row.get("input"), str) and row["input"].strip():
        asked = f"{asked}\n\n{row['input']}"
    return chat_sample(where, asked, row["output"] if isinstance(row.get("output"), str) else None)


def _ids(row: dict[str, Any], name: str, where: str, base: Folders, stored: Any) -> Sample:
    ids = row[name]
    if not isinstance(ids, list) or not ids or not all(type(token) is int and token >= 0 for token in ids):
        raise CalibrationError("input_ids is not a list of token ids", where=where, todo="mend or delete that line")
    return Sample(where, ids=tuple(ids))


_READERS: tuple[tuple[str, Callable[..., Sample]], ...] = (
    ("messages", _messages),
    ("conversations", _conversations),
    ("image", _image),
    ("text", _text),
    ("prompt", _prompt),
    ("inputs_pretokenized", _text),
    ("input_ids", _ids),
    ("question", _question),
    ("instruction", _instruction),
)
