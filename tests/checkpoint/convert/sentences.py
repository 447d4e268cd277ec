"""SentencePiece models trained in the test, and folders around them as InternLM, InternLM2 and ChatGLM have them."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentencepiece

TEXT = (
    "The quick brown fox jumps over the lazy dog",
    "Hello, world! How are you today?",
    "a  b   c    d",
    "  leading spaces",
    "def add(a, b):\n    return a + b\n",
    "1234567890 12.5% 2024-01-01",
    "你好，世界！今天天气很好。",
    "上海人工智能实验室的书生大模型",
    "问：你是谁？ 答：我是一个人工智能助手。",
    "users and assistants talk about systems",
    "[Round 1]\n\n问：",
    "aaa aaaa banana bananas",
)


def train(
    *,
    kind: str = "bpe",
    prefix: bool = True,
    symbols: Sequence[str] = (),
    size: int = 600,
    byte_fallback: bool = True,
    rule: str = "identity",
    fold: bool = False,
    ends: bool = True,
) -> bytes:
    """A small model. Defaults are those of InternLM2 and ChatGLM: identity rules, no folded spaces, bytes for the unknown."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 4), model_writer=model, vocab_size=size, model_type=kind, byte_fallback=byte_fallback,
        normalization_rule_name=rule, add_dummy_prefix=prefix, remove_extra_whitespaces=fold, hard_vocab_limit=False,
        user_defined_symbols=list(symbols), character_coverage=0.98, allow_whitespace_only_pieces=True, minloglevel=2,
        num_threads=1, split_digits=True, **({} if ends else {"bos_id": -1, "eos_id": -1}),
    )  # fmt: skip
    return model.getvalue()


def folder(where: Path, model: bytes, config: dict[str, Any], **files: dict[str, Any]) -> Path:
    """A source folder: tokenizer.model, config.json, and `tokenizer_config={...}` and the like as JSON files."""
    where.mkdir(parents=True, exist_ok=True)
    (where / "tokenizer.model").write_bytes(model)
    for name, body in {"config": config, **files}.items():
        (where / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
    return where


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """What the original tokenizers ask."""
    return sentencepiece.SentencePieceProcessor(model_proto=model)
