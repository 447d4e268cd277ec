"""What the two sides of a comparison are on disk, and whether they can be compared at all. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import section, whole
from quantui.errors import CheckpointError
from quantui.workspace import absolute, check_inside

SHAPE = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size",
    "head_dim",
)  # fmt: skip
"""What two models of one shape have in common; a value that only one of them names counts as equal."""


def model_folder(path: str | Path, roots: tuple[Path, ...] = ()) -> Path:
    """The model folder that a path means: itself, or what the run in it has written.

    Raises:
        CheckpointError: the run has written none.
        AccessError: it lies outside the roots.
    """
    folder = check_inside(path, roots) if roots else absolute(path)
    spec = _read(folder / "spec.json")
    if spec is None or (folder / "config.json").is_file():
        return folder
    out = Path(str(spec.get("out") or ""))
    if not (out / "config.json").is_file():
        what = "this run has written no model"
        raise CheckpointError(what, where=str(folder), todo="choose a run that has ended well, or a model folder")
    return check_inside(out, roots) if roots else out


def original_of(quantized: Path) -> Path | None:
    """The float model a quantized folder was made from, where it says so and that is there."""
    made = _read(quantized / "quantui.json")
    folder = Path(str((made or {}).get("model") or "")).expanduser()
    return folder if made and (folder / "config.json").is_file() else None


def check_pair(original: Path, quantized: Path) -> None:
    """Refuses two folders that cannot be compared token by token.

    Raises:
        CheckpointError: one is no model folder, or shapes or tokenizers differ; says in what.
    """
    one, two = open_checkpoint(original).config, _config(quantized)
    if two:
        _check_shape(one, two, quantized)
    _check_words(original, quantized)


def _check_shape(one: dict[str, Any], two: dict[str, Any], where: Path) -> None:
    todo = "choose the model that the quantized one was made from"
    if one.get("model_type") != two.get("model_type"):
        what = f"one is a {one.get('model_type')!r} model and the other a {two.get('model_type')!r} model"
        raise CheckpointError(what, where=str(where), todo=todo)
    left, right = section(one, "text_config") or one, section(two, "text_config") or two
    for name in SHAPE:
        here, there = whole(left, name), whole(right, name)
        if here and there and here != there:
            what = f"the models have different shapes: {name} is {here} in the original and {there} here"
            raise CheckpointError(what, where=str(where), todo=todo)


def _check_words(original: Path, quantized: Path) -> None:
    one, two = vocabulary(original), vocabulary(quantized)
    if one is None or two is None or one == two:
        return
    odd = sorted(one.items() ^ two.items())
    what = f"the two have different tokenizers ({len({word for word, _ in odd})} words differ, as {odd[0][0]!r})"
    raise CheckpointError(what, where=str(quantized), todo="choose the model that the quantized one was made from")


def vocabulary(folder: Path) -> dict[str, int] | None:
    """Every word of a folder's tokenizer.json with its id; None where there is no such file."""
    body = _read(folder / "tokenizer.json")
    if body is None:
        return None
    words = section(body, "model").get("vocab")
    found: dict[str, int] = {}
    if isinstance(words, dict):
        found.update(words)
    elif isinstance(words, list):  # unigram: [word, score]
        found.update({str(word[0]): number for number, word in enumerate(words)})
    found.update({str(token["content"]): int(token["id"]) for token in body.get("added_tokens") or []})
    return found


def _config(folder: Path) -> dict[str, Any]:
    return _read(folder / "config.json") or {}


def _read(file: Path) -> dict[str, Any] | None:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError as error:
        raise CheckpointError("it is no JSON", where=str(file), todo="copy the file again") from error
    return body if isinstance(body, dict) else None
