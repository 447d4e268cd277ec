"""Shards written by streaming, read again by safetensors itself."""

from __future__ import annotations

import errno
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from quantui.checkpoint import write as writing
from quantui.checkpoint.files import ITEM_BITS, read_header
from quantui.checkpoint.write import PAGE, Chunk, Entry, Origin, Span, lay_out, write_shards
from quantui.errors import OutputError

DTYPES = ("F64", "F32", "BF16", "F16", "I64", "I32", "I16", "U8", "BOOL", "F8_E4M3")
ENTRIES = st.lists(
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=3)), min_size=1, max_size=12
)  # fmt: skip


def data_of(entry: Entry) -> bytes:
    """Bytes that tell the tensor they belong to."""
    return (entry.name.encode() * (entry.nbytes + 1))[: entry.nbytes]


def pieces(entry: Entry) -> Iterator[Chunk]:
    """The data in uneven pieces, one of them empty."""
    data = data_of(entry)
    yield data[:3]
    yield b""
    yield bytearray(data[3:])


@given(described=ENTRIES, limit=st.integers(1, 400))
def test_every_tensor_is_where_the_header_says(
    tmp_path_factory: pytest.TempPathFactory, described: list[tuple[str, list[int]]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    entries = [Entry(f"tensor {n} ü", dtype, tuple(shape)) for n, (dtype, shape) in enumerate(described)]
    shards = lay_out(entries, limit)
    write_shards(folder, shards, pieces)
    found = {}
    for shard in shards:
        assert sum(entry.nbytes for entry in shard.entries) <= limit or sum(e.nbytes > 0 for e in shard.entries) == 1
        raw = (folder / shard.name).read_bytes()
        assert struct.unpack("<Q", raw[:8])[0] % 8 == 0
        for name, tensor in read_header(folder / shard.name).items():
            assert tensor.offset % (ITEM_BITS[tensor.dtype] // 8) == 0  # aligned to its own elements
            found[name] = (tensor.dtype, tensor.shape, raw[tensor.offset : tensor.offset + tensor.nbytes])
        with safe_open(folder / shard.name, "numpy") as opened:
            assert sorted(opened.keys()) == sorted(entry.name for entry in shard.entries)
            assert opened.metadata() == {"format": "pt"}
    assert found == {entry.name: (entry.dtype, entry.shape, data_of(entry)) for entry in entries}
    names = sorted(path.name for path in folder.iterdir())
    if len(shards) == 1:
        assert names == ["model.safetensors"]
    else:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(entry.nbytes for entry in entries)
        assert index["weight_map"] == {entry.name: shard.name for shard in shards for entry in shard.entries}
        assert len(names) == len(shards) + 1 and names[0] == f"model-00001-of-{len(shards):05}.safetensors"


def test_a_tensor_larger_than_the_limit_has_a_file_of_its_own() -> None:
    entries = [Entry("a", "F32", (2,)), Entry("b", "F32", (100,)), Entry("c", "F32", (2,)), Entry("d", "F32", (2,))]
    assert [[entry.name for entry in shard.entries] for shard in lay_out(entries, 20)] == [["a"], ["b"], ["c", "d"]]


@pytest.mark.parametrize("refusal", [None, *writing.NO_COPY, "absent"])
def test_spans_are_copied_however_the_system_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: int | str | None
) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(3 * writing.READ + 5))

    class System:
        """The system, which copies some way or other."""

        def __getattr__(self, name: str) -> object:
            if name == "copy_file_range" and refusal is not None:
                return self.fails if isinstance(refusal, int) else getattr(os, "no such call")
            return getattr(os, name)

        def fails(self, *_: object) -> int:
            raise OSError(refusal, "no")

    monkeypatch.setattr(writing, "os", System())
    (tmp_path / "out").mkdir()
    file = os.open(source, os.O_RDONLY)
    entry = Entry("a", "U8", (3 * writing.READ,))
    try:
        write_shards(tmp_path / "out", lay_out([entry], 1), lambda _: [Span(file, 5, entry.nbytes)])
    finally:
        os.close(file)
    with safe_open(tmp_path / "out" / "model.safetensors", "numpy") as opened:
        assert opened.get_tensor("a").tobytes() == source.read_bytes()[5:]


def test_a_stream_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    file = os.open(source, os.O_RDONLY)
    (tmp_path / "out").mkdir()
    entry = Entry("a", "U8", (5,))
    try:
        with pytest.raises(OutputError, match="3 bytes came for a where 5 belong"):
            write_shards(tmp_path / "out", lay_out([entry], 9), lambda _: [Span(file, 0, 5)])
    finally:
        os.close(file)
    (tmp_path / "again").mkdir()
    with pytest.raises(OutputError, match="6 bytes came for a where 5 belong"):
        write_shards(tmp_path / "again", lay_out([entry], 9), lambda _: [b"abcdef"])


def test_other_errors_of_the_system_go_on_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(writing.os, "write", full)
    with pytest.raises(OSError, match="no space"):
        write_shards(tmp_path, lay_out([Entry("a", "U8", (1,)), Entry("b", "U8", (1,))], 1), pieces)


def test_a_header_larger_than_the_format_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HEADER_LIMIT", 100)
    with pytest.raises(OutputError, match="smaller --max-shard-size"):
        lay_out([Entry(f"tensor {number}", "U8", (1,)) for number in range(10)], 1000)


def test_files_of_the_source_stay_apart_and_begin_where_pages_fit(tmp_path: Path) -> None:
    entries = [
        Entry(name, dtype, (size,))
        for name, dtype, size in [("a", "U8", 8192), ("b", "U8", 40), ("c", "BF16", 4096), ("d", "U8", 8)]
    ]
    origins = {
        "a": Origin(tmp_path / "1", 5000), "b": Origin(tmp_path / "1", 13192),
        "c": Origin(tmp_path / "2", 4097), "d": Origin(tmp_path / "1", 16384),
    }  # fmt: skip
    shards = lay_out(entries, 10_000, origins)
    assert [[entry.name for entry in shard.entries] for shard in shards] == [["a", "b", "d"], ["c"]]
    assert len(shards[0].header) % PAGE == 5000 % PAGE
    assert len(shards[1].header) % 8 == 0 and len(shards[1].header) < 200  # 4097 is nowhere tensors may begin
    write_shards(tmp_path, shards, pieces)
    with safe_open(tmp_path / shards[0].name, "numpy") as opened:
        assert opened.get_tensor("a").tobytes() == data_of(entries[0])
    assert [[e.name for e in s.entries] for s in lay_out(entries, 8200, origins)] == [["a"], ["b", "d"], ["c"]]
