"""The calibration file: where samples come from and how many are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from quantui.errors import CalibrationError, InputError
from quantui.recipe.text import LONGEST, Document
from quantui.workspace import absolute

TEXT_SAMPLES, TEXT_TOKENS = 256, 512
IMAGE_SAMPLES, IMAGE_TOKENS = 512, 2048
"""Defaults of llm-compressor's own examples for text and for pictures."""


class Source(BaseModel):
    """One place samples come from.

    Attributes:
        kind: jsonl = rows with `messages`, `text` or `prompt`; images = a folder of pictures; tokens = `input_ids` (N, L)
            int64 in a safetensors file, used exactly as they are.
        path: the file or folder; made absolute when the calibration file is read.
        questions: for images, a jsonl with rows {image, question, answer}; `image` is relative to it.
        question: for images without questions, what is asked of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["jsonl", "images", "tokens"]
    path: Path
    questions: Path | None = None
    question: str = "What does the image show?"

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.questions is not None and self.kind != "images":
            raise ValueError(f"questions go with kind images, not {self.kind}")
        return self


class Calibration(BaseModel):
    """A calibration file.

    Attributes:
        sources: taken one after the other before shuffling.
        samples: how many are used; fewer when the sources hold fewer.
        max_tokens: longer samples are cut to this many tokens.
        shuffle: whether samples are drawn at random; else the first ones are taken.
        seed: of that draw, the same as `datasets.Dataset.shuffle(seed)` makes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    samples: Annotated[int, Field(ge=1, strict=True)] = TEXT_SAMPLES
    max_tokens: Annotated[int, Field(ge=1, strict=True)] = TEXT_TOKENS
    shuffle: bool = True
    seed: Annotated[int, Field(ge=0, strict=True)] = 42

    @property
    def has_images(self) -> bool:
        """Whether any source is pictures."""
        return any(source.kind == "images" for source in self.sources)


def load(path: Path) -> Calibration:
    """Reads a calibration file; relative paths start at its folder.

    Raises:
        CalibrationError: it cannot be read, or what `loads` raises.
    """
    return loads(read_text(path, longest=LONGEST), where=str(path), base=path.parent)


def loads(source: str, *, where: str, base: Path) -> Calibration:
    """Reads calibration YAML; relative paths start at `base`.

    Raises:
        CalibrationError: it is not YAML, has an unknown key or a value out of range; the line is named.
    """
    document = Document(source, where, CalibrationError)
    if not isinstance(document.data, dict):
        raise document.fail("the calibration file is empty or no mapping", (), "give it sources: a list of {kind, path}")
    data: dict[str, Any] = dict(document.data)
    sources = data.get("sources")
    kinds = [entry.get("kind") for entry in sources if isinstance(entry, dict)] if isinstance(sources, list) else []
    if "images" in kinds:
        data = {"samples": IMAGE_SAMPLES, "max_tokens": IMAGE_TOKENS} | data
    try:
        calibration = Calibration.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        what = "; ".join(_problem(problem) for problem in problems)
        valid = Source.model_fields if "sources" in problems[0]["loc"][:-1] else Calibration.model_fields
        raise document.fail(what, problems[0]["loc"], f"valid keys are {', '.join(valid)}") from error
    found = tuple(_absolute(document, index, entry, base) for index, entry in enumerate(calibration.sources))
    return calibration.model_copy(update={"sources": found})


def read_text(path: Path, *, longest: int | None = None) -> str:
    """The text of a calibration or evaluation file, less the mark some editors put before it.

    Args:
        longest: bytes it may have; None leaves that open.

    Raises:
        CalibrationError: it is not there, no file, too long, or not UTF-8.
    """
    try:
        if path.exists() and not path.is_file():
            raise CalibrationError("it is a folder or device, not a file", where=str(path), todo="check the path")
        if longest is not None and path.stat().st_size > longest:
            what = f"the file has more than {longest // 10**6} MB, which no calibration file has"
            raise CalibrationError(what, where=str(path), todo="check the path; the data itself goes under sources")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CalibrationError(f"the file cannot be read ({error.strerror})", where=str(path), todo="check the path") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CalibrationError("the file is not UTF-8 text", where=f"{path}:{line}", todo="save it as UTF-8") from error


def _problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"unknown key {name}" if problem["type"] == "extra_forbidden" else f"{name}: {message}"


def _absolute(document: Document, index: int, source: Source, base: Path) -> Source:
    found: dict[str, Path] = {}
    for key in ("path", "questions"):
        path: Path | None = getattr(source, key)
        try:
            if path is not None:
                found[key] = absolute(path if str(path).startswith("~") else base / path)
        except InputError as error:
            raise document.fail(error.what, ("sources", index, key), error.todo) from error
    return source.model_copy(update=found)
