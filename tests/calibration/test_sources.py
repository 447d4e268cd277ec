"""Samples out of their sources, and the rows that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.calibration.schema import Calibration, Source
from quantui.calibration.sources import Sample, read_samples, read_source
from quantui.errors import AccessError, CalibrationError
from tests.checkpoint.shards import write_header, write_shard

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def jsonl(folder: Path, *rows: Any, end: str = "\n") -> Source:
    """A jsonl source of these rows; text stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / "a.jsonl").write_bytes(end.join(lines).encode())
    return Source(kind="jsonl", path=folder / "a.jsonl")


def refused(source: Source, roots: tuple[Path, ...] = ()) -> CalibrationError:
    """The error that reading this source raises."""
    with pytest.raises(CalibrationError) as caught:
        read_source(source, roots)
    assert caught.value.todo and "\n" not in str(caught.value)
    return caught.value


# --- jsonl


def test_rows_of_each_kind(tmp_path: Path) -> None:
    source = jsonl(tmp_path, {"messages": CHAT}, {"messages": CHAT[:1]}, {"text": "plain"}, {"prompt": "ask", "other": 1})
    where = [f"{tmp_path}/a.jsonl:{line}" for line in range(1, 5)]
    assert read_source(source) == [
        Sample(where[0], messages=tuple(CHAT)),
        Sample(where[1], messages=(CHAT[0],), complete=False),
        Sample(where[2], text="plain"),
        Sample(where[3], messages=({"role": "user", "content": "ask"},), complete=False),
    ]


def test_a_key_that_is_null_counts_as_not_there(tmp_path: Path) -> None:
    (sample,) = read_source(jsonl(tmp_path, {"messages": None, "text": None, "prompt": "ask"}))
    assert sample.messages[0]["content"] == "ask"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_in_any_way_and_may_be_blank(tmp_path: Path, end: str) -> None:
    samples = read_source(jsonl(tmp_path, "", {"text": "a"}, "  \t", {"text": "b\u2028c\x85d"}, "", end=end))
    assert [(sample.text, sample.where.rpartition(":")[2]) for sample in samples] == [("a", "2"), ("b\u2028c\x85d", "4")]


def test_the_mark_that_some_editors_put_first_is_passed_over(tmp_path: Path) -> None:
    (sample,) = read_source(jsonl(tmp_path, '\ufeff{"text": "a"}'))
    assert sample.text == "a"


BAD_ROWS = {
    "not JSON": ("{text: a}", "not valid JSON"),
    "half a row": ('{"text": "a"', "not valid JSON"),
    "two rows on a line": ('{"text": "a"} {"text": "b"}', "not valid JSON"),
    "very deep": ("[" * 100_000, "not valid JSON"),
    "a list": ([1], "not a JSON object"),
    "a number": (5, "not a JSON object"),
    "null": ("null", "not a JSON object"),
    "other keys": ({"ask": "q", "answer": "a"}, "none of messages, text or prompt; its keys are ask, answer"),
    "no keys": ({}, "its keys are none"),
    "empty text": ({"text": ""}, "text is not text, or is empty"),
    "blank text": ({"text": " \n"}, "text is not text, or is empty"),
    "text is a number": ({"text": 5}, "text is not text"),
    "prompt is a list": ({"prompt": ["a"]}, "prompt is not text"),
    "messages are text": ({"messages": "hi"}, "messages is not a list"),
    "no messages": ({"messages": []}, "messages is not a list"),
    "a message is text": ({"messages": ["hi"]}, "messages is not a list"),
    "no content": ({"messages": [{"role": "user"}]}, "messages is not a list"),
    "content is null": ({"messages": [{"role": "user", "content": None}]}, "messages is not a list"),
    "role is a number": ({"messages": [{"role": 1, "content": "a"}]}, "messages is not a list"),
}


@pytest.mark.parametrize(("row", "what"), BAD_ROWS.values(), ids=BAD_ROWS.keys())
def test_a_row_that_is_no_sample_is_refused_with_its_line(tmp_path: Path, row: Any, what: str) -> None:
    error = refused(jsonl(tmp_path, {"text": "good"}, "", row, {"text": "good"}))
    assert what in error.what
    assert error.where == f"{tmp_path}/a.jsonl:3"


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a"}\n{"text": "\xe4"}\n')
    error = refused(Source(kind="jsonl", path=tmp_path / "a.jsonl"))
    assert error.where == f"{tmp_path}/a.jsonl:2" and "UTF-8" in error.what


def test_a_source_that_is_empty_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    for text in ("", "\n\n", "\ufeff"):
        assert "holds no samples" in refused(jsonl(tmp_path, text)).what
    assert "no such file" in refused(Source(kind="jsonl", path=tmp_path / "gone")).what
    assert "folder or device" in refused(Source(kind="jsonl", path=tmp_path)).what


@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from(["messages", "text", "prompt", "x"]), st.none() | st.text() | st.lists(st.text())),
        max_size=4,
    )
)
def test_no_row_raises_anything_but_a_calibration_error(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    try:
        samples = read_source(jsonl(tmp_path_factory.getbasetemp(), *rows))
    except CalibrationError:
        return
    assert len(samples) == len(rows)


# --- pictures


def pictures(folder: Path, *names: str) -> Path:
    """A folder of files with these names; nobody looks inside them here."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_folder_gives_its_pictures_by_name_with_one_question(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "p", "b.png", "a.JPG", "deep/c.webp", "notes.txt", "d.png.part")
    (folder / "folder.png").mkdir()
    samples = read_source(Source(kind="images", path=folder, question="what?"))
    assert [sample.image for sample in samples] == [folder / "a.JPG", folder / "b.png", folder / "deep/c.webp"]
    assert samples[0].messages == ({"role": "user", "content": "what?"},) and not samples[0].complete


def questions(folder: Path, *rows: Any) -> Source:
    """Pictures a.png and b.png with questions of these rows."""
    pictures(folder, "p/a.png", "p/b.png")
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Source(kind="images", path=folder / "p", questions=folder / "q.jsonl")


def test_questions_go_with_their_pictures(tmp_path: Path) -> None:
    rows = ({"image": "p/b.png", "question": "q?", "answer": "yes"}, {"image": "p/a.png"})
    first, second = read_source(questions(tmp_path, *rows))
    assert first.image == tmp_path / "p/b.png" and first.complete
    assert [message["content"] for message in first.messages] == ["q?", "yes"]
    assert second.messages == ({"role": "user", "content": "What does the image show?"},) and not second.complete


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"question": "q?"}, "has no image"),
        ({"image": 5}, "has no image"),
        ({"image": "p/gone.png"}, "no picture p/gone.png"),
        ({"image": "p"}, "no picture p"),
        ({"image": ""}, "no picture"),
        ({"image": "a\0b"}, "embedded null byte"),
        ({"image": "x" * 5000}, "too long"),
        ({"image": "p/a.png", "question": 5}, "must be text"),
        ({"image": "p/a.png", "answer": ["yes"]}, "must be text"),
        ({"image": "p/a.png", "question": None}, "must be text"),
    ],
)
def test_a_question_without_its_picture_is_refused_with_its_line(tmp_path: Path, row: Any, what: str) -> None:
    error = refused(questions(tmp_path, {"image": "p/a.png"}, row))
    assert what in error.what
    assert error.where == f"{tmp_path}/q.jsonl:2"


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path / "p", "notes.txt")
    assert "holds no samples" in refused(Source(kind="images", path=tmp_path / "p")).what
    assert "not a folder of pictures" in refused(Source(kind="images", path=tmp_path / "p/notes.txt")).what
    assert "no such file" in refused(Source(kind="images", path=tmp_path / "gone")).what


# --- tokens


def test_every_row_of_a_token_file_is_a_sample(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "t.safetensors", {"input_ids": ("I64", (3, 5)), "other": ("F32", (1,))})
    samples = read_source(Source(kind="tokens", path=file))
    assert [sample.tokens for sample in samples] == [(file, 0), (file, 1), (file, 2)]
    assert samples[1].where == f"{file}[1]"


@pytest.mark.parametrize(
    "tensors",
    [{"ids": ("I64", (3, 5))}, {"input_ids": ("I64", (15,))}, {"input_ids": ("I64", (1, 3, 5))}, {"input_ids": ("I32", (3, 5))},
     {"input_ids": ("F32", (3, 5))}, {"input_ids": ("I64", (10**12, 0))}],
)  # fmt: skip
def test_other_tensors_are_no_tokens(tmp_path: Path, tensors: Any) -> None:
    file = write_shard(tmp_path / "t.safetensors", tensors)
    assert "no input_ids of shape (N, L)" in refused(Source(kind="tokens", path=file)).what


def test_a_token_file_that_is_empty_broken_or_none_is_refused(tmp_path: Path) -> None:
    file = write_shard(tmp_path / "t.safetensors", {"input_ids": ("I64", (0, 5))})
    assert "holds no samples" in refused(Source(kind="tokens", path=file)).what
    write_header(file, b"{]")
    error = refused(Source(kind="tokens", path=file))
    assert "header" in error.what and "(N, L) int64" in error.todo
    file.write_text("hello")
    assert "truncated" in refused(Source(kind="tokens", path=file)).what


# --- which samples, and in which order


def numbered(folder: Path, count: int, name: str = "a.jsonl") -> Source:
    """A source whose texts are numbers."""
    (folder / name).write_text("".join(json.dumps({"text": str(i)}) + "\n" for i in range(count)))
    return Source(kind="jsonl", path=folder / name)


def taken(*sources: Source, **choices: Any) -> list[int]:
    """The numbers that a calibration takes."""
    return [int(sample.text or "") for sample in read_samples(Calibration(sources=sources, **choices))]


@pytest.mark.parametrize(
    ("count", "seed", "samples"), [(1, 42, 256), (10, 42, 4), (300, 42, 256), (257, 0, 256), (50, 2**40, 50)]
)
def test_shuffling_draws_what_datasets_draws(tmp_path: Path, count: int, seed: int, samples: int) -> None:
    from datasets import Dataset

    theirs = Dataset.from_dict({"text": [str(i) for i in range(count)]}).shuffle(seed=seed)["text"][:samples]
    assert taken(numbered(tmp_path, count), seed=seed, samples=samples) == [int(text) for text in theirs]


def test_without_shuffling_the_first_are_taken(tmp_path: Path) -> None:
    assert taken(numbered(tmp_path, 10), shuffle=False, samples=4) == [0, 1, 2, 3]
    assert taken(numbered(tmp_path, 3), shuffle=False, samples=4) == [0, 1, 2]


def test_sources_follow_one_another_and_are_shuffled_together(tmp_path: Path) -> None:
    one, two = numbered(tmp_path, 3), numbered(tmp_path, 2, "b.jsonl")
    assert taken(one, two, shuffle=False) == [0, 1, 2, 0, 1]
    assert taken(one, two, samples=5) != [0, 1, 2, 0, 1]
    assert sorted(taken(one, two, samples=5)) == [0, 0, 1, 1, 2]


# --- allowed roots


def test_sources_must_lie_in_the_roots(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    assert read_source(jsonl(inside, {"text": "a"}), (inside,))
    with pytest.raises(AccessError, match="--allow"):
        read_source(jsonl(outside, {"text": "a"}), (inside,))
    with pytest.raises(AccessError):
        read_source(Source(kind="jsonl", path=inside / ".." / "out" / "a.jsonl"), (inside,))
    with pytest.raises(AccessError):
        read_source(Source(kind="jsonl", path=outside / "not even there"), (inside,))


def test_links_that_lead_out_of_the_roots_are_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    pictures(outside, "a.png")
    (inside / "a.jsonl").symlink_to(jsonl(outside, {"text": "a"}).path)
    (inside / "pictures").symlink_to(outside)
    (inside / "b.png").symlink_to(outside / "a.png")
    for source in (
        Source(kind="jsonl", path=inside / "a.jsonl"),
        Source(kind="images", path=inside / "pictures"),
        Source(kind="images", path=inside),  # which holds a link to a picture
    ):
        with pytest.raises(AccessError):
            read_source(source, (inside,))
        assert read_source(source)


def test_questions_and_their_pictures_must_lie_in_the_roots_too(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    good = questions(inside, {"image": "p/a.png"})
    assert read_source(good, (inside,))
    pictures(outside, "a.png")
    with pytest.raises(AccessError):
        read_source(questions(inside, {"image": "../out/a.png"}), (inside,))
    with pytest.raises(AccessError):
        read_source(questions(inside, {"image": str(outside / "a.png")}), (inside,))
    (outside / "q.jsonl").write_text('{"secret": "of another user"}')
    with pytest.raises(AccessError) as caught:
        read_source(good.model_copy(update={"questions": outside / "q.jsonl"}), (inside,))
    assert "secret" not in str(caught.value)
