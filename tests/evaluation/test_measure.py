"""Exact match and perplexity, against the same worked out one question at a time."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from quantui.errors import CalibrationError
from quantui.evaluation.measure import ANSWER_TOKENS, evaluate
from quantui.evaluation.questions import Question, read_questions

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny Llama and its tokenizer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.models.tiny import save_llama

    folder = save_llama(tmp_path_factory.mktemp("chat") / "m")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def questions(folder: Path, pairs: list[tuple[str, str]]) -> list[Question]:
    """Questions of these words and answers."""
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]} for asked, answer in pairs
    ]
    (folder / "evaluation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_questions(folder / "evaluation.jsonl")


def answer_of(model: Any, words: Any, asked: str) -> str:
    """What the model says to one question, greedily."""
    import torch

    text = words.apply_chat_template([{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([words(text, add_special_tokens=False)["input_ids"]])
    made = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=ANSWER_TOKENS, do_sample=False, pad_token_id=0
    )
    return str(words.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def surprise_of(model: Any, words: Any, asked: str, answer: str) -> tuple[float, int]:
    """Sum of the negative log-likelihoods of the answer's tokens, and their number."""
    import torch

    def tokens(messages: list[dict[str, str]], more: bool) -> list[int]:
        text = words.apply_chat_template(messages, tokenize=False, add_generation_prompt=more)
        return list(words(text, add_special_tokens=False)["input_ids"])

    user = {"role": "user", "content": asked}
    prompt, full = tokens([user], True), tokens([user, {"role": "assistant", "content": answer}], False)
    with torch.inference_mode():
        log = torch.log_softmax(model(torch.tensor([full])).logits[0].float(), -1)
    return -sum(float(log[i - 1, full[i]]) for i in range(len(prompt), len(full))), len(full) - len(prompt)


def test_questions_of_any_length_are_measured_as_if_alone(chat: tuple[Any, Any], tmp_path: Path) -> None:
    model, words = chat
    asked = ["fox", "the quick brown fox 1 plus 2", "brown " * 20, "a"]
    said = [answer_of(model, words, each) for each in asked]
    expected = [said[0], "never said", f"  {said[2]}\n", "nor this"]
    told: list[tuple[int, int]] = []
    found = evaluate(
        model,
        words,
        questions(tmp_path, list(zip(asked, expected, strict=True))),
        lambda done, total: told.append((done, total)),
    )
    assert found.exact_match == 0.5 and found.samples == 4
    alone = [surprise_of(model, words, *pair) for pair in zip(asked, expected, strict=True)]
    perplexity = math.exp(sum(nats for nats, _ in alone) / sum(count for _, count in alone))
    assert found.perplexity == pytest.approx(perplexity, rel=0.01)
    assert told == [(4, 4)]


def test_what_a_template_writes_behind_the_end_of_turn_does_not_count(chat: tuple[Any, Any], tmp_path: Path) -> None:
    model, words = chat
    asked = questions(tmp_path, [("fox", "brown"), ("the quick", "fox 1")])
    plain = evaluate(model, words, asked, lambda *_: None).perplexity
    given, end = words.chat_template, words.convert_ids_to_tokens(model.generation_config.eos_token_id)
    assert end in words.apply_chat_template([{"role": "assistant", "content": "fox"}], tokenize=False)
    try:
        words.chat_template = given + "{{ '1 plus 2' if not add_generation_prompt }}"
        assert evaluate(model, words, asked, lambda *_: None).perplexity == pytest.approx(plain, rel=1e-4)
    finally:
        words.chat_template = given


def test_batches_do_not_change_the_numbers(chat: tuple[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantui.evaluation import measure

    model, words = chat
    asked = questions(tmp_path, [("fox " * i, "brown") for i in range(1, 6)])
    whole = evaluate(model, words, asked, lambda *_: None)
    monkeypatch.setattr(measure, "BATCH", 2)
    told: list[tuple[int, int]] = []
    parts = evaluate(model, words, asked, lambda done, total: told.append((done, total)))
    assert parts.exact_match == whole.exact_match and parts.perplexity == pytest.approx(whole.perplexity, rel=0.01)
    assert told == [(2, 5), (4, 5), (5, 5)]


def test_pictures_of_any_number_of_tiles_are_measured_but_not_beside_plain_text(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    from quantui.checkpoint.load import load_model
    from quantui.checkpoint.processor import load_processor
    from tests.models.tiny import save_internvl

    folder = save_internvl(tmp_path / "m")
    model, processor = load_model(folder, image_text=True), load_processor(folder, image_text=True)
    for i, size in enumerate(((40, 40), (80, 100))):  # one tile, and four with a thumbnail
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
    rows = [{"image": f"{i}.png", "question": "what?", "answer": "a fox"} for i in range(2)]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = evaluate(model, processor, read_questions(tmp_path / "e.jsonl"), lambda *_: None)
    assert found.samples == 2 and found.exact_match == 0 and 1 < found.perplexity < 10_000
    mixed = [*read_questions(tmp_path / "e.jsonl"), *questions(tmp_path, [("hi", "hello")])]
    with pytest.raises(CalibrationError, match="pictures and plain text stand in one evaluation file"):
        evaluate(model, processor, mixed, lambda *_: None)
