"""One sample before the model's template. No torch: text, the path of a picture, a position in a token file."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from quantui.errors import CalibrationError


class _Table(Protocol):
    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class StoredPicture:
    """A picture that lies in a row of a table; its bytes are read when they are asked for."""

    table: _Table
    index: int
    column: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}.{self.column}"

    def read(self) -> bytes:
        """The bytes of the file it was."""
        found: bytes = self.table[self.index][self.column]["bytes"]
        return found


@dataclass(frozen=True)
class Sample:
    """One sample before the model's template.

    Attributes:
        where: the file and line, or the picture, for messages.
        messages: chat messages {role, content}; for a picture the user's text of it.
        text: plain text that no template touches.
        image: path of the picture that goes with the first message, or where it is stored.
        tokens: (file, row) of a token file.
        complete: False when an answer of the model is still to come, so that the template opens its turn.
        ids: token ids, ready as they are.
        source: which source of the calibration file it comes from, counted from 0.
    """

    where: str
    messages: tuple[dict[str, Any], ...] = ()
    text: str | None = None
    image: Path | StoredPicture | None = None
    tokens: tuple[Path, int] | None = None
    complete: bool = True
    ids: tuple[int, ...] | None = None
    source: int = 0

    @property
    def plain(self) -> str:
        """All of its text, without any template."""
        return self.text if self.text is not None else "\n".join(plain(message["content"]) for message in self.messages)

    @property
    def content(self) -> str:
        """What two equal samples have in common, wherever they come from."""
        picture = str(self.image) if self.image else None
        tokens = [str(self.tokens[0]), self.tokens[1]] if self.tokens else None
        return json.dumps([self.messages, self.text, picture, tokens, self.ids], default=str)


def open_image_file(image: Path | StoredPicture) -> Path | BinaryIO:
    """What Pillow can open."""
    return image if isinstance(image, Path) else io.BytesIO(image.read())


def plain(content: Any) -> str:
    """The text of a message's content."""
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content if isinstance(part, dict))


def image_sample(where: str, picture: Path | StoredPicture, question: str, answer: str | None) -> Sample:
    """A picture with its question, and the model's answer if there is one."""
    messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": question},)
    if answer is not None:
        messages = (*messages, {"role": "assistant", "content": answer})
    return Sample(where, messages=messages, image=picture, complete=answer is not None)


def chat_sample(where: str, question: str, answer: str | None) -> Sample:
    """A question, and the model's answer if there is one."""
    asked = {"role": "user", "content": question}
    if answer is None:
        return Sample(where, messages=(asked,), complete=False)
    return Sample(where, messages=(asked, {"role": "assistant", "content": answer}))


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
