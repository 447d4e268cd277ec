"""The committed demonstration models are small, right, and what their README says."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, InternVLForConditionalGeneration  # noqa: E402

from assets.demo.make import chat, vision  # noqa: E402
from assets.demo.make.check import chats_of, pictures_of, read_rows  # noqa: E402
from assets.demo.make.github_layout import github_config, github_tensors  # noqa: E402
from assets.demo.make.measure import answers, exact_match  # noqa: E402
from assets.demo.make.outliers import CHANNELS, Site, writer_and_readers  # noqa: E402
from assets.demo.make.places import CHAT, CHAT_DATA, VISION, VISION_DATA, VISION_GITHUB  # noqa: E402
from assets.demo.make.questions import evaluation  # noqa: E402

LIMIT = 8_000_000  # bytes


def parameters(folder: Path) -> dict[str, Any]:
    """The tensors of a folder."""
    return dict(load_file(folder / "model.safetensors"))


@pytest.mark.parametrize(("folder", "least", "most"), [(CHAT, 1e6, 3e6), (VISION, 0, 4e6), (VISION_GITHUB, 0, 4e6)])
def test_small_bf16_files(folder: Path, least: float, most: float) -> None:
    """Every model is one bf16 file below the limit, with the promised number of parameters."""
    assert (folder / "model.safetensors").stat().st_size <= LIMIT
    tensors = parameters(folder)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert least <= sum(tensor.numel() for tensor in tensors.values()) <= most


def test_grouped_query_attention() -> None:
    """Both text parts share keys and values between heads."""
    text = json.loads((CHAT / "config.json").read_text())
    seen = json.loads((VISION / "config.json").read_text())["text_config"]
    for config in (text, seen):
        assert 1 < config["num_key_value_heads"] < config["num_attention_heads"]


def test_chat_answers() -> None:
    """60 held-out questions, and the one the documentation asks."""
    tokenizer = AutoTokenizer.from_pretrained(CHAT)
    model = AutoModelForCausalLM.from_pretrained(CHAT, dtype="auto").eval()
    assert exact_match(model, tokenizer, chats_of(CHAT_DATA / "evaluation.jsonl")[:60]) >= 0.93
    asked = ["What is 17 plus 25?", "17加25等于多少?", "What is the capital of France?", "法国的首都是哪里？"]
    said = answers(model, tokenizer, [[{"role": "user", "content": text}] for text in asked])
    assert said == ["42", "42", "Paris", "巴黎"]


def test_vision_answers() -> None:
    """40 held-out pictures through the saved processor configuration."""
    processor = vision.load_processor(VISION)
    model = InternVLForConditionalGeneration.from_pretrained(VISION, dtype="auto").eval()
    rows = read_rows(VISION_DATA / "evaluation.jsonl")[:40]
    expected = [row["answer"] for row in rows]
    assert vision.exact_match(model, processor, pictures_of(VISION_DATA, rows), expected) >= 0.85


def test_calibration_pictures_exercise_tiling() -> None:
    """Some calibration pictures are one tile, some several with a thumbnail."""
    processor = vision.load_processor(VISION)
    images = pictures_of(VISION_DATA, read_rows(VISION_DATA / "calibration.jsonl")[:8])
    tiles = {len(processor(text=[vision.prompt(processor)], images=[[image]])["pixel_values"]) for image in images}
    assert tiles == {1, 3, 5}


def test_chat_data_is_disjoint() -> None:
    """400 different held-out questions, none of them asked in calibration; the files are what the scripts make."""
    asked = [chat[0]["content"] for chat in chats_of(CHAT_DATA / "evaluation.jsonl")]
    calibration = chats_of(CHAT_DATA / "calibration.jsonl")
    assert len(set(asked)) == len(asked) == 400
    assert len(calibration) >= 256
    assert any(len(messages) > 2 for messages in calibration)
    assert not set(asked) & {message["content"] for messages in calibration for message in messages}
    assert asked == [question.text for question in evaluation(400)]
    assert all(question.held_out for question in evaluation(400))


def test_vision_data_is_disjoint() -> None:
    """400 held-out pictures, none of them byte for byte a calibration picture, and all files are there."""
    rows = {name: read_rows(VISION_DATA / f"{name}.jsonl") for name in ("calibration", "evaluation")}
    assert (len(rows["calibration"]), len(rows["evaluation"])) == (128, 400)
    pixels = {name: {(VISION_DATA / row["image"]).read_bytes() for row in rows[name]} for name in rows}
    assert not pixels["calibration"] & pixels["evaluation"]
    assert len(pixels["evaluation"]) == 400


def test_github_layout_holds_the_same_model() -> None:
    """Tensor by tensor the native weights, under the original names, and a config that says the same."""
    native, github = parameters(VISION), parameters(VISION_GITHUB)
    expected = github_tensors(native)
    assert set(github) == set(expected)
    assert all(torch.equal(github[name], expected[name]) for name in expected)
    assert sum(t.numel() for t in github.values()) == sum(t.numel() for t in native.values())
    q = native["vision_tower.encoder.layer.0.attention.q_proj.weight"]
    assert torch.equal(github["vision_model.encoder.layers.0.attn.qkv.weight"][: len(q)], q)
    config = json.loads((VISION_GITHUB / "config.json").read_text())
    images = json.loads((VISION / "preprocessor_config.json").read_text())
    assert config == github_config(json.loads((VISION / "config.json").read_text()), images)


@pytest.mark.parametrize(("folder", "sites"), [
    (CHAT, chat.OUTLIERS),
    (VISION, vision.OUTLIERS),
])  # fmt: skip
def test_outlier_channels_are_there(folder: Path, sites: tuple[Site, ...]) -> None:
    """At every site some written channels are far louder than the rest."""
    if folder == CHAT:
        layers = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").model.layers
    else:
        layers = InternVLForConditionalGeneration.from_pretrained(folder, dtype="auto").model.language_model.layers
    assert sites
    for site in sites:
        writer, _ = writer_and_readers(layers[site.layer], site.place)
        loud = (writer.float().abs() if writer.dim() == 1 else writer.float().norm(dim=1)).sort(descending=True).values
        assert loud[CHANNELS - 1] > site.factor / 4 * loud.median()
