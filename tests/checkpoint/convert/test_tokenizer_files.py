"""Made tokenizers give the ids of the original ones: SentencePiece's own, and what the custom classes put around them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantui.checkpoint.convert.sidefiles import check_native, special_ids, write_native
from quantui.checkpoint.convert.sidefiles.sentencepiece import read_model
from quantui.checkpoint.convert.sidefiles.tokenizer import build_tokenizer
from quantui.checkpoint.convert.sidefiles.tokenizer_rules import Rules
from tests.checkpoint.convert import sentences

pytestmark = pytest.mark.engine

KINDS: dict[str, dict[str, Any]] = {
    "bpe": {},
    "no prefix": {"prefix": False},
    "no bytes": {"byte_fallback": False},
    "symbols": {"symbols": ("<eoh>", "<eoa>")},
    "symbols, no prefix": {"symbols": ("<eoa>",), "prefix": False},
    "folded nfkc": {"rule": "nmt_nfkc", "fold": True},
}
LM2 = {"model_type": "internlm2", "vocab_size": 700, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
GLM = {"model_type": "chatglm", "padded_vocab_size": 700}
IM = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")
"""InternLM2's added tokens in the order of their ids; its SentencePiece model has placeholders there."""
UNUSED = tuple(f"[UNUSED_TOKEN_{number}]" for number in range(len(IM)))

WORDS = (
    "ana",
    "the ",
    " ",
    "  ",
    "\n",
    "你好",
    "世界",
    "🙂",
    "é",
    "sop",
    "▁",
    "<0x0A>",
    "[gMASK]",
    "<eoa>",
    "a",
    "T",
    "1",
    "，",
    "n",
)
TEXTS = (
    "Hello, world!",
    " leading",
    "a   b",
    "你好，世界！",
    "line\n\nline\n",
    "🙂 emoji 🙃",
    "1234 5.6",
    "",
    " ",
    "sophisticated sop",
)
FIXED = settings(max_examples=2 * settings().max_examples, suppress_health_check=[HealthCheck.function_scoped_fixture])
SOME = st.lists(st.sampled_from(WORDS) | st.text(max_size=3), max_size=12).map("".join).filter(lambda text: "\0" not in text)


def added(texts: Sequence[str], first: int) -> dict[str, Any]:
    """added_tokens_decoder of tokenizer_config.json."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(first + place): {"content": text, **flags} for place, text in enumerate(texts)}


def native(source: Path, config: dict[str, Any], kind: str, model_type: str = "llama") -> Any:
    """The source converted, as AutoTokenizer loads it."""
    from transformers import AutoTokenizer

    target = source.with_name(f"{source.name}-native")
    target.mkdir()
    body = {"model_type": model_type, "transformers_version": "5.17.0"}
    assert write_native(source, config, target, body, kind=kind, processor_from=None) == []
    (target / "config.json").write_text(json.dumps(body), encoding="utf-8")
    return AutoTokenizer.from_pretrained(target)


def original(processor: Any, text: str, tokens: dict[str, int]) -> list[int]:
    """What a slow tokenizer of transformers makes of a text: added tokens as they are, SentencePiece between them."""
    pattern = "|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True))
    parts = re.split(f"({pattern})", text)
    return [number for part in parts for number in ([tokens[part]] if part in tokens else processor.encode(part))]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """(SentencePiece's processor, the tokenizer made of the same model) by KINDS."""
    made = {}
    for place, (name, options) in enumerate(KINDS.items()):
        model = sentences.train(**options)
        file = tmp_path_factory.mktemp("models") / f"{place}.model"
        file.write_bytes(model)
        read = read_model(file)
        rules = Rules(added=(), named={}, prefix="always" if read.dummy_prefix else "never")
        made[name] = (sentences.processor(model), build_tokenizer(read, rules))
    return made


@pytest.mark.parametrize("kind", KINDS)
@FIXED
@given(text=SOME)
def test_any_text_gets_the_ids_of_sentencepiece(pairs: dict[str, tuple[Any, Any]], kind: str, text: str) -> None:
    processor, tokenizer = pairs[kind]
    ids = processor.encode(text)
    assert tokenizer.encode(text).ids == ids
    if kind != "no bytes":  # SentencePiece writes ⁇ for the unknown
        assert tokenizer.decode(ids) == processor.decode(ids)


def test_unigram_gets_the_ids_of_sentencepiece(tmp_path: Path) -> None:
    model = sentences.train(kind="unigram", symbols=("<eoa>",))
    (tmp_path / "m.model").write_bytes(model)
    tokenizer = build_tokenizer(read_model(tmp_path / "m.model"), Rules(added=(), named={}))
    processor = sentences.processor(model)
    for text in (*TEXTS, *sentences.TEXT, "a<eoa>b", "<0x0A><s>"):
        assert tokenizer.encode(text).ids == processor.encode(text), text
        assert tokenizer.decode(processor.encode(text)) == processor.decode(processor.encode(text))


@pytest.mark.parametrize("prefix", [True, False])
def test_internlm2_splits_at_its_tokens_and_begins_with_bos(tmp_path: Path, prefix: bool) -> None:
    model = sentences.train(prefix=prefix, symbols=UNUSED)
    processor = sentences.processor(model)
    first = processor.piece_to_id(UNUSED[0])
    config = {
        "tokenizer_class": "InternLM2Tokenizer",
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "added_tokens_decoder": {**added(("<unk>", "<s>", "</s>"), 0), **added(IM, first)},
        "additional_special_tokens": list(reversed(IM)),
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
    }  # fmt: skip
    source = sentences.folder(tmp_path / "lm2", model, LM2, tokenizer_config=config)
    tokenizer = native(source, LM2, "internlm2")
    tokens = {text: first + place for place, text in enumerate(IM)} | {"<s>": 1, "</s>": 2, "<unk>": 0}
    assert type(tokenizer).__name__ == "TokenizersBackend"
    chat = "<|im_start|>user\n你好 there<|im_end|>\n<|im_start|>assistant\n"
    for text in (*TEXTS, chat, "x</s> y", "<|im_end|>", " <s> "):
        ids = tokenizer(text)["input_ids"]
        assert ids == [1, *original(processor, text, tokens)], text
        assert tokenizer(text, add_special_tokens=False)["input_ids"] == ids[1:]
    for text in TEXTS:
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    assert sorted(tokenizer("x")) == ["attention_mask", "input_ids"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    stops = [2, tokens["<|im_end|>"]]
    assert special_ids(source, LM2, kind="internlm2") == {"bos_token_id": 1, "eos_token_id": stops, "pad_token_id": 2}
    template = [{"role": "user", "content": "你好 there"}]
    assert tokenizer.apply_chat_template(template, tokenize=False, add_generation_prompt=True) == f"<s>{chat}"


@pytest.fixture(scope="module")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, int]]:
    """(SentencePiece's processor, the loaded tokenizer, its added tokens)."""
    model = sentences.train(symbols=UNUSED)
    processor = sentences.processor(model)
    first = processor.piece_to_id(UNUSED[0])
    config = {"tokenizer_class": "InternLM2Tokenizer", "added_tokens_decoder": added(IM, first)}
    source = sentences.folder(tmp_path_factory.mktemp("lm2") / "source", model, LM2, tokenizer_config=config)
    tokens = {text: first + place for place, text in enumerate(IM)} | {"<s>": 1, "</s>": 2, "<unk>": 0}
    return processor, native(source, LM2, "internlm2"), tokens


@FIXED
@given(texts=st.lists(SOME | st.sampled_from((*IM, "<s>", "</s>")), max_size=6))
def test_any_text_with_special_tokens_gets_the_ids_of_internlm2(
    internlm2: tuple[Any, Any, dict[str, int]], texts: list[str]
) -> None:
    processor, tokenizer, tokens = internlm2
    text = "".join(texts)
    assert tokenizer(text)["input_ids"] == [1, *original(processor, text, tokens)]


def test_internlm2_finds_tokens_behind_its_vocabulary(tmp_path: Path) -> None:
    """InternVL's: added_tokens.json and special_tokens_map.json instead of added_tokens_decoder, and new special names."""
    model = sentences.train(prefix=False)
    size = sentences.processor(model).get_piece_size()
    source = sentences.folder(
        tmp_path / "vl", model, LM2, tokenizer_config={"tokenizer_class": "InternLM2Tokenizer", "add_bos_token": False},
        added_tokens={"<img>": size, "</img>": size + 1, "<plain>": size + 3},
        special_tokens_map={"additional_special_tokens": ["<img>", "</img>", "<new>"], "eos_token": {"content": "</s>"}},
    )  # fmt: skip
    tokenizer = native(source, LM2, "internlm2")
    ids = tokenizer("<img>a</img><plain><new>b")["input_ids"]
    assert [number for number in ids if number >= size] == [size, size + 1, size + 3, size + 4]
    assert ids[0] == size
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a<plain>b"
    assert (
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "<|im_start|>user\nx<|im_end|>\n"
    )


def test_internlm_keeps_its_symbols_in_the_middle_of_a_text(tmp_path: Path) -> None:
    model = sentences.train(symbols=("<eoh>", "<eoa>"))
    processor = sentences.processor(model)
    config = {"model_type": "internlm", "vocab_size": 700}
    source = sentences.folder(tmp_path / "lm", model, config, tokenizer_config={"tokenizer_class": "InternLMTokenizer"})
    tokenizer = native(source, config, "internlm")
    messages = [
        {"role": "system", "content": "Be short."}, {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Who?"},
    ]  # fmt: skip
    chat = "<|System|>:Be short.\n<|User|>:你好\n<|Bot|>:Hi<eoa>\n<|User|>:Who?\n<|Bot|>:"
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == f"<s>{chat}"
    for text in (*TEXTS, chat, "<eoa>"):
        assert tokenizer(text)["input_ids"] == [1, *processor.encode(text)], text
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == [1, *processor.encode(chat)]
    eoa = processor.piece_to_id("<eoa>")
    assert special_ids(source, config, kind="internlm")["eos_token_id"] == [2, eoa]


def test_chatglm2_begins_texts_with_gmask_and_sop(tmp_path: Path) -> None:
    model = sentences.train()
    processor = sentences.processor(model)
    size = processor.get_piece_size()
    source = sentences.folder(tmp_path / "glm2", model, GLM, tokenizer_config={"tokenizer_class": "ChatGLMTokenizer"})
    tokenizer = native(source, GLM, "chatglm", "glm")
    for text in (*TEXTS, "[Round 1]\n\n问：你好\n\n答："):
        ids = tokenizer(text)["input_ids"]
        assert ids == [size + 1, size + 3, *processor.encode(text)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("a", "b")["input_ids"] == [size + 1, size + 3, *processor.encode("a"), *processor.encode("b"), 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (None, 2, 0)
    messages = [
        {"role": "user", "content": "Q1"}, {"role": "assistant", "content": "A1"}, {"role": "user", "content": "你好"},
    ]  # fmt: skip
    prompt = "[Round 1]\n\n问：Q1\n\n答：A1\n\n[Round 2]\n\n问：你好\n\n答："
    made = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert made == [size + 1, size + 3, *processor.encode(prompt)]
    assert special_ids(source, GLM, kind="chatglm") == {"eos_token_id": 2, "pad_token_id": 0}


@pytest.mark.parametrize("declared", [True, False])
def test_chatglm3_writes_roles_as_tokens(tmp_path: Path, declared: bool) -> None:
    model = sentences.train()
    processor = sentences.processor(model)
    size = processor.get_piece_size()
    config: dict[str, Any] = {"tokenizer_class": "ChatGLMTokenizer"}
    if declared:
        config["added_tokens_decoder"] = {
            **added(["[gMASK]"], size + 1), **added(["sop"], size + 3), **added(["<|user|>", "<|assistant|>"], size + 6)
        }  # fmt: skip
    source = sentences.folder(tmp_path / "glm3", model, GLM, tokenizer_config=config)
    if not declared:
        (source / "tokenization_chatglm.py").write_text('role_special_tokens = ["<|user|>", "<|assistant|>"]', encoding="utf-8")
    tokenizer = native(source, GLM, "chatglm", "glm")
    messages = [
        {"role": "system", "content": "Be short.", "tools": [{"name": "天气"}]}, {"role": "user", "content": " 你好"},
        {"role": "assistant", "content": "", "metadata": "tool"}, {"role": "observation", "content": "22"},
    ]  # fmt: skip
    system, user, assistant, observation = range(size + 5, size + 9)
    tools = json.dumps([{"name": "天气"}], indent=4, ensure_ascii=False)
    expected = [size + 1, size + 3]
    expected += [system, *processor.encode("\n"), *processor.encode(f"Be short.\n{tools}")]
    expected += [user, *processor.encode("\n"), *processor.encode(" 你好")]
    expected += [
        assistant,
        *processor.encode("tool\n"),
        observation,
        *processor.encode("\n"),
        *processor.encode("22"),
        assistant,
    ]
    assert tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"] == expected
    assert special_ids(source, GLM, kind="chatglm")["eos_token_id"] == [2, user, observation]
    if not declared:
        text = "sop sophisticated"
        assert tokenizer(text)["input_ids"] == [size + 1, size + 3, *processor.encode(text)]


def test_a_chatglm_keeps_its_template_and_the_way_it_writes_sop(tmp_path: Path) -> None:
    model = sentences.train()
    processor = sentences.processor(model)
    size = processor.get_piece_size()
    template = "[gMASK]sop{% for message in messages %}<|{{ message['role'] }}|>\n {{ message['content'] }}{% endfor %}"
    config = {"tokenizer_class": "ChatGLMTokenizer", "chat_template": template}
    source = sentences.folder(tmp_path / "chatglm3-tuned", model, GLM, tokenizer_config=config)
    tokenizer = native(source, GLM, "chatglm", "glm")
    assert tokenizer.chat_template == template
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "你好"}])["input_ids"]
    assert ids == [size + 1, size + 3, size + 6, *processor.encode("\n 你好")]
    assert tokenizer("sophisticated")["input_ids"] == [size + 1, size + 3, *processor.encode("sophisticated")]


def test_contradicting_tokens_are_refused(tmp_path: Path) -> None:
    model = sentences.train()
    for number, (files, part) in enumerate(
        (
            ({"tokenizer_config": {"added_tokens_decoder": added(["<img>"], 5)}, "added_tokens": {"<a>": 5}}, "contradict"),
            ({"added_tokens": {"the": 601}, "tokenizer_config": {"eos_token": "<end>"}}, "eos_token '<end>' is neither"),
            ({"added_tokens": {"▁": 601}}, "the added token '▁' has the id 601"),
            ({"added_tokens": {"<a>": -1}}, "is no id of a token"),
            ({"tokenizer_config": {"added_tokens_decoder": []}}, "no JSON object"),
        )
    ):
        source = sentences.folder(tmp_path / str(number), model, LM2, **files)  # type: ignore[arg-type]
        assert part in check_native(source, LM2, kind="internlm2", processor_from=None)[0]


def test_a_stock_llama_class_without_legacy_puts_one_space_before_the_whole(tmp_path: Path) -> None:
    model = sentences.train()
    processor = sentences.processor(model)
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "add_eos_token": True}
    source = sentences.folder(tmp_path / "llama", model, LM2, tokenizer_config=settings)
    tokenizer = native(source, LM2, "internlm2")
    assert tokenizer("the dog")["input_ids"] == [1, *processor.encode("the dog"), 2]
    ids = tokenizer("the</s>dog", add_special_tokens=False)["input_ids"]
    assert not tokenizer.convert_ids_to_tokens(ids)[ids.index(2) + 1].startswith("▁")
    assert tokenizer.decode(ids) == "the</s>dog"
