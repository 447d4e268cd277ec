"""Whether the tokenizer and processor of another folder can stand in for those that would be made."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.json_files import read_side
from quantui.checkpoint.convert.sidefiles.processor_files import ATTRIBUTES, IMAGE, VIDEO, Pictures, native_pictures
from quantui.checkpoint.convert.sidefiles.tokenizer_files import TokenizerFacts, is_finished, tokenizer_facts
from quantui.errors import CheckpointError

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")


def disagreements(folder: Path, wanted: TokenizerFacts | None, pictures: Pictures | None, *, vocab: int) -> list[str]:
    """What of the folder's tokenizer and processor differs from what would have been made, each as a phrase.

    Args:
        folder: given as processor_from.
        wanted: of the source; None where it has no usable tokenizer.
        pictures: of the source; None for a text model.
        vocab: rows of the embedding; 0 where that is not known.

    Raises:
        CheckpointError: its files are broken.
    """
    if not folder.is_dir() or not is_finished(folder):
        return ["it has no finished tokenizer (tokenizer.json)"]
    wrong = list(_tokenizer(folder, wanted, vocab))
    if pictures is not None:
        wrong += _processor(folder, pictures)
    return wrong


def refuse_disagreements(folder: Path, wrong: list[str]) -> None:
    """Raises one error that lists them all.

    Raises:
        CheckpointError: there is at least one.
    """
    if wrong:
        what = f"its processor does not fit the model: {'; '.join(wrong)}"
        raise CheckpointError(what, where=str(folder), todo="give the folder of the same model, or none, so that one is made")


def copy_processor(folder: Path, target: Path, *, pictures: bool) -> None:
    """Copies the tokenizer files, and for a model with pictures the processor's."""
    for name in (*TOKENIZER_FILES, *(PROCESSOR_FILES if pictures else ())):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _tokenizer(folder: Path, wanted: TokenizerFacts | None, vocab: int) -> Iterator[str]:
    settings = read_side(folder, "tokenizer_config.json")
    if "auto_map" in settings:
        yield "its tokenizer needs code that lies beside it (auto_map)"
    there = tokenizer_facts(folder, {})
    largest = max((number for text, number in there.ids.items() if text != VIDEO), default=-1)
    if vocab and largest >= vocab:
        yield f"its tokenizer has ids up to {largest}, and the model {vocab} rows for them"
    if wanted is None:
        return
    for text in sorted(wanted.whole - {VIDEO}, key=lambda text: wanted.ids[text]):
        if there.id(text) != wanted.id(text):
            found = "no such token" if there.id(text) is None else f"the id {there.id(text)}"
            yield f"the token {text!r} has the id {wanted.id(text)}, and there {found}"
    pieces = {text: number for text, number in wanted.ids.items() if text not in wanted.whole}
    moved = [text for text, number in pieces.items() if there.ids.get(text, number) != number]
    absent = sum(text not in there.ids for text in pieces)
    if moved:
        text = moved[0]
        yield f"{len(moved)} of {len(pieces)} other tokens have other ids there, {text!r} {there.id(text)} for {pieces[text]}"
    if absent:
        yield f"{absent} of {len(pieces)} other tokens are missing there"


def _processor(folder: Path, wanted: Pictures) -> Iterator[str]:
    there = native_pictures(folder, read_side(folder, "config.json"))
    if there is None:
        yield "it has no preprocessor_config.json or processor_config.json"
        return
    for what, ours, theirs in (
        ("the size of a tile", wanted.size, there.size),
        ("the number of image tokens of a tile", wanted.tokens, there.tokens),
        ("the mean of the colours", list(wanted.mean), list(there.mean)),
        ("their standard deviation", list(wanted.std), list(there.std)),
    ):
        if not _near(ours, theirs):
            yield f"{what} is {ours}, and there {theirs}"
    settings = read_side(folder, "tokenizer_config.json")
    extra = settings.get("extra_special_tokens")
    named: dict[str, Any] = {**settings, **(extra if isinstance(extra, dict) else {})}
    missing = [name for name in ATTRIBUTES if name not in named]
    if missing:
        yield f"its tokenizer does not name {', '.join(missing)}"
    elif _text(named["context_image_token"]) != IMAGE:
        yield f"its image token is {_text(named['context_image_token'])!r}, and here {IMAGE!r}"


def _text(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value)


def _near(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(abs(a - b) < 1e-4 for a, b in zip(ours, theirs, strict=True))
    return bool(ours == theirs)


def github_disagreements(folder: Path, wanted: TokenizerFacts, pictures: Pictures) -> list[str]:
    """The same for a folder in the GitHub layout, whose tokenizer may need code; its preprocessor may be missing.

    Raises:
        CheckpointError: its files are broken.
    """
    there = tokenizer_facts(folder, read_side(folder, "config.json"))
    wrong = [
        f"the token {text!r} has the id {wanted.id(text)}, and there {there.id(text)}"
        for text in sorted(wanted.whole - {VIDEO}, key=lambda text: wanted.ids[text])
        if there.id(text) != wanted.id(text)
    ]
    old = read_side(folder, "preprocessor_config.json")
    for name, ours in (("image_mean", list(pictures.mean)), ("image_std", list(pictures.std))):
        if name in old and not _near(ours, old[name]):
            wrong.append(f"{name} is {ours}, and there {old[name]}")
    size = old.get("size", pictures.size)
    if size != pictures.size:
        wrong.append(f"the size of a tile is {pictures.size}, and there {size}")
    return wrong


def copy_github(folder: Path, target: Path) -> None:
    """Copies tokenizer files and preprocessor_config.json, and the code files that tokenizer_config.json names."""
    code = read_side(folder, "tokenizer_config.json").get("auto_map")
    named = code.values() if isinstance(code, dict) else []
    classes = [name for value in named for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)]
    modules = {f"{name.split('.')[0]}.py" for name in classes if "--" not in name and "/" not in name}
    for name in (*TOKENIZER_FILES, "preprocessor_config.json", *sorted(modules)):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)
