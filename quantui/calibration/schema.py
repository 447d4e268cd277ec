"""The calibration file: where samples come from and how many are taken."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from quantui.calibration.presets import PRESETS
from quantui.errors import CalibrationError, InputError
from quantui.recipe.text import LONGEST, Document
from quantui.workspace import absolute

TEXT_SAMPLES, TEXT_TOKENS = 256, 512
IMAGE_SAMPLES, IMAGE_TOKENS = 512, 2048
"""Defaults of llm-compressor's own examples for text and for pictures."""

CHOSEN = 30
"""How many pictures `choose: true` takes, as msModelSlim's script for InternVL2 does."""

Kind = Literal["jsonl", "json", "dataset", "hub", "images", "texts", "tokens", "boolq", "gsm8k", "ceval", "mmlu"]
Language = Literal["en", "zh", "code"]
ROW_OPTIONS = ("key", "columns", "on_bad", "question")

OPTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "jsonl": ("path", ROW_OPTIONS),
        "json": ("path", ROW_OPTIONS),
        "dataset": ("path", ("split", *ROW_OPTIONS)),
        "hub": ("", ("id", "preset", "config", "split", "streaming", *ROW_OPTIONS)),
        "images": ("path", ("questions", "question", "on_bad")),
        "texts": ("texts", ()),
        "tokens": ("path", ()),
        "boolq": ("path", ("on_bad",)),
        "gsm8k": ("path", ("on_bad",)),
        "ceval": ("path", ("on_bad",)),
        "mmlu": ("path", ("on_bad",)),
    }
)
"""What each kind needs and what else it may have; every kind may have weight and choose."""


class Source(BaseModel):
    """One place samples come from.

    Attributes:
        kind: jsonl = one row a line; json = one list of rows; dataset = a file or folder of parquet, arrow, csv or json, or
            what `save_to_disk` writes; hub = a dataset by its id; images = a folder of pictures; texts = a list in this file;
            tokens = `input_ids` (N, L) int64 in a safetensors file, used exactly as they are; boolq, gsm8k, ceval, mmlu = files
            of those benchmarks, each question with its answer.
        path: the file or folder; made absolute when the calibration file is read.
        weight: this source's share of the samples, next to the weights of the others.
        choose: take only so many of its rows, drawn at random with the seed of the file; `true` is 30.
        on_bad: stop = a row that is no sample is an error; skip = it is passed over and counted.
        key: the column that holds the text or the messages, where the names are not the usual ones.
        columns: usual name to the name in these rows, as {image: picture, question: caption}.
        split: of a dataset, with a slice if wanted: `train_sft[:256]`.
        id, config, streaming, preset: which dataset of the hub; a preset names all of it.
        questions: for images, a jsonl with rows {image, question, answer}; `image` is relative to it, or to the folder.
        question: what is asked of a picture that comes without a question.
        texts: plain texts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    path: Path | None = None
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    choose: Annotated[int, Field(ge=1, strict=True)] | None = None
    on_bad: Literal["stop", "skip"] = "stop"
    key: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    split: str | None = None
    id: str | None = None
    config: str | None = None
    streaming: bool = True
    preset: str | None = None
    questions: Path | None = None
    question: str = "What does the image show?"
    texts: tuple[str, ...] | None = None

    @field_validator("choose", mode="before")
    @classmethod
    def _thirty(cls, value: Any) -> Any:
        return CHOSEN if value is True else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        needed, others = OPTIONS[self.kind]
        if needed and getattr(self, needed) is None:
            raise ValueError(f"kind {self.kind} needs {needed}")
        allowed = {"kind", "weight", "choose", needed, *others}
        if odd := sorted(self.model_fields_set - allowed):
            kinds = [kind for kind, (need, more) in OPTIONS.items() if odd[0] in (need, *more)]
            raise ValueError(f"{odd[0]} goes with kind {' or '.join(kinds)}, not {self.kind}")
        if self.kind == "hub" and (self.id is None) == (self.preset is None):
            raise ValueError("kind hub needs either id or preset")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"there is no preset {self.preset}; there are {', '.join(PRESETS)}")
        return self

    @property
    def name(self) -> str:
        """What a person calls it: the file or folder, or the dataset."""
        if self.path is not None:
            return self.path.name
        return self.id or self.preset or self.kind


class Calibration(BaseModel):
    """A calibration file.

    Attributes:
        sources: taken one after the other before shuffling; or, where any has a weight, mixed in those shares.
        samples: how many are used; fewer when the sources hold fewer. Where every source says `choose`, as many as these.
        max_tokens: where a sample is cut.
        shuffle: whether samples are drawn at random; else the first ones are taken.
        seed: of that draw, the same as `datasets.Dataset.shuffle(seed)` makes.
        long: what becomes of a longer sample: truncate = its first max_tokens; windows = all of it, in pieces of max_tokens;
            drop = it is left out, and the next one taken.
        pack: for base models: all texts one after the other, cut into samples of exactly max_tokens tokens.
        template: instead of the model's own chat template: a jinja file, jinja text, or `plain` for "role: content" lines.
        languages: shares of English, Chinese and code among the samples; what is none of these fills no share.
        dedupe: whether equal samples are used once; by default they are where sources are mixed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    samples: Annotated[int, Field(ge=1, strict=True)] = TEXT_SAMPLES
    max_tokens: Annotated[int, Field(ge=1, strict=True)] = TEXT_TOKENS
    shuffle: bool = True
    seed: Annotated[int, Field(ge=0, strict=True)] = 42
    long: Literal["truncate", "windows", "drop"] = "truncate"
    pack: bool = False
    template: Annotated[str, Field(min_length=1)] | None = None
    languages: dict[Language, Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None = None
    dedupe: bool | None = None

    @model_validator(mode="after")
    def _mixes_one_way(self) -> Self:
        if self.weighted and self.languages:
            raise ValueError("sources have weights and languages has shares; give one or the other")
        if self.languages is not None and not sum(self.languages.values()) > 0:
            raise ValueError("languages needs a share that is more than 0")
        if self.pack and self.long != "truncate":
            raise ValueError("pack cuts everything into windows already; leave long out")
        return self

    @property
    def has_images(self) -> bool:
        """Whether any source is pictures, as far as the file alone tells."""
        return any(_has_pictures(source.kind, source.preset) for source in self.sources)

    @property
    def weighted(self) -> bool:
        """Whether sources are mixed by weight."""
        return any(source.weight is not None for source in self.sources)

    @property
    def drops_equals(self) -> bool:
        """Whether equal samples are used once."""
        return self.weighted if self.dedupe is None else self.dedupe

    @property
    def reshapes(self) -> bool:
        """Whether samples can only be counted once they are tokens."""
        return self.pack or self.long != "truncate"


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
    entries = [entry for entry in sources if isinstance(entry, dict)] if isinstance(sources, list) else []
    if any(_has_pictures(entry.get("kind"), entry.get("preset")) for entry in entries):
        data = {"samples": IMAGE_SAMPLES, "max_tokens": IMAGE_TOKENS} | data
    chosen = [CHOSEN if entry.get("choose") is True else entry.get("choose") for entry in entries]
    if chosen and all(isinstance(count, int) and count > 0 for count in chosen) and "samples" not in document.data:
        data["samples"] = sum(count for count in chosen if isinstance(count, int))
    try:
        calibration = Calibration.model_validate(data)
    except ValidationError as error:
        problems = error.errors()
        what = "; ".join(_problem(problem) for problem in problems)
        valid = Source.model_fields if "sources" in problems[0]["loc"][:-1] else Calibration.model_fields
        about_keys = any(problem["type"] in ("extra_forbidden", "missing") for problem in problems)
        todo = f"valid keys are {', '.join(valid)}" if about_keys else "correct the value"
        raise document.fail(what, problems[0]["loc"], todo) from error
    found = tuple(_absolute(document, index, entry, base) for index, entry in enumerate(calibration.sources))
    return calibration.model_copy(update={"sources": found, "template": _template(document, calibration.template, base)})


def _has_pictures(kind: Any, preset: Any) -> bool:
    return kind == "images" or (isinstance(preset, str) and preset in PRESETS and PRESETS[preset].pictures)


def _template(document: Document, template: str | None, base: Path) -> str | None:
    """The path of a template file made absolute; template text as it is."""
    if template is None or not template.endswith((".jinja", ".jinja2")) or "{" in template:
        return template
    try:
        return str(absolute(template if template.startswith("~") else base / template))
    except InputError as error:
        raise document.fail(error.what, ("template",), error.todo) from error


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
