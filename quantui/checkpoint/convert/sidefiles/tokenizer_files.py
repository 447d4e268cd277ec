"""The tokenizer of a native folder: made from tokenizer.model, or kept where the source already has a finished one."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.added_tokens import EXTRA, read_declared
from quantui.checkpoint.convert.sidefiles.json_files import read_side, write_side
from quantui.checkpoint.convert.sidefiles.sentencepiece import SentencePieceModel, read_model
from quantui.checkpoint.convert.sidefiles.tokenizer import build_tokenizer, vocabulary
from quantui.checkpoint.convert.sidefiles.tokenizer_rules import Rules, rules_of
from quantui.errors import CheckpointError

KEPT = ("tokenizer.json", "vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json")
"""What is copied as it is when a folder has a finished tokenizer; tokenizer_config.json is rewritten."""

CUSTOM = ("InternLM", "ChatGLM")
"""How the names of tokenizer classes begin that only exist as code beside a checkpoint."""

DROPPED = ("auto_map", "chat_template", "added_tokens_decoder", "add_bos_token", "add_eos_token", "sp_model_kwargs",
           "decode_with_prefix_space", "legacy", "vocab_file", "special_tokens_map_file", "name_or_path", "tokenizer_file",
           "encode_special_tokens", "do_lower_case", "remove_space", "image_token", "additional_special_tokens",
           "add_prefix_space", "spaces_between_special_tokens", "use_default_system_prompt", "use_fast")  # fmt: skip
"""Settings of tokenizer_config.json that a made tokenizer.json holds itself, or that only the custom code read."""


@dataclass(frozen=True)
class TokenizerFacts:
    """What the rest of a folder has to agree with.

    Attributes:
        ids: every token by its text.
        whole: the texts that are matched as a whole (added and special tokens).
        named: bos_token, eos_token, unk_token, pad_token as far as there are.
        bos: the token a text begins with, "" for none.
        sop: how ChatGLM's start token is written; "" elsewhere.
        prefix: whether a space is put before text.
        made: whether tokenizer.json has to be made.
    """

    ids: dict[str, int]
    whole: frozenset[str]
    named: dict[str, str]
    bos: str = ""
    sop: str = ""
    prefix: bool = False
    made: bool = False

    def id(self, text: str) -> int | None:
        """The id of a token, None for one that is not there."""
        return self.ids.get(text)

    @property
    def size(self) -> int:
        """One more than the largest id."""
        return max(self.ids.values(), default=-1) + 1


def tokenizer_facts(folder: Path, config: dict[str, Any]) -> TokenizerFacts:
    """What the folder's tokenizer will be, without making it.

    Raises:
        CheckpointError: there is none, or its files are broken.
    """
    if is_finished(folder):
        return _finished_facts(folder)
    model, rules = _read(folder, config)
    ids = {text: number for number, text in enumerate(vocabulary(model, rules))}
    bos = rules.named.get("bos_token", "")
    return TokenizerFacts(
        ids, frozenset(token.text for token in rules.added), rules.named, bos if bos in rules.before else "", rules.sop,
        rules.prefix != "never", made=True,
    )  # fmt: skip


def is_finished(folder: Path) -> bool:
    """Whether a stock class of transformers reads the folder's tokenizer as it is."""
    if (folder / "tokenizer.json").is_file():
        return True
    return (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file()


def write_tokenizer(source: Path, config: dict[str, Any], target: Path, attributes: dict[str, Any]) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Args:
        attributes: further keys of tokenizer_config.json (the image tokens of InternVL).

    Raises:
        CheckpointError: the source has no tokenizer, or a broken one.
    """
    settings = read_side(source, "tokenizer_config.json")
    if is_finished(source):
        for name in KEPT:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        custom = "auto_map" in settings or str(settings.get("tokenizer_class", "")).startswith(CUSTOM)
        if custom or "tokenizer_class" not in settings:
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
        body = {key: value for key, value in settings.items() if key not in ("auto_map", "chat_template")}
    else:
        model, rules = _read(source, config)
        build_tokenizer(model, rules).save(str(target / "tokenizer.json"))
        body = _made_settings(settings, rules)
    write_side(target, "tokenizer_config.json", {**body, **attributes})


def _made_settings(settings: dict[str, Any], rules: Rules) -> dict[str, Any]:
    named = {f"{key}_token" for key in ("bos", "eos", "unk", "pad")}
    kept = {key: value for key, value in settings.items() if key not in DROPPED and key not in named and key not in EXTRA}
    return {
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1_000_000_000,
        "padding_side": "left",
        **kept,
        **rules.named,
        "extra_special_tokens": list(rules.extra),
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _read(folder: Path, config: dict[str, Any]) -> tuple[SentencePieceModel, Rules]:
    file = folder / "tokenizer.model"
    if not file.is_file():
        what = "it has no tokenizer: none of tokenizer.json, tokenizer.model, vocab.json with merges.txt is there"
        raise CheckpointError(what, where=str(folder), todo="copy the tokenizer files of the original model into the folder")
    model = read_model(file)
    return model, rules_of(folder, config, model)


def _finished_facts(folder: Path) -> TokenizerFacts:
    declared = read_declared(folder)
    body = read_side(folder, "tokenizer.json")
    bos = ""
    if body:
        model = body.get("model")
        vocab = model.get("vocab") if isinstance(model, dict) else None
        if isinstance(vocab, list):  # Unigram: [text, score] in the order of ids
            vocab = {entry[0]: number for number, entry in enumerate(vocab) if isinstance(entry, list) and entry}
        bos = _first_token(body.get("post_processor"))
    else:
        vocab = read_side(folder, "vocab.json")
    if not isinstance(vocab, dict) or not all(type(number) is int for number in vocab.values()):
        raise CheckpointError("its tokenizer has no vocabulary", where=str(folder), todo="copy tokenizer.json again")
    added = body.get("added_tokens") or []
    whole = {
        entry["content"]: entry["id"]
        for entry in added
        if isinstance(entry, dict) and isinstance(entry.get("content"), str) and type(entry.get("id")) is int
    }
    whole = {**{token.text: token.id for token in declared.added}, **whole}
    ids = {**vocab, **whole}
    end = max(ids.values(), default=-1)
    for text in (*declared.named.values(), *declared.extra):
        if text not in ids:
            end += 1
            ids[text] = end
    matched = frozenset({*whole, *declared.extra, *declared.named.values()})
    return TokenizerFacts(ids, matched, declared.named, bos if bos == declared.named.get("bos_token") else "")


def _first_token(processor: Any) -> str:
    """The token that a post-processor of tokenizer.json puts first, "" for none."""
    if not isinstance(processor, dict):
        return ""
    if processor.get("type") == "Sequence":
        return next((text for step in processor.get("processors") or [] if (text := _first_token(step))), "")
    single = processor.get("single")
    first = single[0] if isinstance(single, list) and single else None
    special = first.get("SpecialToken") if isinstance(first, dict) else None
    return str(special.get("id", "")) if isinstance(special, dict) else ""
