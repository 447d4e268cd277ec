"""Datasets on disk, in every form that is read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantui.calibration.columnar import Parquet
from quantui.calibration.schema import Calibration, Source
from quantui.calibration.sources import read_samples, read_source
from quantui.calibration.tables import open_dataset, parse_split
from quantui.errors import AccessError, CalibrationError

ROWS = [{"text": f"row {i}", "other": i} for i in range(30)]
FORMS = ("a.parquet", "a.arrow", "a.feather", "a.csv", "a.tsv", "a.jsonl", "a.json")


def write(file: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    """The rows in the form that the name says."""
    table = pa.Table.from_pylist(rows)
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        pq.write_table(table, file, row_group_size=7)
    elif file.suffix == ".arrow":
        with pa.ipc.new_stream(str(file), table.schema) as out:
            out.write_table(table, max_chunksize=4)
    elif file.suffix == ".feather":
        with pa.ipc.new_file(str(file), table.schema) as out:
            out.write_table(table)
    elif file.suffix in (".csv", ".tsv"):
        sign = "," if file.suffix == ".csv" else "\t"
        file.write_text("\n".join(sign.join(map(str, cells)) for cells in [list(rows[0]), *(row.values() for row in rows)]))
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def texts(path: Path, **choices: Any) -> list[str | None]:
    """The texts of a dataset source."""
    return [sample.text for sample in read_source(Source(kind="dataset", path=path, **choices))]


def refused(path: Path, **choices: Any) -> CalibrationError:
    """The error that this dataset raises."""
    with pytest.raises(CalibrationError) as caught:
        texts(path, **choices)
    assert caught.value.todo and "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    assert texts(file) == [row["text"] for row in ROWS]
    assert texts(tmp_path) == [row["text"] for row in ROWS]
    assert texts(file, split="[3:5]") == ["row 3", "row 4"]
    assert str(tmp_path / name) in read_source(Source(kind="dataset", path=file))[8].where


@pytest.mark.parametrize("name", FORMS)
def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    for choices in ({"key": "chat"}, {"columns": {"text": "chat"}}):
        assert "there is no column chat; there are text, other" in refused(file, **choices).what
    assert texts(file, columns={"text": "text"}) == [row["text"] for row in ROWS]


def test_a_key_may_hold_text_or_messages(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}]
    write(tmp_path / "a.parquet", [{"talk": chat, "say": "a"}])
    (sample,) = read_source(Source(kind="dataset", path=tmp_path, key="talk"))
    assert list(sample.messages) == chat and not sample.complete
    assert texts(tmp_path, key="say") == ["a"]


def test_parquet_reads_only_the_row_groups_and_columns_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.parquet")
    read: list[tuple[list[int], list[str]]] = []
    real = pq.ParquetFile.iter_batches

    def watched(self: Any, size: int, *, row_groups: list[int], columns: list[str], use_threads: bool) -> Any:
        read.append((row_groups, columns))
        return real(self, size, row_groups=row_groups, columns=columns, use_threads=use_threads)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    source = Source(kind="dataset", path=file)
    samples = read_samples(Calibration(sources=(source,), samples=5, shuffle=False))
    assert [sample.text for sample in samples] == [f"row {i}" for i in range(5)]
    assert read == [([0], ["text"])]


def test_parquet_rows_come_in_any_order(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.parquet") for name in "ab"]
    table = Parquet(files)
    for index in (59, 0, 31, 30, 29, 31, 8, 7, 6):
        assert table[index]["text"] == f"row {index % 30}"
        assert table.where(index) == f"{files[index // 30]}[{index % 30}]"


def test_saved_datasets_are_read_as_datasets_itself_reads_them(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    theirs = Dataset.from_list(ROWS)
    theirs.shuffle(seed=1).save_to_disk(str(tmp_path / "one"))
    assert texts(tmp_path / "one") == theirs.shuffle(seed=1)["text"][:]
    both = DatasetDict({"train": theirs, "test": theirs.select(range(3))})
    both.save_to_disk(str(tmp_path / "two"))
    assert len(texts(tmp_path / "two")) == 30 and len(texts(tmp_path / "two", split="test")) == 3
    assert texts(tmp_path / "two", split="train[:10%]") == ["row 0", "row 1", "row 2"]
    assert "no split dev; there are test, train" in refused(tmp_path / "two", split="dev").what
    source = Source(kind="dataset", path=tmp_path / "two", split="train")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shuffled = theirs.shuffle(seed=42)["text"][:7]
    assert [sample.text for sample in read_samples(Calibration(sources=(source,), samples=7))] == shuffled


def test_splits_go_by_the_names_of_files(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00001.parquet")
    write(tmp_path / "data" / "test-00000-of-00001.parquet", ROWS[:2])
    assert len(texts(tmp_path)) == 30
    assert len(texts(tmp_path, split="test")) == 2
    assert "no file is of the split dev" in refused(tmp_path, split="dev").what
    assert "one file has no splits" in refused(tmp_path / "data" / "test-00000-of-00001.parquet", split="test").what
    assert "cannot be read" in refused(tmp_path, split="train[1:2").what
    assert parse_split("train_sft[:256]", "w") == ("train_sft", (None, "256"))


def test_a_loading_script_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d" / "a.parquet")
    (tmp_path / "d" / "d.py").write_text("raise SystemExit")
    assert "carries a loading script, d.py" in refused(tmp_path / "d").what
    assert "carries a loading script" in refused(tmp_path / "d" / "d.py").what


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name)
    for body in (b"", b"hello", file.read_bytes()[: file.stat().st_size // 3]):
        file.write_bytes(body)
        assert str(file) in refused(file).where


def test_folders_and_files_without_rows_are_refused(tmp_path: Path) -> None:
    assert "no data files" in refused(tmp_path).what
    (tmp_path / "a.txt").write_text("x")
    assert "files of this kind are not read" in refused(tmp_path / "a.txt").what
    write(tmp_path / "b" / "a.parquet", [{"text": "x"}])
    assert "holds no samples" in refused(tmp_path / "b", split="[5:]").what
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "state.json").write_text("{}")
    assert "names no data files" in refused(tmp_path / "c").what


def test_files_outside_the_roots_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "out" / "a.parquet")
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.parquet").symlink_to(tmp_path / "out" / "a.parquet")
    with pytest.raises(AccessError):
        open_dataset(inside, None, (inside,))
    (inside / "saved").mkdir()
    (inside / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "../../out/a.parquet"}]}))
    with pytest.raises(AccessError):
        open_dataset(inside / "saved", None, (inside,))


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (["a", "b"], ["a", "b"]),
        ([["a"], ["b"]], ["a", "b"]),
        ({"data": [{"text": "a"}]}, ["a"]),
        ({"text": "a"}, ["a"]),
    ],
)
def test_json_is_a_list_of_rows_or_texts(tmp_path: Path, body: Any, wanted: list[str]) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(body, indent=1))
    assert [sample.text for sample in read_source(Source(kind="json", path=file))] == wanted


def test_json_that_is_really_jsonl_or_broken(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"text": "a"}\n{"text": "b"}\n')
    assert texts(file) == ["a", "b"]
    file.write_text('[{"text": "a"},\n {"text": }]')
    assert refused(file).where == f"{file}:2"
    file.write_text("")
    assert "holds no samples" in refused(file).what
    file.write_text("[" * 100_000)
    assert "not valid JSON" in refused(file).what


def test_pictures_in_tables_are_read_when_they_are_opened(tmp_path: Path) -> None:
    import io

    from PIL import Image

    from quantui.calibration.pictures import open_picture, picture_size

    body = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(body, "PNG")
    rows = [{"image": {"bytes": body.getvalue(), "path": "x.png"}, "question": "what?", "answer": ["a", "b"]}] * 3
    write(tmp_path / "a.parquet", rows)
    sample = read_source(Source(kind="dataset", path=tmp_path))[1]
    assert picture_size(sample) == (30, 20) and open_picture(sample).getpixel((0, 0)) == (255, 0, 0)
    assert [message["content"] for message in sample.messages] == ["what?", "a b"]
