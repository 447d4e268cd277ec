"""A SentencePiece model and its rules as a tokenizer.json: the same ids for the same text.

How each step of SentencePiece is done there:

- Normalization: the compiled rules, folded spaces, the space before the text and "▁" for spaces, in this order.
- BPE merges whatever adjacent pair makes the piece with the highest score, so each pair that joins to a piece is a merge,
  ordered by that score. Bytes, control pieces and the unknown are made by no merge: SentencePiece does not search for them.
- User-defined symbols are cut out of the text before merging (a Split), then looked up whole (ignore_merges).
- Unigram searches the same way on both sides, but where two ways through a text score the same, either may win.
- Added tokens are found in the raw text, and what lies between them is normalized stretch by stretch. That is how the slow
  tokenizers of transformers cut a text before they hand it to SentencePiece.

Sources: google/sentencepiece@v0.2.0 src/bpe_model.cc, src/normalizer.cc, src/model_interface.cc (InitializePieces);
huggingface/transformers@v5.17.0 src/transformers/convert_slow_tokenizer.py (LlamaConverter: normalizer and decoder).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from quantui.checkpoint.convert.sidefiles.sentencepiece import (
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    SentencePieceModel,
)
from quantui.checkpoint.convert.sidefiles.tokenizer_rules import Rules

if TYPE_CHECKING:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPACE = "▁"
HOLE = "<|no_token_{}|>"
"""How an id is named that lies between the pieces and an added token, and that no file names."""


def build_tokenizer(model: SentencePieceModel, rules: Rules) -> Tokenizer:
    """The tokenizer, ready to be saved."""
    from tokenizers import AddedToken, Tokenizer

    texts = vocabulary(model, rules)
    symbols = _symbols(model, rules)
    tokenizer = Tokenizer(_unigram(model, texts) if model.kind == UNIGRAM else _bpe(model, texts, lone=bool(symbols)))
    tokenizer.normalizer = _normalizer(model, rules)
    guards = _guards(model, rules) if symbols or model.kind == UNIGRAM else []
    if (split := _pre_tokenizer(rules, [*map(re.escape, symbols), *guards])) is not None:
        tokenizer.pre_tokenizer = split
    tokenizer.decoder = _decoder(model, rules)
    tokenizer.post_processor = _post_processor(rules)
    tokenizer.add_tokens(
        [
            AddedToken(
                token.text, special=token.special, normalized=False,
                lstrip=token.lstrip, rstrip=token.rstrip, single_word=token.single_word,
            )
            for token in rules.added
        ]
    )  # fmt: skip
    return tokenizer


def vocabulary(model: SentencePieceModel, rules: Rules) -> list[str]:
    """The text of every id: the pieces, with added tokens in the place of the piece of their id or behind them all."""
    texts = [piece.text for piece in model.pieces]
    size = max([len(texts), *(token.id + 1 for token in rules.added)])
    texts += [HOLE.format(number) for number in range(len(texts), size)]
    for token in rules.added:
        texts[token.id] = token.text
    return texts


def merges(model: SentencePieceModel, texts: list[str]) -> list[tuple[str, str]]:
    """Every pair of pieces that joins to a piece, the joined one with the highest score first.

    Where one piece has several pairs, the longest left part comes first: of pairs that overlap in a text, that is the left one.
    """
    pieces = model.pieces
    usable = {
        text: pieces[number].score
        for number, text in enumerate(texts[: len(pieces)])
        if pieces[number].kind == NORMAL and text == pieces[number].text
    }
    found: list[tuple[float, int, int, str, str]] = []
    for number, (text, score) in enumerate(usable.items()):
        for cut in range(len(text) - 1, 0, -1):
            if text[:cut] in usable and text[cut:] in usable:
                found.append((-score, number, -cut, text[:cut], text[cut:]))
    return [(left, right) for *_, left, right in sorted(found)]


def _symbols(model: SentencePieceModel, rules: Rules) -> list[str]:
    """User-defined symbols that no added token stands for, the longest first."""
    replaced = {token.id for token in rules.added}
    symbols = [p.text for n, p in enumerate(model.pieces) if p.kind == USER_DEFINED and n not in replaced]
    return sorted(symbols, key=len, reverse=True)


def _guards(model: SentencePieceModel, rules: Rules) -> list[str]:
    """Patterns that cut off the first character of what reads like a byte or control piece, so that it is not taken for one.

    Merging cannot make these pieces, but looking up whole stretches and Unigram's search would find them.
    """
    replaced = {token.id for token in rules.added}
    hidden = {p.text for n, p in enumerate(model.pieces) if p.kind in (CONTROL, UNKNOWN) and n not in replaced}
    guards = [f"{re.escape(text[0])}(?={re.escape(text[1:])})" for text in sorted(hidden) if len(text) > 1]
    return [*guards, "<(?=0x[0-9A-F]{2}>)"] if any(piece.kind == BYTE for piece in model.pieces) else guards


def _bpe(model: SentencePieceModel, texts: list[str], *, lone: bool) -> models.Model:
    from tokenizers.models import BPE

    return BPE(
        vocab={text: number for number, text in enumerate(texts)},
        merges=merges(model, texts),
        unk_token=texts[model.unk],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=lone,
    )


def _unigram(model: SentencePieceModel, texts: list[str]) -> models.Model:
    """A Unigram model; what SentencePiece never matches in text gets the lowest score."""
    from tokenizers.models import Unigram

    lowest = min((piece.score for piece in model.pieces if piece.kind == NORMAL), default=0.0)
    hidden = (BYTE, CONTROL, UNKNOWN)
    scores = [lowest if piece.kind in hidden else piece.score for piece in model.pieces]
    scores += [lowest] * (len(texts) - len(scores))
    return Unigram(list(zip(texts, scores, strict=True)), unk_id=model.unk, byte_fallback=model.byte_fallback)


def _normalizer(model: SentencePieceModel, rules: Rules) -> normalizers.Normalizer:
    from tokenizers import Regex, normalizers

    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.fold_spaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    if rules.prefix == "always":
        steps.append(normalizers.Prepend(SPACE))
    if rules.prefix != "first":
        steps.append(normalizers.Replace(" ", SPACE))
    return normalizers.Sequence(steps)


def _pre_tokenizer(rules: Rules, cuts: list[str]) -> pre_tokenizers.PreTokenizer | None:
    from tokenizers import Regex, pre_tokenizers

    steps: list[pre_tokenizers.PreTokenizer] = []
    if rules.prefix == "first":
        steps.append(pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False))
    if cuts:
        steps.append(pre_tokenizers.Split(Regex("|".join(cuts)), "isolated"))
    return pre_tokenizers.Sequence(steps) if steps else None


def _decoder(model: SentencePieceModel, rules: Rules) -> decoders.Decoder:
    from tokenizers import decoders

    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if model.byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if rules.prefix != "never":
        steps.append(decoders.Strip(content=" ", left=1, right=0))
    return decoders.Sequence(steps)


def _post_processor(rules: Rules) -> processors.PostProcessor:
    from tokenizers import processors

    ids = {token.text: token.id for token in rules.added}
    used = {*rules.before, *rules.after, *rules.pair_after}
    return processors.TemplateProcessing(
        single=[*rules.before, "$A:0", *rules.after],
        pair=[*rules.before, "$A:0", "$B:1", *rules.pair_after],
        special_tokens=[(text, ids[text]) for text in sorted(used)],
    )
