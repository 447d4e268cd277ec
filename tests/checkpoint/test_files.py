"""Model folders as they lie on disk, whole and broken in every way."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.checkpoint.files import ITEM_BITS, open_checkpoint, read_config, read_header
from quantui.errors import CheckpointError
from tests.checkpoint.shards import (
    LLAMA,
    entries,
    llama_tensors,
    write_config,
    write_header,
    write_index,
    write_llama,
    write_shard,
)

TWO = {"a": ("F32", (2, 3)), "b": ("BF16", (4,))}


def refused(file: Path) -> CheckpointError:
    """The error that reading this shard raises; it names the file and says what to do."""
    with pytest.raises(CheckpointError) as caught:
        read_header(file)
    assert caught.value.where == str(file)
    assert caught.value.todo
    return caught.value


def test_a_header_gives_every_tensor_with_dtype_shape_and_size(tmp_path: Path) -> None:
    shapes = {f"t.{dtype}": (dtype, (4, 2)) for dtype in ITEM_BITS} | {"scalar": ("F32", ()), "empty": ("I8", (0, 7))}
    tensors = read_header(write_shard(tmp_path / "x.safetensors", shapes))
    assert {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()} == shapes
    assert tensors["t.F32"].nbytes == 32 and tensors["t.BF16"].nbytes == 16 and tensors["t.F4"].nbytes == 4
    assert tensors["scalar"].elements == 1 and tensors["empty"].nbytes == 0
    assert {tensor.shard for tensor in tensors.values()} == {tmp_path / "x.safetensors"}


def test_metadata_and_padding_are_passed_over(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {"format": "pt"}, **entries(TWO)}).encode() + b"     "
    assert set(read_header(write_header(tmp_path / "x.safetensors", header, 32))) == {"a", "b"}


def test_the_order_of_the_header_need_not_be_that_of_the_data(tmp_path: Path) -> None:
    backwards = dict(reversed(entries(TWO).items()))
    assert list(read_header(write_header(tmp_path / "x.safetensors", backwards, 32))) == ["b", "a"]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 40])
def test_a_file_cut_inside_its_header_is_truncated(tmp_path: Path, size: int) -> None:
    file = write_shard(tmp_path / "x.safetensors", TWO)
    file.write_bytes(file.read_bytes()[:size])
    assert "truncated" in refused(file).what


@pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (-32, "truncated"), (1, "longer")])
def test_data_of_another_size_than_promised_is_refused(tmp_path: Path, change: int, word: str) -> None:
    file = write_shard(tmp_path / "x.safetensors", TWO)
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(size + change)
    error = refused(file)
    assert word in error.what and str(size) in error.what and str(size + change) in error.what


@pytest.mark.parametrize("length", [0, 1, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_that_cannot_be_is_refused_without_reading_it(tmp_path: Path, length: int) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(struct.pack("<Q", length) + b"{}")
    with file.open("r+b") as opened:
        opened.truncate(200_000_000)  # a hole: there is room for the header that is claimed
    assert "no safetensors file" in refused(file).what


def test_a_git_lfs_pointer_is_called_one(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    assert "git lfs pull" in refused(file).todo


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    """One entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


BROKEN: dict[str, Any] = {
    "not JSON": b"{]",
    "not UTF-8": b'{"\xff": 1}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "no object": b"[]",
    "a number": b"17",
    "very deep": b"[" * 100_000 + b"]" * 100_000,
    "entry is no object": {"a": 5},
    "no dtype": {"a": {"shape": [2], "data_offsets": [0, 8]}},
    "unknown dtype": {"a": entry("Q7")},
    "dtype is a list": {"a": entry(["F32"])},
    "no shape": {"a": {"dtype": "F32", "data_offsets": [0, 8]}},
    "shape is a number": {"a": entry(shape=2)},
    "negative shape": {"a": entry(shape=[-1, -2])},
    "fractional shape": {"a": entry(shape=[2.0])},
    "shape of truth": {"a": entry(shape=[True, 2])},
    "endless shape": b'{"a": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 8]}}',
    "no offsets": {"a": {"dtype": "F32", "shape": [2]}},
    "three offsets": {"a": entry(offsets=[0, 4, 8])},
    "offsets too short": {"a": entry(offsets=[0, 4])},
    "offsets backwards": {"a": entry(offsets=[8, 0])},
    "text offsets": {"a": entry(offsets=["0", "8"])},
    "a gap": {"a": entry(), "b": entry(offsets=[16, 24])},
    "a gap at the start": {"a": entry(offsets=[8, 16])},
    "an overlap": {"a": entry(), "b": entry(offsets=[4, 12])},
    "the same data twice": {"a": entry(), "b": entry()},
}


@pytest.mark.parametrize("header", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_header_is_called_broken(tmp_path: Path, header: Any) -> None:
    assert "the header of the shard is broken" in refused(write_header(tmp_path / "x.safetensors", header, 24)).what


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["F32", "I64"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner)
    ),
    max_leaves=8,
)


@given(header=json_values, data=st.integers(0, 40))
def test_no_header_raises_anything_but_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, header: Any, data: int
) -> None:
    file = write_header(tmp_path_factory.getbasetemp() / "any.safetensors", header, data)
    try:
        tensors = read_header(file)
    except CheckpointError:
        return
    assert sum(tensor.nbytes for tensor in tensors.values()) == data


@given(junk=st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_checkpoint_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "junk.safetensors"
    file.write_bytes(junk)
    refused(file)


def test_a_shard_that_cannot_be_opened_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No such file" in refused(tmp_path / "gone.safetensors").what
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    assert "Is a directory" in refused(folder).what
    file = write_shard(tmp_path / "x.safetensors", TWO)

    def forbidden(*_args: Any, **_kwargs: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", forbidden)
    assert "Permission denied" in refused(file).what


# --- folders


def folder_refused(folder: Path) -> CheckpointError:
    """The error that opening this folder raises."""
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(folder)
    assert caught.value.where.startswith(str(folder)) and caught.value.todo
    return caught.value


def test_a_single_file_is_opened(tmp_path: Path) -> None:
    opened = open_checkpoint(write_llama(tmp_path / "m"))
    assert list(opened.tensors) == list(llama_tensors())
    assert opened.config["model_type"] == "llama" and not opened.pickled
    assert opened.nbytes == (tmp_path / "m" / "model.safetensors").stat().st_size


def test_several_shards_are_opened_by_their_index(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_index(folder, {"model-00001-of-00002.safetensors": TWO, "model-00002-of-00002.safetensors": {"c": ("I8", (5,))}})
    opened = open_checkpoint(folder)
    assert {name: tensor.shard.name[:11] for name, tensor in opened.tensors.items()} == {
        "a": "model-00001", "b": "model-00001", "c": "model-00002",
    }  # fmt: skip
    assert opened.nbytes == sum(shard.stat().st_size for shard in folder.glob("*.safetensors"))


def test_the_index_decides_where_a_tensor_is_that_two_shards_hold(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    index = write_index(folder, {"a.safetensors": TWO, "b.safetensors": TWO})
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    opened = open_checkpoint(folder)
    assert (opened.tensors["a"].shard.name, opened.tensors["b"].shard.name) == ("a.safetensors", "b.safetensors")


def test_a_lone_file_of_another_name_is_taken_for_the_weights(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_shard(folder / "consolidated.safetensors", TWO)
    assert set(open_checkpoint(folder).tensors) == {"a", "b"}


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_index(folder, {f"model-{i}-of-9.safetensors": {f"t{i}": ("F32", (1,))} for i in range(1, 10)})
    (folder / "model-7-of-9.safetensors").unlink()
    assert folder_refused(folder).what == "1 of 9 shards missing: model-7-of-9.safetensors"
    for i in range(1, 9):
        (folder / f"model-{i}-of-9.safetensors").unlink(missing_ok=True)
    assert folder_refused(folder).what.endswith("model-5-of-9.safetensors and 3 more")


def test_a_truncated_shard_of_several_is_named(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_index(folder, {"one.safetensors": TWO, "two.safetensors": {"c": ("I8", (5,))}})
    with (folder / "two.safetensors").open("r+b") as opened:
        opened.truncate((folder / "two.safetensors").stat().st_size - 1)
    error = folder_refused(folder)
    assert error.where == str(folder / "two.safetensors") and "truncated" in error.what


def test_a_tensor_that_only_the_index_knows_is_named(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    index = write_index(folder, {"one.safetensors": TWO})
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "ghost": "one.safetensors"}}))
    error = folder_refused(folder)
    assert "ghost" in error.what and error.where == str(folder / "one.safetensors")


def test_a_tensor_in_another_shard_than_the_index_says_is_named(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    index = write_index(folder, {"one.safetensors": TWO, "two.safetensors": {"c": ("I8", (5,))}})
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "c": "one.safetensors", "b": "two.safetensors"}}))
    assert "it holds c, but" in folder_refused(folder).what


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [], "a", {"a": 5}, {"a": ["one.safetensors"]}, {"a": ""}, {"a": "/etc/passwd"}, {"a": "../one.safetensors"},
     {"a": "x\0y"}, {"a": "n" * 5000}, {"a": {"b": 1}, "c": 3}],
)  # fmt: skip
def test_an_index_that_names_no_shards_is_refused(tmp_path: Path, weight_map: Any) -> None:
    write_shard(tmp_path / "one.safetensors", TWO)
    folder = write_config(tmp_path / "m")
    index = write_index(folder, {"one.safetensors": TWO})
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert folder_refused(folder).where == str(index)


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "[" * 100_000])
def test_a_broken_index_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_config(tmp_path / "m")
    index = write_index(folder, {"one.safetensors": TWO})
    index.write_text(text)
    assert folder_refused(folder).where == str(index)


def test_shards_without_their_index_are_not_called_no_weights(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_shard(folder / "model-00001-of-00002.safetensors", TWO)
    assert "model.safetensors.index.json" in folder_refused(folder).what  # the other one is missing
    write_shard(folder / "model-00002-of-00002.safetensors", {"c": ("I8", (5,))})
    assert "model-00001-of-00002.safetensors ..." in folder_refused(folder).what


def test_one_shard_of_one_needs_no_index(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_shard(folder / "model-00001-of-00001.safetensors", TWO)
    assert set(open_checkpoint(folder).tensors) == {"a", "b"}


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    assert "no weights" in folder_refused(write_config(tmp_path / "m")).what


def test_weights_without_tensors_are_refused(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "m")
    write_header(folder / "model.safetensors", {"__metadata__": {}})
    assert "no tensors" in folder_refused(folder).what


def test_what_is_no_model_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no config.json" in folder_refused(tmp_path / "empty").what
    (tmp_path / "file").write_text("x")
    assert "not a model folder" in folder_refused(tmp_path / "file").what
    assert "no such folder" in folder_refused(tmp_path / "gone").what
    assert "no such folder" in folder_refused(tmp_path / "file" / "below").what


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'"llama"', "not a JSON object"),
        (b"{}", "neither model_type nor architectures"),
    ],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, body: bytes, what: str) -> None:
    folder = write_llama(tmp_path / "m")
    (folder / "config.json").write_bytes(body)
    error = folder_refused(folder)
    assert what in error.what and error.where == str(folder / "config.json")


def test_a_config_without_permission_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_config(tmp_path / "m")

    def forbidden(*_args: Any, **_kwargs: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", forbidden)
    with pytest.raises(CheckpointError, match="Permission denied"):
        read_config(folder)


def test_the_config_is_kept_as_it_stands(tmp_path: Path) -> None:
    assert read_config(write_config(tmp_path / "m", {**LLAMA, "名": [1.5, None]})) == {**LLAMA, "名": [1.5, None]}
