"""The calibration file: where samples come from and how many are taken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quantui.errors import CalibrationError
from quantui.recipe.text import Document

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
    samples: Annotated[int, Field(ge=1)] = TEXT_SAMPLES
    max_tokens: Annotated[int, Field(ge=1)] = TEXT_TOKENS
    shuffle: bool = True
    seed: Annotated[int, Field(ge=0)] = 42

    @property
    def has_images(self) -> bool:
        """Whether any source is pictures."""
        return any(source.kind == "images" for source in self.sources)


def load(path: Path) -> Calibration:
    """Reads a calibration file; relative paths start at its folder.

    Raises:
        CalibrationError: it cannot be read, or what `loads` raises.
    """
    return loads(read_text(path), where=str(path), base=path.parent)


def loads(source: str, *, where: str, base: Path) -> Calibration:
    """Reads calibration YAML; relative paths start at `base`.

    Raises:
        CalibrationError: it is not YAML, has an unknown key or a value out of range; the line is named.
    """
    document = Document(source, where, CalibrationError)
    if not isinstance(document.data, dict):
        raise document.fail("the calibration file is empty or no mapping", (), "give it sources: a list of {kind, path}")
    data: dict[str, Any] = dict(document.data)
    kinds = [entry.get("kind") for entry in data.get("sources") or [] if isinstance(entry, dict)]
    if "images" in kinds:
        data = {"samples": IMAGE_SAMPLES, "max_tokens": IMAGE_TOKENS} | data
    try:
        calibration = Calibration.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        what = "; ".join(_problem(problem) for problem in problems)
        valid = Source.model_fields if "sources" in problems[0]["loc"][:-1] else Calibration.model_fields
        raise document.fail(what, problems[0]["loc"], f"valid keys are {', '.join(valid)}") from error
    return calibration.model_copy(update={"sources": tuple(_absolute(entry, base) for entry in calibration.sources)})


def read_text(path: Path) -> str:
    """The text of a calibration or evaluation file.

    Raises:
        CalibrationError: it is not there, a folder, or not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise CalibrationError(f"the file cannot be read ({error.strerror})", where=str(path), todo="check the path") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise CalibrationError("the file is not UTF-8 text", where=f"{path}:{line}", todo="save it as UTF-8") from error


def _problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    return f"unknown key {name}" if problem["type"] == "extra_forbidden" else f"{name}: {problem['msg']}"


def _absolute(source: Source, base: Path) -> Source:
    questions = None if source.questions is None else (base / source.questions.expanduser()).resolve()
    return source.model_copy(update={"path": (base / source.path.expanduser()).resolve(), "questions": questions})
