"""The calibration file: its defaults, and what is wrong with others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from quantui.calibration.schema import Calibration, Source, load, loads, read_text
from quantui.errors import CalibrationError

JSONL = "sources:\n  - kind: jsonl\n    path: a.jsonl\n"
IMAGES = "sources:\n  - kind: images\n    path: pictures\n    questions: q.jsonl\n"


def refused(source: str) -> CalibrationError:
    """The error that this text raises."""
    with pytest.raises(CalibrationError) as caught:
        loads(source, where="c.yaml", base=Path("/data"))
    assert caught.value.todo and "\n" not in str(caught.value)
    return caught.value


def test_text_has_256_samples_of_512_tokens_shuffled_with_seed_42() -> None:
    made = loads(JSONL, where="c.yaml", base=Path("/data"))
    assert (made.samples, made.max_tokens, made.shuffle, made.seed) == (256, 512, True, 42)
    assert made.sources == (Source(kind="jsonl", path=Path("/data/a.jsonl")),)
    assert not made.has_images


def test_pictures_have_512_samples_of_2048_tokens() -> None:
    for source in (IMAGES, JSONL + IMAGES.partition("\n")[2]):
        made = loads(source, where="c.yaml", base=Path("/data"))
        assert (made.samples, made.max_tokens) == (512, 2048)
        assert made.has_images
    assert made.sources[-1].questions == Path("/data/q.jsonl")
    assert made.sources[-1].question == "What does the image show?"


def test_what_is_said_counts() -> None:
    made = loads(IMAGES + "samples: 3\nmax_tokens: 7\nshuffle: false\nseed: 0\n", where="c", base=Path())
    assert (made.samples, made.max_tokens, made.shuffle, made.seed) == (3, 7, False, 0)


def test_paths_start_at_the_file_unless_they_are_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "deep").mkdir()
    file = tmp_path / "deep" / "c.yaml"
    names = ("a.jsonl", "../b.jsonl", "/data/c.jsonl", "~/d.jsonl")
    file.write_text(yaml.safe_dump({"sources": [{"kind": "jsonl", "path": name} for name in names]}))
    paths = [source.path for source in load(file).sources]
    assert paths == [file.parent / "a.jsonl", tmp_path / "b.jsonl", Path("/data/c.jsonl"), tmp_path / "home" / "d.jsonl"]


BAD = {
    "nothing": ("", 1, "empty or no mapping"),
    "a list": ("- kind: jsonl", 1, "empty or no mapping"),
    "a word": ("jsonl", 1, "empty or no mapping"),
    "no sources": ("samples: 5", 1, "sources: Field required"),
    "empty sources": ("sources: []", 1, "sources: "),
    "sources is a number": ("sources: 5", 1, "sources: "),
    "sources is a word": ("sources: a.jsonl", 1, "sources: "),
    "sources is null": ("samples: 1\nsources:", 2, "sources: "),
    "a source is a word": ("sources:\n  - a.jsonl", 2, "sources.0: "),
    "no kind": ("sources:\n  - path: a", 2, "sources.0.kind: Field required"),
    "unknown kind": ("sources:\n  - path: a\n    kind: xml", 3, "sources.0.kind: "),
    "no path": ("sources:\n  - kind: jsonl", 2, "sources.0: kind jsonl needs path"),
    "path is a number": ("sources:\n  - kind: jsonl\n    path: 5", 3, "sources.0.path: "),
    "path with NUL": ('sources:\n  - kind: jsonl\n    path: "a\\0b"', 3, "embedded null byte"),
    "path of nobody": ("sources:\n  - kind: jsonl\n    path: ~nobody-at-all/x", 3, "cannot be used"),
    "path without end": ("sources:\n  - kind: jsonl\n    path: " + "x/" * 4000, 3, "too long"),
    "questions with NUL": ('sources:\n  - kind: images\n    path: a\n    questions: "\\0"', 4, "embedded null byte"),
    "questions of text": (
        "sources:\n  - kind: jsonl\n    path: a\n    questions: b",
        2,
        "questions goes with kind images, not jsonl",
    ),
    "unknown key": (JSONL + "sample: 5", 4, "unknown key sample"),
    "unknown key of a source": (JSONL + "    file: x", 4, "unknown key sources.0.file"),
    "a key that is no text": (JSONL + "5: x", 4, "5"),
    "no samples": (JSONL + "samples: 0", 4, "samples: "),
    "fewer than none": (JSONL + "samples: -1", 4, "samples: "),
    "samples in words": (JSONL + "samples: many", 4, "samples: "),
    "samples by half": (JSONL + "samples: 1.5", 4, "samples: "),
    "samples is true": (JSONL + "samples: true", 4, "samples: "),
    "samples is null": (JSONL + "samples: null", 4, "samples: "),
    "no tokens": (JSONL + "samples: 5\nmax_tokens: 0", 5, "max_tokens: "),
    "shuffle in words": (JSONL + "shuffle: perhaps", 4, "shuffle: "),
    "negative seed": (JSONL + "seed: -1", 4, "seed: "),
    "twice": (JSONL + "samples: 1\nsamples: 2", 5, "'samples' stands twice"),
    "not YAML": ("sources: [", 1, "not valid YAML"),
}


@pytest.mark.parametrize(("source", "line", "what"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_is_named_with_its_line(source: str, line: int, what: str) -> None:
    error = refused(source)
    assert what in error.what
    assert error.where.split(":")[:2] == ["c.yaml", str(line)]


def test_an_unknown_key_comes_with_the_valid_ones() -> None:
    todo = refused(JSONL + "sample: 5").todo
    assert all(name in todo for name in Calibration.model_fields)
    todo = refused(JSONL + "    file: x").todo
    assert all(name in todo for name in Source.model_fields) and "samples" not in todo


def test_everything_that_is_wrong_is_told_at_once() -> None:
    what = refused("sources: []\nsamples: x\nmore: 1").what
    assert "sources: " in what and "samples: " in what and "unknown key more" in what


keys = st.sampled_from([*Calibration.model_fields, *Source.model_fields, "x"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["jsonl", "images"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


@given(body=st.dictionaries(keys, values, max_size=5))
def test_no_file_raises_anything_but_a_calibration_error(body: dict[str, Any]) -> None:
    try:
        loads(yaml.safe_dump(body), where="c.yaml", base=Path("/data"))
    except CalibrationError as error:
        assert error.where.startswith("c.yaml")


# --- reading files


def test_a_file_is_read_whatever_its_line_ends_and_mark(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    for body in (JSONL.encode(), b"\xef\xbb\xbf" + JSONL.encode(), JSONL.replace("\n", "\r\n").encode()):
        file.write_bytes(body)
        assert load(file).sources[0].path == tmp_path / "a.jsonl"


@pytest.mark.parametrize(("body", "line"), [(b"\xff", 1), (b"a\nb\n\xe4\n", 3), (b"\xef\xbb\xbfa\r\n\xc3", 2), (b"\0\x80", 1)])
def test_text_that_is_not_utf8_names_the_line(tmp_path: Path, body: bytes, line: int) -> None:
    file = tmp_path / "c.yaml"
    file.write_bytes(body)
    with pytest.raises(CalibrationError, match="not UTF-8") as caught:
        read_text(file)
    assert caught.value.where == f"{file}:{line}"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="No such file"):
        load(tmp_path / "gone.yaml")
    for path in (tmp_path, Path("/dev/zero")):  # which has no end
        with pytest.raises(CalibrationError, match="folder or device"):
            load(path)


def test_a_file_that_is_far_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c.yaml").open("wb") as file:
        file.truncate(500_000_000_000)  # a hole
    with pytest.raises(CalibrationError, match="more than 4 MB"):
        load(tmp_path / "c.yaml")


# --- options that belong together


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("sources: [{kind: texts, texts: [a], path: b}]", "path goes with kind jsonl or"),
        ("sources: [{kind: texts}]", "kind texts needs texts"),
        ("sources: [{kind: jsonl, path: a, split: train}]", "split goes with kind dataset or hub, not jsonl"),
        ("sources: [{kind: jsonl, path: a, weight: 0}]", "weight"),
        ("sources: [{kind: jsonl, path: a, weight: .inf}]", "weight"),
        ("sources: [{kind: images, path: a, choose: 0}]", "choose"),
        ("sources: [{kind: jsonl, path: a, on_bad: ignore}]", "on_bad"),
        (JSONL + "pack: true\nlong: windows", "pack cuts everything into windows already"),
        (JSONL + "long: split", "long"),
        (JSONL + "languages: {fr: 1}", "languages"),
        (JSONL + "languages: {en: 0}", "languages needs a share"),
        (JSONL + "    weight: 2\nlanguages: {en: 1}", "give one or the other"),
        (JSONL + 'template: ""', "template"),
        (JSONL + 'template: "a\\0.jinja"', "embedded null byte"),
    ],
)
def test_options_that_do_not_go_together_are_named(text: str, what: str) -> None:
    assert what in refused(text).what


def test_true_chooses_thirty_and_templates_start_at_the_file() -> None:
    made = loads("sources: [{kind: images, path: a, choose: true}]\ntemplate: t.jinja", where="c", base=Path("/data"))
    assert made.sources[0].choose == made.samples == 30 and made.template == "/data/t.jinja"
    assert loads(JSONL + "template: plain", where="c", base=Path("/data")).template == "plain"
    assert loads(JSONL + "template: '{{ x }}.jinja'", where="c", base=Path("/data")).template == "{{ x }}.jinja"


def test_only_mixes_drop_equals_by_themselves() -> None:
    plain, mixed = loads(JSONL, where="c", base=Path()), loads(JSONL + "    weight: 2", where="c", base=Path())
    assert (plain.weighted, plain.drops_equals, mixed.weighted, mixed.drops_equals) == (False, False, True, True)
    assert mixed.model_copy(update={"dedupe": False}).drops_equals is False


def test_a_wrong_value_is_not_answered_with_the_valid_keys() -> None:
    assert refused(JSONL + "samples: 1e9").todo == "correct the value"
    assert refused(JSONL + "sampels: 3").todo.startswith("valid keys are sources, ")
