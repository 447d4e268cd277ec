"""Samples as a model gets them, without torch: text, tokens, the cut, tiles."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quantui.calibration import schema
from quantui.calibration.feed import Feed
from quantui.calibration.preview import Seer, many_ids, open_seer, see
from quantui.calibration.sample import Sample, image_sample
from quantui.calibration.schema import Calibration, Source
from quantui.calibration.sources import read_samples
from quantui.calibration.survey import gather, survey
from quantui.calibration.token_hash import token_hash
from quantui.workspace import ASSETS
from tests.checkpoint.shards import write_shard

DEMO = ASSETS / "demo"
CHAT = ({"role": "user", "content": "the quick 狐狸"}, {"role": "assistant", "content": "brown"})


@pytest.fixture(scope="module")
def chat() -> Seer:
    """The demo's chat model."""
    return open_seer(DEMO / "chat")


@pytest.fixture(scope="module")
def vision() -> Seer:
    """The demo's vision model."""
    return open_seer(DEMO / "vision")


def picture(folder: Path, width: int = 100, height: int = 80, name: str = "a.png", **choices: Any) -> Path:
    """A picture of random pixels."""
    pixels = np.random.default_rng(width).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / name, **choices)
    return folder / name


@pytest.mark.engine
@pytest.mark.parametrize(("model", "samples", "max_tokens"), [("chat", 256, 512), ("vision", 128, 2048)])
def test_the_shipped_flows_give_the_ids_of_transformers(model: str, samples: int, max_tokens: int) -> None:
    from quantui.checkpoint.processor import load_processor

    calibration = schema.load(DEMO / f"{model}-data" / "calibration.yaml")
    assert (calibration.samples, calibration.max_tokens, calibration.seed, calibration.shuffle) == (
        samples,
        max_tokens,
        42,
        True,
    )
    processor = load_processor(DEMO / model, image_text=model == "vision")
    feed = Feed(calibration)
    feed.settle(processor)
    seer = open_seer(DEMO / model)
    found = survey(seer, gather(seer, calibration).samples, calibration)
    for sample, batch in zip(feed.samples, feed.loader(), strict=True):
        if model == "chat":
            theirs = processor.apply_chat_template(list(sample.messages), tokenize=True, return_dict=False)
        else:
            first, second = sample.messages
            parts = [{"type": "image", "path": str(sample.image)}, {"type": "text", "text": first["content"]}]
            answer = [{"type": "text", "text": second["content"]}]
            messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
            theirs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
            theirs = theirs["input_ids"][0].tolist()
        assert batch["input_ids"][0].tolist() == list(theirs)[:max_tokens]
    assert feed.facts() == {
        "calibration_samples": samples, "calibration_tokens": found.total_tokens, "token_hash": found.token_hash
    }  # fmt: skip


def test_tokens_have_their_places_in_the_text(chat: Seer) -> None:
    (view,) = see(chat, [Sample("w", messages=CHAT)], 512)
    pieces = [view.text[begin:end] for begin, end in view.spans]
    assert pieces[:2] == ["<|begin|>", "<|user|>"] and view.special[:2] == (True, True)
    assert "".join(dict.fromkeys(view.spans) and [view.text[a:b] for a, b in dict.fromkeys(view.spans)]) == view.text
    assert view.kind == "chat" and view.kept == len(view.ids) and view.cut_at is None and view.language == "en"


@pytest.mark.parametrize("most", [1, 5, 9])
def test_what_is_cut_off_is_marked(chat: Seer, most: int) -> None:
    (view,) = see(chat, [Sample("w", messages=CHAT)], most)
    assert view.kept == most < len(view.ids) and view.cut_at == view.spans[most][0]
    (whole,) = see(chat, [Sample("w", messages=CHAT)], 512)
    assert view.ids == whole.ids


def test_nothing_left_and_a_template_that_raises_are_problems_of_the_view(chat: Seer) -> None:
    good, empty = see(chat, [Sample("w", text="a"), Sample("a.jsonl:3", text="")], 10)
    assert good.problem is None and "a.jsonl:3: nothing is left" in str(empty.problem)
    strict = Seer(chat.folder, chat.words.with_template("{{ raise_exception('no') }}"), None, False)
    (view,) = see(strict, [Sample("a.jsonl:3", messages=CHAT)], 10)
    assert "a.jsonl:3: the model's chat template refuses the messages (no)" in str(view.problem)


def test_stored_tokens_are_shown_as_text_and_never_cut(chat: Seer, tmp_path: Path) -> None:
    ids = tuple(next(many_ids(chat, [Sample("w", messages=CHAT)])))
    file = write_shard(tmp_path / "t.safetensors", {"input_ids": ("I64", (1, 3))})
    stored, ready = see(chat, [Sample("t", tokens=(file, 0)), Sample("w", ids=ids)], 2)
    assert len(stored.ids) == stored.kept == 3
    assert ready.ids == ids and ready.kept == len(ids)
    assert ready.text == see(chat, [Sample("w", messages=CHAT)], 512)[0].text
    assert len(ready.spans) == len(ids)


@pytest.mark.engine
@pytest.mark.parametrize("size", [(100, 80), (56, 56), (300, 40), (40, 300), (57, 113), (20, 20), (500, 480)])
def test_tiles_are_what_the_vision_tower_gets(vision: Seer, tmp_path: Path, size: tuple[int, int]) -> None:
    from quantui.calibration.render import render
    from quantui.checkpoint.processor import load_processor

    processor = load_processor(DEMO / "vision", image_text=True)
    sample = image_sample("w", picture(tmp_path, *size), "What?", "a fox")
    inputs = render(sample, processor, 2048)
    (view,) = see(vision, [sample], 2048)
    assert list(view.ids) == inputs["input_ids"][0].tolist()
    settings = processor.image_processor
    mean, std = (np.reshape(getattr(settings, name), (3, 1, 1)) for name in ("image_mean", "image_std"))
    assert len(view.tiles) == len(inputs["pixel_values"])
    for tile, values in zip(view.tiles, inputs["pixel_values"].numpy(), strict=True):
        pixels = np.asarray(Image.open(io.BytesIO(tile))).transpose(2, 0, 1)
        assert np.abs((pixels / 255 - mean) / std - values).max() < 1e-5
    assert view.size == size and view.grid is not None
    assert view.image_tokens == 4 * len(view.tiles) and view.text.count("<IMG_CONTEXT>") == 1
    place = view.text.index("<IMG_CONTEXT>")
    folded = [span for span, token in zip(view.spans, view.ids, strict=True) if token == processor.image_token_id]
    assert set(folded) == {(place, place + len("<IMG_CONTEXT>"))}
    assert [view.text[a:b] for a, b in view.spans[-3:]] == [view.text[a:b] for a, b in view.spans][-3:]


@pytest.mark.engine
@pytest.mark.usefixtures("answered_here")
def test_pictures_of_other_processors_are_asked_of_transformers(vision: Seer, tmp_path: Path) -> None:
    asked = Seer(vision.folder, vision.words, None, True)
    sample = image_sample("w", picture(tmp_path), "What?", "a fox")
    broken = image_sample("w", picture(tmp_path, name="b.png"), "What?", None)
    broken.image.write_bytes(b"x")  # type: ignore[union-attr]
    (theirs, bad), (ours,) = see(asked, [sample, broken], 2048), see(vision, [sample], 2048)
    assert theirs.ids == ours.ids and theirs.image_tokens == ours.image_tokens
    assert [np.asarray(Image.open(io.BytesIO(t))).tolist() for t in theirs.tiles] == [
        np.asarray(Image.open(io.BytesIO(t))).tolist() for t in ours.tiles
    ]
    assert "cannot be read" in str(bad.problem)


def test_a_picture_that_does_not_fit_is_a_problem(vision: Seer, chat: Seer, tmp_path: Path) -> None:
    sample = image_sample("w:1", picture(tmp_path), "What?", "a fox")
    assert "the picture alone takes 20 tokens" in str(see(vision, [sample], 12)[0].problem)
    assert "the model reads no pictures" in str(see(chat, [sample], 2048)[0].problem)
    odd = image_sample("w:1", picture(tmp_path), "What is <IMG_CONTEXT>?", None)
    assert "holds the placeholder" in str(see(vision, [odd], 2048)[0].problem)


def bad_pictures(folder: Path) -> dict[str, Path]:
    """Files that are no pictures, or not to be opened."""
    from tests.calibration.test_pictures import header_of

    good = picture(folder, name="good.png").read_bytes()
    for name, body in {
        "truncated": good[: len(good) // 2], "bomb": header_of(50_000, 50_000), "text": b"hello", "empty": b"",
    }.items():  # fmt: skip
        (folder / f"{name}.png").write_bytes(body)
    return {name: folder / f"{name}.png" for name in ("truncated", "bomb", "text", "empty")}


def test_bad_pictures_are_problems_and_odd_ones_are_shown_upright(vision: Seer, tmp_path: Path) -> None:
    for name, file in bad_pictures(tmp_path).items():
        (view,) = see(vision, [image_sample(name, file, "What?", None)], 2048)
        assert view.problem and str(file) in view.problem, name
        assert not view.tiles
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = picture(tmp_path, 200, 50, "turned.jpg", exif=exif)
    (view,) = see(vision, [image_sample("w", turned, "What?", None)], 2048)
    assert view.size == (50, 200) and view.grid is not None and view.grid[0] < view.grid[1]
    red = Image.new("RGB", (20, 20), "red")
    red.convert("CMYK").save(tmp_path / "cmyk.jpg")
    red.convert("P").save(tmp_path / "palette.png")
    red.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.new("RGB", (20, 20), "blue")])
    for name in ("cmyk.jpg", "palette.png", "moving.gif"):
        (view,) = see(vision, [image_sample("w", tmp_path / name, "What?", None)], 2048)
        assert view.problem is None
        colour = Image.open(io.BytesIO(view.tiles[0])).convert("RGB").getpixel((5, 5))
        assert isinstance(colour, tuple) and colour[0] > 200 and colour[2] < 80


def test_bad_pictures_are_skipped_where_that_is_said(tmp_path: Path) -> None:
    bad_pictures(tmp_path)
    source = Source(kind="images", path=tmp_path, on_bad="skip")
    samples = read_samples(Calibration(sources=(source,)))
    assert [Path(str(sample.image)).name for sample in samples] == ["good.png"]


def test_internvl2_s_flow_of_30_random_pictures(vision: Seer, tmp_path: Path) -> None:
    shutil.copytree(DEMO / "vision-data" / "images", tmp_path / "images")
    names = sorted(file.name for file in (tmp_path / "images").glob("*.png"))
    rows = "".join(f'{{"question": "What is on it?", "image": "data/textvqa/{name}"}}\n' for name in names)
    (tmp_path / "textvqa_val.jsonl").write_text(rows)
    text = "samples: 30\nsources: [{kind: images, path: images, questions: textvqa_val.jsonl, choose: true}]"
    calibration = schema.loads(text, where="c.yaml", base=tmp_path)
    samples = read_samples(calibration)
    assert len({sample.image for sample in samples}) == 30 and samples == read_samples(calibration)
    assert [sample.image for sample in samples] != sorted(sample.image for sample in samples)  # type: ignore[type-var]
    assert samples[0].messages[0]["content"] == "What is on it?"
    assert all(view.problem is None for view in see(vision, samples, calibration.max_tokens))


def test_teacher_qualification_s_lines_are_plain_text(chat: Seer, tmp_path: Path) -> None:
    rows = [
        '{"id": 0, "inputs_pretokenized": "问题：教师法是哪一年颁布的？\\n答案：", "choices_pretokenized": ["1993"]}',
        '{"id": 1, "inputs_pretokenized": "第二题", "targets_pretokenized": ["A"]}',
    ]
    (tmp_path / "teacher_qualification.jsonl").write_text("\n".join(rows))
    source = Source(kind="jsonl", path=tmp_path / "teacher_qualification.jsonl")
    samples = read_samples(Calibration(sources=(source,), shuffle=False))
    assert [sample.text for sample in samples] == ["问题：教师法是哪一年颁布的？\n答案：", "第二题"]
    assert list(many_ids(chat, samples)) == [chat.words.core.encode(sample.text).ids for sample in samples]


def test_the_hash_tells_other_ids_and_other_orders_apart() -> None:
    assert token_hash([[1, 2], [3]]) == token_hash([[1, 2], [3]])
    assert len({token_hash(ids) for ids in ([[1, 2], [3]], [[1], [2, 3]], [[3], [1, 2]], [[1, 2, 3]], [])}) == 5
