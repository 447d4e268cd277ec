"""What the custom tokenizer code of InternLM, InternLM2 and ChatGLM does beyond its SentencePiece model, as data.

Each such class is a thin shell over a SentencePiece model: which tokens it adds, which it puts before a text, and how it
splits a text at added tokens. That much is read off the original code once and written down here; the code is never run.

Sources: tokenization_internlm2.py of internlm/internlm2-chat-7b and tokenization_internlm.py of internlm/internlm-chat-7b
(defaults of __init__, build_inputs_with_special_tokens); tokenization_chatglm.py of THUDM/chatglm2-6b and THUDM/chatglm3-6b
(SPTokenizer.__init__, get_prefix_tokens, build_inputs_with_special_tokens).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from quantui.checkpoint.convert.sidefiles.added_tokens import Added, Declared, read_declared
from quantui.checkpoint.convert.sidefiles.json_files import read_side
from quantui.checkpoint.convert.sidefiles.sentencepiece import SentencePieceModel
from quantui.errors import CheckpointError

GLM_TOKENS = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop")
GLM_ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
"""What ChatGLM's code puts behind the vocabulary, in this order; the roles only in ChatGLM3."""

LLAMA_NAMES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
GLM_NAMES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}

Prefix = Literal["always", "first", "never"]


@dataclass(frozen=True)
class Rules:
    """A SentencePiece tokenizer in full.

    Attributes:
        added: every token that is matched as a whole, in the order of ids; they replace the piece of their id.
        named: bos_token, eos_token, unk_token, pad_token.
        before, after: tokens put around each text.
        pair_after: what follows the second text of a pair (ChatGLM closes pairs and nothing else).
        prefix: where a space is put before text: every stretch between added tokens, the first one, none.
        sop: how ChatGLM's start token is written in a chat template; empty elsewhere.
        extra: special tokens without a role, in the order the files name them.
    """

    added: tuple[Added, ...]
    named: dict[str, str]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    pair_after: tuple[str, ...] = ()
    prefix: Prefix = "always"
    sop: str = ""
    extra: tuple[str, ...] = ()


def rules_of(folder: Path, config: dict[str, Any], model: SentencePieceModel) -> Rules:
    """The rules of the folder's tokenizer class.

    Raises:
        CheckpointError: its files are malformed, or name a token that is nowhere.
    """
    declared = read_declared(folder)
    if _is_chatglm(folder, config):
        return _chatglm(folder, config, declared, model)
    settings = read_side(folder, "tokenizer_config.json")
    named = {**LLAMA_NAMES, **declared.named}
    bos = named["bos_token"] if settings.get("add_bos_token", True) else ""
    eos = named["eos_token"] if settings.get("add_eos_token", False) else ""
    stock_llama = str(settings.get("tokenizer_class", "")).startswith("LlamaTokenizer")
    prefix: Prefix = "always" if model.dummy_prefix else "never"
    if stock_llama and model.dummy_prefix and settings.get("legacy", True) is False:
        prefix = "first"
    added = _complete(declared, named, model, folder)
    return Rules(
        added=added, named=named, before=(bos,) if bos else (), after=(eos,) if eos else (), pair_after=(eos,) if eos else (),
        prefix=prefix, extra=tuple(declared.extra),
    )  # fmt: skip


def is_chatglm3(folder: Path, config: dict[str, Any]) -> bool:
    """Whether a ChatGLM folder is a ChatGLM3: one of its files mentions the role tokens that ChatGLM2 has not.

    Their configs differ in nothing that matters, so the files of the tokenizer decide, and then the name it was saved under.
    """
    for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenization_chatglm.py"):
        file = folder / name
        if file.is_file() and "<|assistant|>" in file.read_text(encoding="utf-8", errors="replace"):
            return True
    return re.search(r"chatglm-?_?3", f"{config.get('_name_or_path', '')} {folder.name}".lower()) is not None


def _is_chatglm(folder: Path, config: dict[str, Any]) -> bool:
    name = str(read_side(folder, "tokenizer_config.json").get("tokenizer_class", ""))
    return config.get("model_type") == "chatglm" or name.startswith("ChatGLM")


def _chatglm(folder: Path, config: dict[str, Any], declared: Declared, model: SentencePieceModel) -> Rules:
    """ChatGLM's rules.

    In a text, the original finds its added tokens only where tokenizer_config.json declares them; otherwise "sop" is a word
    like any other. A native tokenizer has to find them, as chat templates are text: a "sop" that is not declared is written
    "<sop>", as GLM-4 does, so that words that contain it keep their ids.
    """
    known = {token.text: token.id for token in declared.added}
    template = str(read_side(folder, "tokenizer_config.json").get("chat_template", ""))
    jinja = folder / "chat_template.jinja"
    template += jinja.read_text(encoding="utf-8", errors="replace") if jinja.is_file() else ""
    in_template = re.search(r"\]sop\b", template) is not None
    roles = GLM_ROLES if is_chatglm3(folder, config) else ()
    for place, text in enumerate((*GLM_TOKENS, *roles)):
        number = len(model.pieces) + place
        if known.get(text, number) != number:
            what = f"the token {text!r} has the id {known[text]}, where ChatGLM's code gives it {number}"
            raise CheckpointError(what, where=str(folder), todo="copy the tokenizer files of the original model again")
        if text in known:
            continue
        word = text in ("sop", "eop")
        written = f"<{text}>" if word and not in_template else text
        declared.added.append(Added(written, number, single_word=word and in_template))
    named = {**declared.named, **GLM_NAMES}
    named.pop("bos_token", None)
    sop = "sop" if "sop" in known or in_template else "<sop>"
    added = _complete(declared, named, model, folder)
    return Rules(
        added=added, named=named, before=("[gMASK]", sop), pair_after=("</s>",),
        prefix="always" if model.dummy_prefix else "never", sop=sop, extra=tuple(declared.extra),
    )  # fmt: skip


def _complete(declared: Declared, named: dict[str, str], model: SentencePieceModel, folder: Path) -> tuple[Added, ...]:
    """Every added token with its id: special names found in the vocabulary, new ones put behind it as transformers does."""
    ids = {piece.text: number for number, piece in enumerate(model.pieces)}
    added = {token.text: token for token in declared.added}
    for text in (*named.values(), *declared.extra):
        if text in added:
            added[text] = replace(added[text], special=True)
        elif text in ids:
            added[text] = Added(text, ids[text])
    end = max([len(model.pieces) - 1, *(token.id for token in added.values())])
    for text in declared.extra:
        if text not in added:
            end += 1
            added[text] = Added(text, end)
    for key, text in named.items():
        if text not in added:
            what = f"its {key} {text!r} is neither in the vocabulary nor among the added tokens"
            raise CheckpointError(what, where=str(folder), todo="copy the tokenizer files of the original model again")
    for token in added.values():
        if token.text in ids and ids[token.text] != token.id:
            what = f"the added token {token.text!r} has the id {token.id}, and {ids[token.text]} in the SentencePiece model"
            raise CheckpointError(what, where=str(folder), todo="copy the tokenizer files of the original model again")
    return tuple(sorted(added.values(), key=lambda token: token.id))
