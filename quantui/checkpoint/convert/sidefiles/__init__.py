"""The files beside the weights of a converted folder: tokenizer, chat template, processor and generation settings."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles import agreement, chat_templates, generation, processor_files
from quantui.checkpoint.convert.sidefiles.json_files import read_side, write_side
from quantui.checkpoint.convert.sidefiles.keep import keep_files
from quantui.checkpoint.convert.sidefiles.processor_files import ATTRIBUTES, END, IMAGE, START, VIDEO, Pictures
from quantui.checkpoint.convert.sidefiles.tokenizer_files import TokenizerFacts, is_finished, tokenizer_facts, write_tokenizer
from quantui.checkpoint.convert.sidefiles.tokenizer_rules import is_chatglm3
from quantui.errors import CheckpointError

KINDS = ("internvl", "internlm2", "internlm", "chatglm", "keep")


def write_native(
    source: Path, source_config: dict[str, Any], target: Path, target_config: dict[str, Any], *, kind: str,
    processor_from: Path | None,
) -> list[str]:  # fmt: skip
    """Writes the side files of a native folder.

    Args:
        source, source_config: the folder in its original layout and its config.json.
        target, target_config: the folder that is being written and the config.json it gets.
        kind: one of KINDS; "keep" copies the side files as they are.
        processor_from: a folder whose tokenizer and processor are copied once they are known to fit; None makes them.

    Returns:
        Notes: one sentence for each thing the native form cannot say.

    Raises:
        CheckpointError: the source's files are missing or broken, or processor_from does not fit (all reasons in one error).
    """
    if kind == "keep":
        return keep_files(source, source_config, target)
    pictures = processor_files.pictures_of(source, source_config) if kind == "internvl" else None
    if not has_tokenizer(processor_from or source):
        if pictures:
            processor_files.write_processor(target, pictures)
        return processor_files.picture_notes(source_config, pictures) if pictures else []
    facts = _facts(source, source_config, kind, processor_from)
    notes = processor_files.picture_notes(source_config, pictures) if pictures else []
    if processor_from is not None:
        agreement.copy_processor(processor_from, target, pictures=pictures is not None)
        facts = tokenizer_facts(processor_from, {})
        if not chat_templates.source_template(processor_from):
            notes += _write_template(source, source_config, target, facts, kind)
    else:
        attributes = {**ATTRIBUTES, "processor_class": "InternVLProcessor"} if pictures else {}
        write_tokenizer(source, source_config, target, attributes)
        notes += _write_template(source, source_config, target, facts, kind)
        if pictures:
            processor_files.write_processor(target, pictures)
            notes += _video_note(facts, target_config)
    body, more = generation.native_generation(source, generation.token_ids(kind, source_config, facts))
    if version := target_config.get("transformers_version"):
        body["transformers_version"] = version
    write_side(target, "generation_config.json", body)
    return notes + more


def check_native(source: Path, source_config: dict[str, Any], *, kind: str, processor_from: Path | None) -> list[str]:
    """What `write_native` would stumble over, each as a sentence; reads small files only and writes nothing."""
    if kind == "keep":
        return []
    problems = []
    if processor_from is not None or has_tokenizer(source):
        try:
            _facts(source, source_config, kind, processor_from)
        except CheckpointError as error:
            problems.append(str(error))
    if kind == "internvl":
        try:
            processor_files.pictures_of(source, source_config)
        except CheckpointError as error:
            if str(error) not in problems:
                problems.append(str(error))
    return problems


def write_github(
    source: Path, source_config: dict[str, Any], target: Path, target_config: dict[str, Any], *, processor_from: Path | None
) -> list[str]:
    """Writes the side files of the GitHub layout from a native InternVL folder.

    Args:
        processor_from: a folder in the GitHub layout, whose tokenizer files and preprocessor_config.json are copied once they
            are known to fit; None takes the native ones.

    Returns:
        Notes.

    Raises:
        CheckpointError: a file of the source is broken, or processor_from does not fit.
    """
    pictures = processor_files.native_pictures(source, source_config)
    if pictures is None or not has_tokenizer(source):
        return ["the source has no tokenizer or no processor files, so none are written"]
    facts = tokenizer_facts(source, source_config)
    if processor_from is None:
        agreement.copy_processor(source, target, pictures=False)
        processor_files.write_github_preprocessor(target, pictures)
    else:
        agreement.refuse_disagreements(processor_from, agreement.github_disagreements(processor_from, facts, pictures))
        agreement.copy_github(processor_from, target)
    if (source / "generation_config.json").is_file():
        shutil.copyfile(source / "generation_config.json", target / "generation_config.json")
    return []


def has_tokenizer(folder: Path) -> bool:
    """Whether the folder holds a tokenizer of any kind that is read here; it may be a broken one."""
    return is_finished(folder) or (folder / "tokenizer.model").is_file()


def image_token_id(source: Path) -> int | None:
    """The id of `<IMG_CONTEXT>` in the folder's tokenizer; None where it has no such token.

    Raises:
        CheckpointError: it has no tokenizer, or a broken one.
    """
    return tokenizer_facts(source, read_side(source, "config.json")).id(IMAGE)


def special_ids(
    source: Path, source_config: dict[str, Any], *, kind: str, processor_from: Path | None = None
) -> dict[str, Any]:
    """bos_token_id, eos_token_id (a number, or a list where several end an answer), pad_token_id and image_token_id.

    A key is missing where there is no such token.

    Raises:
        CheckpointError: as `write_native`.
    """
    facts = _facts(source, source_config, kind, processor_from)
    found = generation.token_ids(kind, source_config, facts)
    image = facts.id(IMAGE) if kind == "internvl" else None
    return found if image is None else {**found, "image_token_id": image}


def _facts(source: Path, config: dict[str, Any], kind: str, processor_from: Path | None) -> TokenizerFacts:
    """The tokenizer the folder will get, after every check of it.

    Raises:
        CheckpointError: it is missing, broken, too large for the model, without image tokens, or unlike processor_from's.
    """
    if processor_from is not None:
        pictures = processor_files.pictures_of(source, config) if kind == "internvl" else None
        try:
            wanted = tokenizer_facts(source, config)
        except CheckpointError:
            wanted = None  # what is missing or broken is what the other folder is for
        wrong = agreement.disagreements(processor_from, wanted, pictures, vocab=_vocab(config))
        agreement.refuse_disagreements(processor_from, wrong)
        facts, where = tokenizer_facts(processor_from, {}), processor_from
    else:
        facts, where = tokenizer_facts(source, config), source
    largest = max((number for text, number in facts.ids.items() if text != VIDEO), default=-1)
    if 0 < _vocab(config) <= largest:
        what = f"its tokenizer has ids up to {largest}, and the model {_vocab(config)} rows for them"
        raise CheckpointError(what, where=str(where), todo="copy the tokenizer files that belong to these weights")
    missing = [text for text in (START, END, IMAGE) if facts.id(text) is None] if kind == "internvl" else []
    if missing:
        what = f"its tokenizer has no token {', '.join(missing)}, so pictures have no place in a text"
        raise CheckpointError(what, where=str(where), todo="copy the tokenizer files that belong to these weights")
    return facts


def _write_template(source: Path, config: dict[str, Any], target: Path, facts: TokenizerFacts, kind: str) -> list[str]:
    template, notes = _template(source, config, facts, kind)
    (target / "chat_template.jinja").write_text(template, encoding="utf-8")
    return notes


def _template(source: Path, config: dict[str, Any], facts: TokenizerFacts, kind: str) -> tuple[str, list[str]]:
    """The chat template, the source's own where it serves, with notes."""
    given = chat_templates.source_template(source)
    if kind == "internvl":
        if chat_templates.knows_pictures(given):
            return given, []
        made, notes = chat_templates.internvl_template(source, config, facts.bos)
        if given:
            notes.append(
                "The chat template beside the source knows no pictures and is not the one its own chat function uses, "
                f"so that of {config.get('template')!r} was written."
            )
        return made, notes
    if given:
        lacks = kind == "chatglm" and "[gMASK]" not in given
        return given, ["The source's chat template was kept; it does not begin with [gMASK] as texts do."] if lacks else []
    if kind == "internlm2":
        return chat_templates.internlm2_template(facts.bos), []
    if kind == "internlm":
        return chat_templates.internlm_template(), []
    version = 3 if is_chatglm3(source, config) else 2
    return chat_templates.chatglm_template(facts.sop, version=version, prefix=facts.prefix), []


def _vocab(config: dict[str, Any]) -> int:
    """Rows of the embedding by an original config; 0 where it does not say."""
    inner = config.get("llm_config")
    text: dict[str, Any] = inner if isinstance(inner, dict) else config
    size = text.get("padded_vocab_size") or text.get("vocab_size")
    return size if type(size) is int else 0


def _video_note(facts: TokenizerFacts, target_config: dict[str, Any]) -> list[str]:
    raw = target_config.get("text_config")
    text: dict[str, Any] = raw if isinstance(raw, dict) else {}
    rows = text.get("vocab_size")
    if facts.id(VIDEO) is None and type(rows) is int and facts.size >= rows:
        return [
            f"The mark {VIDEO} gets the id {facts.size} behind the vocabulary, as in the published -hf checkpoints: the "
            "processor replaces it in chats with a video, and a text that holds it literally cannot be read by the model."
        ]
    return []


__all__ = ["KINDS", "Pictures", "check_native", "image_token_id", "special_ids", "write_github", "write_native"]
