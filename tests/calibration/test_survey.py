"""A set of samples in numbers, what becomes of long ones, and what is advised."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.calibration.advice import TEXTS, advise
from quantui.calibration.arrange import arrange
from quantui.calibration.cost import ENGINE_BYTES, forecast
from quantui.calibration.feed import Feed
from quantui.calibration.preview import Seer, open_seer
from quantui.calibration.sample import Sample, image_sample
from quantui.calibration.schema import Calibration, Source, loads
from quantui.calibration.survey import Survey, gather, histogram, survey
from quantui.calibration.template import read_template
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import AccessError, CalibrationError
from quantui.workspace import ASSETS

DEMO = ASSETS / "demo"
SOURCE = Source(kind="texts", texts=("x",))


@pytest.fixture(scope="module")
def chat() -> Seer:
    """The demo's chat model."""
    return open_seer(DEMO / "chat")


def of(chat: Seer, *texts: str, **choices: Any) -> Survey:
    """The survey of plain texts."""
    samples = [Sample(f"w:{i}", text=text) for i, text in enumerate(texts)]
    return survey(chat, samples, Calibration(sources=(SOURCE,), **choices))


def test_a_set_is_counted(chat: Seer) -> None:
    lengths = [len(chat.words.core.encode(text).ids) for text in ("the fox", "狐狸", "a long text about the fox")]
    found = of(chat, "the fox", "狐狸", "a long text about the fox", "the fox", max_tokens=4, samples=9)
    every = [*lengths, lengths[0]]
    assert (found.samples, found.asked, found.duplicates, found.empty, found.pictures) == (4, 9, 1, 0, 0)
    assert list(found.lengths) == every and list(found.kept) == [min(length, 4) for length in every]
    assert found.total_tokens == sum(min(length, 4) for length in every) and found.longest == 4
    assert found.cut == sum(length > 4 for length in every) and sum(found.histogram.counts) == 4
    assert found.languages == {"en": 0.75, "zh": 0.25} and set(found.scripts) == {"Latin", "Han"}
    assert 0 < found.vocabulary_used <= found.total_tokens and found.vocabulary_size == chat.words.size
    assert found.sources == {0: 1.0} and found.kinds == {"text": 4} and len(str(found.token_hash)) == 64


def test_padding_is_in_no_number(chat: Seer) -> None:
    short, both = of(chat, "a"), of(chat, "a", "a much longer text than the other one")
    assert both.kept[0] == short.kept[0] == both.total_tokens - both.kept[1]
    pad = chat.words.core.token_to_id("<|pad|>")
    assert pad is not None and both.vocabulary_used == len(
        set(chat.words.core.encode("a").ids) | set(chat.words.core.encode("a much longer text than the other one").ids)
    )


def test_all_empty_or_all_refused_is_an_error_and_one_is_told(chat: Seer, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="all samples are empty after the cut"):
        of(chat, "", "")
    one = of(chat, "", "a")
    assert one.empty == 1
    picture = image_sample("a.jsonl:7", tmp_path / "a.png", "?", None)
    calibration = Calibration(sources=(SOURCE,))
    with pytest.raises(CalibrationError, match=r"a.jsonl:7: the model reads no pictures"):
        survey(chat, [picture], calibration)
    found = survey(chat, [picture, Sample("w", text="a")], calibration)
    assert found.samples == 1 and "a.jsonl:7" in found.problems[0]


@given(lengths=st.lists(st.integers(0, 5000), min_size=1, max_size=40), cut=st.integers(1, 5000))
def test_the_histogram_counts_every_sample_and_has_the_cut_as_an_edge(lengths: list[int], cut: int) -> None:
    found = histogram(lengths, cut)
    assert sum(found.counts) == len(lengths) and cut in found.edges and len(found.edges) == len(found.counts) + 1
    for begin, end, count in zip(found.edges, found.edges[1:], found.counts, strict=False):
        assert count == sum(begin <= length < end for length in lengths) or end == found.edges[-1]
    assert len(found.counts) <= 27


# --- advice


def keys(found: Survey, **choices: Any) -> list[str]:
    """Which warnings there are."""
    said = advise(found, **choices)
    assert all(advice.text and "{" not in advice.text for advice in said)
    return [advice.key for advice in said]


def test_advice_comes_from_the_numbers(chat: Seer) -> None:
    good = of(chat, *[f"the fox number {i} and 狐狸" for i in range(30)], samples=30)
    assert keys(good) == []
    assert (
        keys(replace(good, cut=12)) == ["cut"] and "40 % of the samples are cut at 512" in advise(replace(good, cut=12))[0].text
    )
    assert keys(good, vision_quantized=True) == ["vision_without_pictures"]
    assert keys(replace(good, samples=19)) == ["too_few"] and keys(replace(good, samples=20)) == ["fewer_than_asked"]
    assert keys(replace(good, samples=2001)) == ["too_many"]
    assert keys(replace(good, empty=1, duplicates=3)) == ["empty", "duplicates"]
    assert keys(replace(good, problems=("w: x.",))) == ["unusable"]
    assert keys(replace(good, total_tokens=20_000, vocabulary_used=1)) == ["vocabulary"]
    assert keys(replace(good, notes=("the model has no chat template: x",))) == ["no_template"]


def test_a_calibration_in_another_language_than_the_evaluation_is_told(chat: Seer) -> None:
    english = of(chat, *[f"the fox number {i}" for i in range(30)], samples=30)
    (advice,) = advise(english, evaluation_languages={"zh": 0.9, "en": 0.1})
    assert advice.text == "the calibration is mostly English, the evaluation data mostly Chinese"
    assert keys(english, evaluation_languages={"en": 0.6, "zh": 0.4}) == []
    assert set(TEXTS) >= {advice.key}


def test_the_forecast_grows_with_tokens() -> None:
    checkpoint = open_checkpoint(DEMO / "chat")
    few, many = forecast(checkpoint, 0, 1000, 100), forecast(checkpoint, 0, 100_000, 100)
    assert (
        many.seconds > 50 * few.seconds > 0
        and forecast(checkpoint, 10, 1000, 100).seconds > few.seconds
        and many.memory_bytes > few.memory_bytes > ENGINE_BYTES
    )
    assert forecast(checkpoint, 0, 1000, 100, "cuda:0").seconds < few.seconds


# --- long samples


TEXTS_OF = [f"{'the quick fox ' * (i % 4)}{i}" for i in range(12)]


def encode(sample: Sample) -> list[int]:
    """One token a word."""
    return list(range(len(sample.plain.split())))


def samples() -> list[Sample]:
    """Samples of 1, 4, 7 and 10 tokens in turn."""
    return [Sample(f"w:{i}", text=text) for i, text in enumerate(TEXTS_OF)]


def settings(**choices: Any) -> Calibration:
    """A calibration with these choices."""
    return Calibration(sources=(SOURCE,), **choices)


def test_long_samples_are_dropped_and_the_next_ones_taken() -> None:
    said: list[str] = []
    found = arrange(samples(), encode, settings(long="drop", max_tokens=4, samples=5), note=said.append)
    assert [len(encode(sample)) for sample in found] == [1, 4, 1, 4, 1]
    assert said == ["4 samples are longer than 4 tokens and were dropped"]
    with pytest.raises(CalibrationError, match="no sample is left: all are longer than 4 tokens"):
        arrange([Sample("w", text="a b c d e")], encode, settings(long="drop", max_tokens=4))


def test_long_samples_are_split_into_windows() -> None:
    found = arrange(samples(), encode, settings(long="windows", max_tokens=4, samples=7))
    assert [list(sample.ids) if sample.ids else None for sample in found] == [
        None, None, [0, 1, 2, 3], [4, 5, 6], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]
    ]  # fmt: skip
    assert found[3].where == "w:2 (tokens 4 to 7)"


def test_texts_are_packed_into_windows_of_one_size() -> None:
    found = arrange(samples(), encode, settings(pack=True, max_tokens=6, samples=3), end=99)
    assert [sample.ids for sample in found] == [(0, 99, 0, 1, 2, 3), (99, 0, 1, 2, 3, 4), (5, 6, 99, 0, 1, 2)]
    with pytest.raises(CalibrationError, match="all are shorter than 600"):
        arrange(samples(), encode, settings(pack=True, max_tokens=600))
    with pytest.raises(CalibrationError, match="a picture cannot be packed"):
        arrange([image_sample("w", Path("a.png"), "?", None)], encode, settings(pack=True))


@given(size=st.integers(1, 12), count=st.integers(1, 30), pack=st.booleans())
def test_no_token_is_lost_or_made_up(size: int, count: int, pack: bool) -> None:
    choices: dict[str, Any] = {"pack": True} if pack else {"long": "windows"}
    try:
        found = arrange(samples(), encode, settings(max_tokens=size, samples=count, **choices))
    except CalibrationError:
        return
    given_ = [token for sample in samples() for token in encode(sample)]
    made = [token for sample in found for token in (sample.ids if sample.ids is not None else encode(sample))]
    assert made == given_[: len(made)] and len(found) <= count
    assert all(sample.ids is None or len(sample.ids) <= size for sample in found)


@pytest.mark.engine
@pytest.mark.parametrize("extra", ["long: windows", "long: drop", "pack: true", "template: plain", "template: t.jinja", ""])
def test_job_and_preview_choose_the_same(chat: Seer, tmp_path: Path, extra: str) -> None:
    from quantui.checkpoint.processor import load_processor

    (tmp_path / "t.jinja").write_text("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}")
    text = f"sources: [{{kind: jsonl, path: {DEMO}/chat-data/calibration.jsonl}}]\nsamples: 40\nmax_tokens: 24\n{extra}\n"
    calibration = loads(text, where="c.yaml", base=tmp_path)
    tokenizer = load_processor(DEMO / "chat", image_text=False)
    feed = Feed(calibration)
    feed.settle(tokenizer)
    list(feed.loader())
    seer = open_seer(DEMO / "chat", read_template(calibration))
    chosen = gather(seer, calibration)
    assert survey(seer, chosen.samples, calibration).token_hash == feed.facts()["token_hash"]
    assert [note for note in feed.notes if "template" not in note] == chosen.notes
    assert tokenizer.chat_template and ("no chat template" in "".join(feed.notes)) == (extra == "template: plain")
    assert len(chosen.samples) == 40 and gather(seer, calibration, limit=7).samples == chosen.samples[:7]


def test_a_template_file_must_lie_in_the_roots(tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("x")
    calibration = loads(
        "sources: [{kind: texts, texts: [a]}]\ntemplate: ../t.jinja", where="c", base=tmp_path / "in"
    )  # fmt: skip
    assert read_template(calibration) == "x"
    with pytest.raises(AccessError):
        read_template(calibration, (tmp_path / "in",))
    assert read_template(calibration.model_copy(update={"template": "{{ messages }}"})) == "{{ messages }}"


def test_bad_lines_are_skipped_where_that_is_said(tmp_path: Path) -> None:
    rows = ['{"text": "a"}', "{", '{"other": 1}', '{"text": "b"}']
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    source = Source(kind="jsonl", path=tmp_path / "a.jsonl", on_bad="skip")
    feed = Feed(Calibration(sources=(source,), shuffle=False))
    assert [sample.text for sample in feed.samples] == ["a", "b"]
    assert "2 rows are no samples and were skipped; the first: " in feed.notes[0] and "a.jsonl:2" in feed.notes[0]
    (tmp_path / "a.jsonl").write_text(json.dumps({"other": 1}))
    with pytest.raises(CalibrationError, match="no row of its sources is a sample"):
        Feed(Calibration(sources=(source,)))
