"""The tokens a folder adds to its vocabulary, and which of them mean begin, end, padding and picture.

Three files may say it, and fine-tuning tools write any of them: added_tokens_decoder in tokenizer_config.json,
added_tokens.json, and the names in special_tokens_map.json. What custom code adds by itself (ChatGLM) is in `tokenizer_rules`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.json_files import read_side
from quantui.errors import CheckpointError

NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
EXTRA = ("additional_special_tokens", "extra_special_tokens")
LARGEST_ID = 1 << 20
"""No vocabulary reaches this; a larger id is a damaged file."""


@dataclass(frozen=True)
class Added:
    """A token outside the tokenizer's own pieces. `special`: left out when a text is decoded without special tokens."""

    text: str
    id: int
    special: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass
class Declared:
    """What the files of a folder say.

    Attributes:
        added: tokens with their ids.
        extra: names of special tokens; their ids are in `added`, in the vocabulary, or nowhere yet.
        named: {"bos_token": "<s>", ...}, those that are given.
    """

    added: list[Added] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    named: dict[str, str] = field(default_factory=dict)


def read_declared(folder: Path) -> Declared:
    """What tokenizer_config.json, special_tokens_map.json and added_tokens.json say together.

    Raises:
        CheckpointError: one of them is malformed, or gives one id or one token twice.
    """
    config, names = read_side(folder, "tokenizer_config.json"), read_side(folder, "special_tokens_map.json")
    declared = Declared()
    for source in (names, config):
        for key in NAMED:
            if text := _text(source.get(key)):
                declared.named[key] = text
        for key in EXTRA:
            values = source.get(key) or []
            for value in values.values() if isinstance(values, dict) else values if isinstance(values, list) else []:
                if (text := _text(value)) and text not in declared.extra:
                    declared.extra.append(text)
    file = folder / "tokenizer_config.json"
    for number, entry in _entries(config.get("added_tokens_decoder"), file):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise CheckpointError(f"the added token {number!r} is malformed", where=str(file), todo="copy the file again")
        flags = {key: bool(entry.get(key)) for key in ("special", "lstrip", "rstrip", "single_word")}
        declared.added.append(Added(entry["content"], _id(number, file), **flags))
    known = {token.text for token in declared.added}
    special = {*declared.extra, *declared.named.values()}
    file = folder / "added_tokens.json"
    for text, number in _entries(read_side(folder, "added_tokens.json"), file):
        if text not in known:
            declared.added.append(Added(text, _id(number, file), special=text in special))
    _refuse_double(declared.added, folder)
    return declared


def _entries(value: Any, file: Path) -> list[tuple[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise CheckpointError("its added tokens are no JSON object", where=str(file), todo="copy the file again")
    return list(value.items())


def _text(value: Any) -> str:
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else ""


def _id(value: Any, file: Path) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number < LARGEST_ID or isinstance(value, float):
        raise CheckpointError(f"{value!r} is no id of a token", where=str(file), todo="copy the file again")
    return number


def _refuse_double(added: list[Added], folder: Path) -> None:
    ids: dict[int, str] = {}
    texts: dict[str, int] = {}
    for token in added:
        if ids.setdefault(token.id, token.text) != token.text or texts.setdefault(token.text, token.id) != token.id:
            what = f"the added tokens contradict each other about {token.text!r} with the id {token.id}"
            todo = "copy tokenizer_config.json and added_tokens.json again"
            raise CheckpointError(what, where=str(folder), todo=todo)
