"""A choice of samples changed by hand: moved, dropped, pinned, edited, and saved as a calibration file of its own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from quantui.calibration.pictures import open_picture
from quantui.calibration.sample import Sample, check_messages
from quantui.calibration.schema import Calibration
from quantui.calibration.tiles import png
from quantui.errors import CalibrationError, OutputError
from quantui.workspace import check_inside, staged_folder


@dataclass(frozen=True)
class Choice:
    """Samples in their order, and which of them stay when others are drawn; every change gives a new one.

    Attributes:
        samples: in the order they are used.
        pinned: contents of the pinned ones.
    """

    samples: tuple[Sample, ...]
    pinned: frozenset[str] = frozenset()

    def move(self, index: int, to: int) -> Choice:
        """The sample at `index` put at place `to`; places beyond the end are the end."""
        rest = list(self.samples)
        sample = rest.pop(self._at(index))
        rest.insert(max(0, min(to, len(rest))), sample)
        return replace(self, samples=tuple(rest))

    def drop(self, index: int) -> Choice:
        """Without the sample at `index`.

        Raises:
            CalibrationError: it is the last one.
        """
        gone = self.samples[self._at(index)]
        if len(self.samples) == 1:
            raise CalibrationError("the last sample cannot be dropped", where=gone.where, todo="add another first")
        kept = (*self.samples[:index], *self.samples[index + 1 :])
        return Choice(kept, self.pinned - {gone.content})

    def pin(self, index: int, pinned: bool = True) -> Choice:
        """The sample at `index` pinned, or no longer."""
        content = {self.samples[self._at(index)].content}
        return replace(self, pinned=self.pinned | content if pinned else self.pinned - content)

    def is_pinned(self, index: int) -> bool:
        """Whether the sample at `index` is pinned."""
        return self.samples[self._at(index)].content in self.pinned

    def edit(self, index: int, *, text: str | None = None, messages: Sequence[dict[str, Any]] | None = None) -> Choice:
        """The sample at `index` with other words; a chat or a picture takes messages, plain text takes text.

        Raises:
            CalibrationError: the words are none, or not of that kind.
        """
        sample = self.samples[self._at(index)]
        where = sample.where if sample.where.endswith(" (edited)") else f"{sample.where} (edited)"
        if text is not None and not sample.messages:
            if not text.strip():
                raise CalibrationError("the text is empty", where=sample.where, todo="write some, or drop the sample")
            changed = Sample(where, text=text, source=sample.source)
        elif messages is not None and sample.messages:
            checked = check_messages(list(messages), sample.where)
            changed = replace(sample, where=where, messages=checked, complete=checked[-1]["role"] == "assistant")
        else:
            kind = "messages" if sample.messages else "text"
            raise CalibrationError(f"this sample has {kind}", where=sample.where, todo=f"give {kind}")
        pinned = self.pinned - {sample.content} | {changed.content} if sample.content in self.pinned else self.pinned
        return Choice((*self.samples[:index], changed, *self.samples[index + 1 :]), pinned)

    def redraw(self, fresh: Sequence[Sample], count: int) -> Choice:
        """Pinned samples first, in their order, then fresh ones that are not among them, `count` in all."""
        kept = [sample for sample in self.samples if sample.content in self.pinned]
        there = {sample.content for sample in kept}
        rest = [sample for sample in fresh if sample.content not in there]
        return replace(self, samples=tuple([*kept, *rest][: max(count, len(kept))]))

    def _at(self, index: int) -> int:
        if not 0 <= index < len(self.samples):
            todo = f"choose one from 0 to {len(self.samples) - 1}"
            raise CalibrationError(f"there is no sample {index}", where="calibration", todo=todo)
        return index


def save(choice: Choice, calibration: Calibration, folder: Path, roots: Sequence[Path] = ()) -> Path:
    """Writes the samples as they stand into a new folder and returns its calibration.yaml.

    The folder holds calibration.yaml, calibration.jsonl and, for pictures that lie in tables or were fetched from the hub,
    images/. Reading it gives the
    same samples in the same order; windows and packs are kept as token ids.

    Args:
        calibration: whose max_tokens, template and seed are kept.
        roots: the folder must lie in one of these; none means anywhere.

    Raises:
        AccessError: it does not.
        OutputError: the folder exists or cannot be written.
    """
    _check_new(folder, roots)
    ready = any(sample.ids is not None for sample in choice.samples)
    settings: dict[str, Any] = {
        "sources": [{"kind": "jsonl", "path": "calibration.jsonl"}],
        "samples": len(choice.samples),
        "max_tokens": calibration.max_tokens,
        "shuffle": False,
        "seed": calibration.seed,
    }
    if calibration.long == "drop" and not ready:
        settings["long"] = "drop"
    if calibration.template is not None:
        settings["template"] = calibration.template
    with staged_folder(folder) as staging:
        rows = [_row(sample, staging, number, roots) for number, sample in enumerate(choice.samples)]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (staging / "calibration.jsonl").write_text(lines, encoding="utf-8")
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (staging / "calibration.yaml").write_text(text, encoding="utf-8")
    return folder / "calibration.yaml"


def save_settings(calibration: Calibration, folder: Path, roots: Sequence[Path] = ()) -> Path:
    """Writes the settings and sources into a new folder and returns its calibration.yaml; no sample is written out.

    Paths that lie beside the folder are written relative to it, so that all can be moved together.

    Args:
        calibration: what it says.
        folder: that is made.
        roots: the folder must lie in one of these; none means anywhere.

    Raises:
        AccessError: it does not.
        OutputError: the folder exists or cannot be written.
    """
    _check_new(folder, roots)
    settings = calibration.model_dump(mode="json", exclude_unset=True)
    for source in settings["sources"]:
        source |= {key: _from(folder, source[key]) for key in ("path", "questions") if source.get(key)}
    if (template := calibration.template) is not None and Path(template).is_absolute():
        settings["template"] = _from(folder, template)
    with staged_folder(folder) as staging:
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        (staging / "calibration.yaml").write_text(text, encoding="utf-8")
    return folder / "calibration.yaml"


def _from(folder: Path, path: str) -> str:
    """A path as it is written in a file of the folder."""
    return os.path.relpath(path, folder) if folder.parent in Path(path).parents else path


def _check_new(folder: Path, roots: Sequence[Path]) -> None:
    check_inside(folder, roots)
    if not re.fullmatch(r"[^\x00-\x1f/\\]+", folder.name):
        raise OutputError("this is no name for a folder", where=str(folder), todo="choose another name")


def _row(sample: Sample, staging: Path, number: int, roots: Sequence[Path]) -> dict[str, Any]:
    if sample.ids is not None or sample.tokens is not None:
        from quantui.calibration.preview import stored_ids

        return {"input_ids": stored_ids(sample)}
    if sample.text is not None:
        return {"text": sample.text}
    row: dict[str, Any] = {"messages": list(sample.messages)}
    if isinstance(sample.image, Path) and _inside(sample.image, roots):
        row["image"] = str(sample.image)
    elif sample.image is not None:
        (staging / "images").mkdir(exist_ok=True)
        (staging / "images" / f"{number}.png").write_bytes(png(open_picture(sample)))
        row["image"] = f"images/{number}.png"
    return row


def _inside(image: Path, roots: Sequence[Path]) -> bool:
    return not roots or any(root in image.parents for root in roots)
