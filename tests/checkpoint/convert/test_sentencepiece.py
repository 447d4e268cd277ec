"""The reader of tokenizer.model says what the sentencepiece library says, and refuses the rest in one sentence."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantui.checkpoint.convert.sidefiles.sentencepiece import BYTE, CONTROL, UNKNOWN, UNUSED, read_model
from quantui.errors import CheckpointError
from tests.checkpoint.convert import sentences


@cache
def small() -> bytes:
    return sentences.train(size=360)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"kind": "unigram"},
        {"prefix": False, "byte_fallback": False},
        {"rule": "nmt_nfkc", "fold": True, "symbols": ("<a>",)},
    ],
)
def test_it_reads_what_sentencepiece_reads(tmp_path: Path, options: dict[str, Any]) -> None:
    data = sentences.train(**options)
    (tmp_path / "tokenizer.model").write_bytes(data)
    model, there = read_model(tmp_path / "tokenizer.model"), sentences.processor(data)
    assert len(model.pieces) == there.get_piece_size()
    for number, piece in enumerate(model.pieces):
        assert (piece.text, piece.score) == (there.id_to_piece(number), pytest.approx(there.get_score(number)))
        assert (piece.kind == CONTROL) == there.is_control(number)
        assert (piece.kind == UNKNOWN) == there.is_unknown(number)
        assert (piece.kind == BYTE) == there.is_byte(number)
        assert (piece.kind == UNUSED) == there.is_unused(number)
    assert (model.unk, model.bos, model.eos) == (there.unk_id(), there.bos_id(), there.eos_id())
    assert model.dummy_prefix == options.get("prefix", True)
    assert model.fold_spaces == options.get("fold", False)
    assert model.byte_fallback == options.get("byte_fallback", True)
    assert bool(model.charsmap) == ("rule" in options)


def test_a_model_without_begin_and_end_says_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(sentences.train(size=360, ends=False))
    model = read_model(tmp_path / "tokenizer.model")
    assert (model.unk, model.bos, model.eos) == (0, -1, -1)


@settings(max_examples=4 * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_one_clear_error_or_still_a_model(tmp_path: Path, data: st.DataObject) -> None:
    whole = small()
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=20)) + whole[stop:]
    file = tmp_path / "tokenizer.model"
    file.write_bytes(damaged)
    try:
        assert read_model(file).pieces
    except CheckpointError as error:
        assert str(file) in str(error)
