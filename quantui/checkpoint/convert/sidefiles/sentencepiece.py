"""A SentencePiece model file, read without the sentencepiece and protobuf libraries.

The file is one protobuf message of which a tokenizer needs a dozen fields, and protobuf's wire format is a tag, a length and
the bytes. Reading it here takes fewer lines than checking which of two optional libraries is there and whether their versions
agree, and it works in the process that serves the page. A test compares the result with what sentencepiece itself says.

Source: google/sentencepiece@v0.2.0 src/sentencepiece_model.proto (field numbers, enums, defaults).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from quantui.errors import CheckpointError

UNIGRAM, BPE = 1, 2
MODEL_TYPES = {UNIGRAM: "unigram", BPE: "bpe", 3: "word", 4: "char"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. Source: protobuf encoding guide, "Message structure"."""

COPY_AGAIN = "copy tokenizer.model from the original model again"


class Piece(NamedTuple):
    """One entry of the vocabulary; its id is its place. `kind` is NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED or BYTE."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class SentencePieceModel:
    """What a tokenizer.model says.

    Attributes:
        pieces: the vocabulary in the order of ids.
        kind: UNIGRAM or BPE.
        byte_fallback: whether characters that no piece has become the pieces of their bytes.
        charsmap: the compiled normalization rules; empty for none ("identity").
        dummy_prefix: whether a space goes before every text.
        fold_spaces: whether spaces at the ends are removed and several become one.
        unk, bos, eos: ids; -1 for one the model has not.
    """

    pieces: tuple[Piece, ...]
    kind: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    fold_spaces: bool
    unk: int
    bos: int
    eos: int


def read_model(file: Path) -> SentencePieceModel:
    """Reads a tokenizer.model.

    Raises:
        CheckpointError: it is missing, broken, no SentencePiece model, or one of a kind that has no native equal (named).
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise CheckpointError(f"it cannot be read ({error.strerror})", where=str(file), todo=COPY_AGAIN) from error
    if data.startswith(b"version https://git-lfs"):
        what = "this is the pointer that git leaves in the place of a large file, not the tokenizer"
        raise CheckpointError(what, where=str(file), todo="run `git lfs pull` in the folder")
    try:
        model, refused = _parsed(data)
    except (ValueError, struct.error, IndexError) as error:
        what = f"it is broken or no SentencePiece model ({error})"
        raise CheckpointError(what, where=str(file), todo=COPY_AGAIN) from error
    if refused:
        what = f"it is a SentencePiece model with {refused}, which has no native equal"
        raise CheckpointError(what, where=str(file), todo="give a folder with a finished tokenizer.json as processor_from")
    return model


def _parsed(data: bytes) -> tuple[SentencePieceModel, str]:
    """The model, and the first thing about it that cannot be converted ("" for nothing).

    Raises:
        ValueError, IndexError, struct.error: the bytes are no SentencePiece model.
    """
    fields = _fields(data)
    pieces = tuple(_piece(value) for number, value in fields if number == 1 and isinstance(value, bytes))
    if not pieces:
        raise ValueError("it has no pieces")
    trainer, normalizer = _message(fields, 2), _message(fields, 3)
    charsmap = normalizer.get(2, b"")
    unk, bos, eos = (_signed(trainer.get(number, default)) for number, default in ((40, 0), (41, 1), (42, 2)))
    if not 0 <= unk < len(pieces) or pieces[unk].kind != UNKNOWN:
        raise ValueError("it has no piece for the unknown")
    model = SentencePieceModel(
        pieces=pieces,
        kind=_number(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        dummy_prefix=bool(normalizer.get(3, 1)),
        fold_spaces=bool(normalizer.get(4, 1)),
        unk=unk,
        bos=bos if bos < len(pieces) else -1,
        eos=eos if eos < len(pieces) else -1,
    )
    refusals = {
        f"the type {MODEL_TYPES.get(model.kind, model.kind)!r}": model.kind not in (UNIGRAM, BPE),
        "treat_whitespace_as_suffix": trainer.get(24, 0) == 1,
        "escape_whitespaces: false": normalizer.get(5, 1) == 0,
        "pieces marked unused": any(piece.kind == UNUSED for piece in pieces),
    }
    return model, next((name for name, found in refusals.items() if found), "")


def _piece(data: bytes) -> Piece:
    fields = dict(_fields(data))
    text, score = fields.get(1), fields.get(2, b"\0\0\0\0")
    if not isinstance(text, bytes) or not isinstance(score, bytes):
        raise ValueError("a piece has no text")
    return Piece(text.decode("utf-8"), struct.unpack("<f", score)[0], _number(fields.get(3, NORMAL)))


def _message(fields: list[tuple[int, int | bytes]], wanted: int) -> dict[int, int | bytes]:
    """The fields of the last sub-message with this number; none when it is not there."""
    found = b""
    for number, value in fields:
        if number == wanted and isinstance(value, bytes):
            found = value
    return dict(_fields(found))


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """(number, value) of every field: int for a varint, the raw bytes for everything else.

    Raises:
        ValueError, IndexError: the bytes are no protobuf message.
    """
    found: list[tuple[int, int | bytes]] = []
    place, end = 0, len(data)
    while place < end:
        tag, place = (data[place], place + 1) if data[place] < 0x80 else _varint(data, place)
        wire = tag & 7
        if wire == VARINT:
            value, place = _varint(data, place)
            found.append((tag >> 3, value))
            continue
        if wire == BYTES:
            size, place = (data[place], place + 1) if data[place] < 0x80 else _varint(data, place)
        elif wire in (FIXED64, FIXED32):
            size = 8 if wire == FIXED64 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if tag < 8 or place + size > end:
            raise ValueError("it ends in the middle of a field")
        found.append((tag >> 3, data[place : place + size]))
        place += size
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("a number is longer than ten bytes")


def _number(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is stored as bytes")
    return value


def _signed(value: int | bytes) -> int:
    """An int32 field: negative numbers are stored as 64 bits in two's complement."""
    number = _number(value)
    return number - (1 << 64) if number >= 1 << 63 else number
