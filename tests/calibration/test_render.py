"""Samples as the model gets them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantui.calibration.batches import make_loader
from quantui.calibration.render import render
from quantui.calibration.sources import Sample, image_sample
from quantui.calibration.template import chat_text
from quantui.errors import CalibrationError

pytestmark = pytest.mark.engine

CHAT = (
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "the quick fox"},
    {"role": "assistant", "content": "brown 狐狸"},
)


@pytest.fixture(scope="module")
def words() -> Any:
    """A tokenizer with a chat template."""
    from tests.models.tiny import tokenizer

    return tokenizer()


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The processor of a tiny InternVL."""
    from quantui.checkpoint.processor import load_processor
    from tests.models.tiny import save_internvl

    return load_processor(save_internvl(tmp_path_factory.mktemp("vl") / "m"), image_text=True)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 100x80, which is four tiles and a thumbnail: 20 image tokens."""
    file = tmp_path_factory.mktemp("picture") / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 100, 3), dtype=np.uint8)).save(file)
    return file


def ids(sample: Sample, tokenizer: Any, most: int = 10_000) -> list[int]:
    """The token ids of one sample; everything of its inputs has one row."""
    inputs = render(sample, tokenizer, most)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (1, inputs["input_ids"].numel())
    assert inputs["attention_mask"].all()
    return inputs["input_ids"][0].tolist()


# --- text


def test_chats_go_through_the_model_s_own_template(words: Any) -> None:
    theirs = words.apply_chat_template(list(CHAT), tokenize=True, return_dict=False)
    assert ids(Sample("w", messages=CHAT), words) == theirs
    assert len(theirs) > 20


def test_a_chat_without_its_answer_opens_the_answer_s_turn(words: Any) -> None:
    theirs = words.apply_chat_template(list(CHAT[:2]), tokenize=True, return_dict=False, add_generation_prompt=True)
    assert ids(Sample("w", messages=CHAT[:2], complete=False), words) == theirs
    assert words.decode(theirs).endswith("<|im_start|>assistant\n")


def test_special_tokens_come_once(words: Any) -> None:
    from tests.models.tiny import tokenizer

    greeting = tokenizer()
    core = greeting.backend_tokenizer
    from tokenizers import processors

    core.post_processor = processors.TemplateProcessing(single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)])
    assert ids(Sample("w", text="the fox"), greeting)[0] == 1
    assert ids(Sample("w", text="the fox"), greeting)[1:] == ids(Sample("w", text="the fox"), words)
    assert ids(Sample("w", messages=CHAT), greeting) == ids(Sample("w", messages=CHAT), words)  # the template has its own


def test_plain_text_meets_no_template(words: Any) -> None:
    assert ids(Sample("w", text="the fox"), words) == words("the fox")["input_ids"]


def test_a_model_without_a_template_gets_lines(words: Any) -> None:
    from tests.models.tiny import tokenizer

    bare = tokenizer()
    bare.chat_template = None
    assert chat_text(CHAT[:2], bare, complete=False, where="w") == "system: be brief\nuser: the quick fox\nassistant:"
    parts = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]},)
    assert chat_text(parts, bare, complete=True, where="w") == "user:  what?"
    assert ids(Sample("w", messages=CHAT), bare)


@pytest.mark.parametrize("most", [1, 7])
def test_text_is_cut_at_max_tokens(words: Any, most: int) -> None:
    for sample in (Sample("w", messages=CHAT), Sample("w", text="the quick brown fox 1 plus 2 3 4 5")):
        assert ids(sample, words, most) == ids(sample, words)[:most]
        assert len(ids(sample, words, most)) == most


def test_nothing_left_is_an_error(words: Any) -> None:
    with pytest.raises(CalibrationError, match="no tokens") as caught:
        render(Sample("a.jsonl:3", text=""), words, 10)
    assert caught.value.where == "a.jsonl:3"


@pytest.mark.parametrize(
    "template",
    ["{{ raise_exception('no system, please') }}", "{{ messages[0].content.nothing.more }}", "{% for %}", "{{ 1 + 'a' }}",
     "{{ messages[0]['content'].split(5) }}", "{{ {}.pop('a') }}", "{{ [].pop() }}"],
)  # fmt: skip
def test_a_template_that_refuses_is_an_error_of_the_row(template: str) -> None:
    from tests.models.tiny import tokenizer

    strict = tokenizer()
    strict.chat_template = template
    with pytest.raises(CalibrationError, match="chat template refuses") as caught:
        render(Sample("a.jsonl:3", messages=CHAT), strict, 10)
    assert caught.value.where == "a.jsonl:3"


# --- pictures


def test_a_picture_is_its_tiles_and_their_tokens(processor: Any, picture: Path) -> None:
    import torch

    inputs = render(image_sample("w", picture, "what?", "a fox"), processor, 2048, dtype=torch.bfloat16)
    assert inputs["pixel_values"].shape == (5, 3, 56, 56) and inputs["pixel_values"].dtype == torch.bfloat16
    assert int((inputs["input_ids"] == processor.image_token_id).sum()) == 20
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert text.startswith("<|im_start|>user\n<img><IMG_CONTEXT>") and text.endswith("assistant\na fox<|im_end|>\n")
    assert render(image_sample("w", picture, "what?", None), processor, 2048)["pixel_values"].dtype == torch.float32


def test_a_question_without_its_answer_opens_the_answer_s_turn(processor: Any, picture: Path) -> None:
    inputs = render(image_sample("w", picture, "what?", None), processor, 2048)
    assert processor.tokenizer.decode(inputs["input_ids"][0]).endswith("what?<|im_end|>\n<|im_start|>assistant\n")


def test_text_behind_a_picture_is_cut_but_never_the_picture(processor: Any, picture: Path) -> None:
    sample = image_sample("w.jsonl:2", picture, "what?", "a fox")
    whole = render(sample, processor, 2048)["input_ids"][0].tolist()
    end = max(place for place, token in enumerate(whole) if token == processor.image_token_id) + 1
    for most in (len(whole) - 1, end):
        inputs = render(sample, processor, most)
        assert inputs["input_ids"][0].tolist() == whole[:most] and inputs["attention_mask"].shape == (1, most)
        assert inputs["pixel_values"].shape[0] == 5
    with pytest.raises(CalibrationError, match="20 tokens, more than max_tokens") as caught:
        render(sample, processor, end - 1)
    assert caught.value.where == "w.jsonl:2"


def test_text_for_an_image_text_model_needs_no_picture(processor: Any) -> None:
    inputs = render(Sample("w", messages=CHAT), processor, 100)
    assert "pixel_values" not in inputs
    assert inputs["input_ids"][0].tolist() == ids(Sample("w", messages=CHAT), processor.tokenizer)


def test_a_picture_for_a_text_model_is_an_error(words: Any, picture: Path) -> None:
    with pytest.raises(CalibrationError, match="reads no pictures"):
        render(image_sample("w", picture, "what?", None), words, 100)


def test_a_template_without_a_place_for_the_picture_is_an_error(processor: Any, picture: Path) -> None:
    import copy

    blind = copy.copy(processor)
    blind.chat_template = "{{ messages[0]['role'] }}"
    with pytest.raises(CalibrationError, match="no place for the picture") as caught:
        render(image_sample("w.jsonl:2", picture, "what?", None), blind, 100)
    assert caught.value.where == "w.jsonl:2"


def test_a_question_that_holds_a_placeholder_itself_is_an_error(processor: Any, picture: Path) -> None:
    with pytest.raises(CalibrationError, match="the question none") as caught:
        render(image_sample("w.jsonl:2", picture, "what is <IMG_CONTEXT>?", None), processor, 2048)
    assert caught.value.where == "w.jsonl:2"


def test_a_broken_picture_is_named(processor: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(CalibrationError, match="cannot be read"):
        render(image_sample("w", tmp_path / "a.png", "what?", None), processor, 100)


# --- tokens, and batches of all


def test_stored_tokens_are_used_exactly_as_they_are(words: Any, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    stored = torch.arange(30).reshape(3, 10)
    save_file({"input_ids": stored}, tmp_path / "t.safetensors")
    for row in range(3):
        sample = Sample("w", tokens=(tmp_path / "t.safetensors", row))
        assert ids(sample, words, 4) == stored[row].tolist()  # not even cut


def test_batches_are_these_samples_in_this_order_each_time(words: Any) -> None:
    samples = [Sample(f"w:{i}", text=f"the fox {i} " * (i + 1)) for i in range(4)]
    seen: list[tuple[int, int]] = []
    loader = make_loader(samples, words, 12, seen=lambda index, tokens: seen.append((index, tokens)))
    expected = [ids(sample, words, 12) for sample in samples]
    for _ in range(2):
        assert [batch["input_ids"][0].tolist() for batch in loader] == expected
    assert seen == [(i, len(expected[i])) for i in range(4)] * 2
    assert len(loader) == 4


def test_a_batch_raises_what_its_sample_raises(words: Any) -> None:
    loader = make_loader([Sample("a:1", text="good"), Sample("a:2", text="")], words, 12)
    with pytest.raises(CalibrationError, match="a:2"):
        list(loader)
