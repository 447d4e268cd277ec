"""Whole conversions: the authors' own checkpoints, what is written and told, and what a bad source leaves behind: nothing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantui.checkpoint import write as writing
from quantui.checkpoint.convert import prepare
from quantui.checkpoint.convert.stream import Source
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import CheckpointError, InputError, OutputError, QuantUIError, ResultError
from quantui.events import Progress
from tests.checkpoint.convert import sources

pytestmark = pytest.mark.engine
NAMES = ("chatglm2", "internlm2-text", "internvl-internlm2-github", "internvl-qwen2-github")
ROOT = Path(__file__).resolve().parents[3]


def agrees(name: str, target: Path) -> float:
    """How far a converted fixture is from what its authors' code computed."""
    import torch
    from safetensors.torch import load_file

    from quantui.checkpoint.load import load_model

    given = load_file(sources.UPSTREAM / name / "reference.safetensors")
    inputs = {key: given[key] for key in ("input_ids", "pixel_values") if key in given}
    with torch.inference_mode():
        made = load_model(target, image_text="pixel_values" in given)(**inputs).logits
    assert made.shape == given["logits"].shape and made.dtype == torch.float32
    return float((made - given["logits"]).abs().max())


def upstream(tmp_path: Path, name: str = "internlm2-text") -> Path:
    """A fixture's folder to spoil."""
    folder = tmp_path / "source"
    shutil.copytree(sources.UPSTREAM / name, folder, ignore=shutil.ignore_patterns("reference*"))
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_converted_models_say_what_their_authors_code_said(tmp_path: Path, name: str) -> None:
    result = sources.run(upstream(tmp_path, name), tmp_path / "made", verify=True, image_token_id=299)
    assert agrees(name, tmp_path / "made") < 5e-6
    assert result["logit_difference"] < 5e-6


def test_what_is_told_and_recorded(tmp_path: Path) -> None:
    import xxhash
    from safetensors import safe_open

    result, events = sources.told(upstream(tmp_path), tmp_path / "made", max_shard_bytes=60_000)
    for stage in ("copy", "reread"):
        told = [e.event for e in events if isinstance(e.event, Progress) and (e.event.stage, e.event.unit) == (stage, "B")]
        assert (
            told[-1].done == told[-1].total == sum(move.nbytes for move in open_checkpoint(tmp_path / "made").tensors.values())
        )
    record = json.loads((tmp_path / "made" / "quantui_conversion.json").read_text())
    given, made = open_checkpoint(tmp_path / "source"), open_checkpoint(tmp_path / "made")

    def digest(tensor: Any) -> str:
        with tensor.shard.open("rb") as file:
            file.seek(tensor.offset)
            return xxhash.xxh3_128(file.read(tensor.nbytes)).hexdigest()

    assert record["source_tensors"] == {name: digest(tensor) for name, tensor in given.tensors.items()}
    assert {move["to"]: move["checksum"] for move in record["moves"]} == {n: digest(t) for n, t in made.tensors.items()}
    assert {part[0] for move in record["moves"] for part in move["from"]} == set(given.tensors)
    for name, tensor in given.tensors.items():  # every row of the source goes somewhere, once
        rows = sorted((a, b) for move in record["moves"] for source, a, b in move["from"] if source == name)
        assert [a for a, _ in rows] == [0, *(b for _, b in rows[:-1])] and rows[-1][1] == tensor.shape[0]
    assert record["source_config"] == given.config and record["source"] == "source"
    assert set(record["versions"]) == {"quantui", "torch", "transformers", "safetensors"}
    index = json.loads((tmp_path / "made" / "model.safetensors.index.json").read_text())
    assert result["shards"] == len(set(index["weight_map"].values())) > 3
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "made" / file, "pt") as opened:
            assert name in opened.keys()  # noqa: SIM118  (it is no mapping)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in made.tensors.values())


def shard(folder: Path, number: int = 2) -> Path:
    """One of a fixture's files."""
    return sorted(folder.glob("model-*.safetensors"))[number]


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes the tensors of a source, in a single file."""
    tensors, config = sources.tensors_of(folder), json.loads((folder / "config.json").read_text())
    change(tensors)
    shutil.rmtree(folder)
    sources.write(folder, config, tensors)


def lie(file: Path) -> None:
    """Moves the end of the last tensor in a header."""
    data = file.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header[list(header)[-1]]["data_offsets"][1] += 4
    body = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(body)) + body + data[8 + size :])


def spoil(folder: Path, how: str) -> None:
    """One kind of damage."""
    import torch

    if how == "missing shard":
        shard(folder).unlink()
    elif how == "truncated":
        shard(folder).write_bytes(shard(folder).read_bytes()[:-5])
    elif how == "lying header":
        lie(shard(folder))
    elif how == "wrong shape":
        rewrite(folder, lambda tensors: tensors.update({"output.weight": torch.ones(320, 95)}))
    elif how == "extra":
        rewrite(folder, lambda tensors: tensors.update({"model.layers.4.attention.wo.weight": torch.ones(2)}))
    elif how == "missing tensor":
        rewrite(folder, lambda tensors: [tensors.pop(name) for name in ("output.weight", "model.norm.weight")])
    elif how == "integers":
        rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(96, dtype=torch.int32)}))
    elif how == "mixed":
        rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(96).half()}))
    elif how == "tokenizer":
        (folder / "tokenizer.model").write_bytes(b"\x0a\x05broken")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing shard", r"1 of 5 shards missing: model-00003-of-00005\.safetensors"),
        ("truncated", r"model-00003-of-00005\.safetensors: the shard is truncated"),
        ("lying header", r"model-00003-of-00005\.safetensors: the header of the shard is broken"),
        ("wrong shape", r"1 problem: output\.weight has shape \[320, 95\] where the config asks for \[320, 96\]"),
        ("extra", r"model\.layers\.4\.attention\.wo\.weight belongs to no place in the result.*--allow-extra"),
        ("missing tensor", r"2 problems: model\.norm\.weight is missing; output\.weight is missing"),
        ("integers", r"model\.norm\.weight is stored as I32, and weights are floats"),
        ("tokenizer", r"tokenizer"),
    ],
)
def test_a_bad_source_is_one_sentence_and_leaves_nothing(tmp_path: Path, how: str, said: str) -> None:
    source, place = upstream(tmp_path), tmp_path / "place"
    place.mkdir()
    spoil(source, how)
    with pytest.raises(CheckpointError, match=said) as caught:
        sources.run(source, place / "made")
    assert caught.value.exit_code == 2 and caught.value.todo and "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=said):
        prepare.prepare_conversion(None, model=str(source), out=str(place / "made"))
    assert not list(place.iterdir())


def test_extra_tensors_are_dropped_when_asked(tmp_path: Path) -> None:
    source = upstream(tmp_path)
    spoil(source, "extra")
    assert list(sources.run(source, tmp_path / "made", allow_extra=True)["dropped"]) == ["model.layers.4.attention.wo.weight"]
    assert agrees("internlm2-text", tmp_path / "made") < 5e-6


def test_symlinked_shards_are_read(tmp_path: Path) -> None:
    source = upstream(tmp_path)
    (tmp_path / "blobs").mkdir()
    for file in source.glob("*.safetensors"):
        file.rename(tmp_path / "blobs" / file.name)
        file.symlink_to(tmp_path / "blobs" / file.name)
    sources.run(source, tmp_path / "made")
    assert not any(file.is_symlink() for file in (tmp_path / "made").iterdir())


def test_targets_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = upstream(tmp_path)

    def refused(out: Path) -> str:
        with pytest.raises(OutputError) as caught:
            prepare.prepare_conversion(None, model=str(source), out=str(out))
        return caught.value.what

    assert refused(source) == "the target is the source itself"
    (tmp_path / "link").symlink_to(source)
    assert refused(tmp_path / "link") == "the target is the source itself"
    assert refused(source / "made") == "the target lies inside the source"
    assert refused(tmp_path / "link" / "made") == "the target lies inside the source"
    (tmp_path / "there").mkdir()
    assert refused(tmp_path / "there") == "the output folder exists already"
    monkeypatch.setattr(prepare, "free_bytes", lambda path: 1_000_000)
    assert refused(tmp_path / "made").startswith("the result needs ")
    with pytest.raises(OutputError, match="exists already"):
        sources.run(source, tmp_path / "there")
    with pytest.raises(InputError, match="no size"):
        prepare.prepare_conversion(None, model=str(source), out=str(tmp_path / "made"), max_shard_size="0GB")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["copy_file_range", "write"])
def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    source, place = upstream(tmp_path), tmp_path / "place"

    class Full:
        """The system, whose disk has filled up."""

        def __getattr__(self, name: str) -> Any:
            return fails if name == call else getattr(os, name)

    def fails(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(writing, "os", Full())
    with pytest.raises(OutputError, match="disk is full" if number != errno.EIO else "cannot be written") as caught:
        sources.run(source, place / "made")
    assert caught.value.where == str(place / "made") and not list(place.iterdir())


@pytest.mark.parametrize("how", ["shrunk", "overwritten"])
def test_a_source_that_changes_meanwhile_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    source, place = upstream(tmp_path), tmp_path / "place"
    pieces, done = Source.pieces, []

    def changing(self: Source, move: Any) -> Any:
        if len(done) == (0 if how == "shrunk" else 3):
            for file in source.glob("*.safetensors"):
                if how == "shrunk":
                    os.truncate(file, file.stat().st_size // 2)
            if how == "overwritten":
                tensor = self._tensors[done[0].parts[0].tensor]
                with tensor.shard.open("r+b") as opened:
                    opened.seek(tensor.offset)
                    opened.write(os.urandom(tensor.nbytes))
        done.append(move)
        return pieces(self, move)

    monkeypatch.setattr(writing, "WRITERS", 1)
    monkeypatch.setattr(Source, "pieces", changing)
    expected: type[QuantUIError] = OutputError if how == "shrunk" else ResultError
    with pytest.raises(expected, match=r"bytes came for|reads back with checksum"):
        sources.run(source, place / "made")
    assert not list(place.iterdir())


KILLED = """
import sys, time
from pathlib import Path
from quantui.checkpoint.convert import run
from quantui.checkpoint.convert.stream import Source
from quantui.events import EventWriter
from quantui.spec import ConvertSpec

run.native_class = lambda plan: None  # which would import torch
run.check_native = lambda plan: plan
pieces = Source.pieces
def slow(self, move):
    print("copying", flush=True)
    time.sleep(0.05 if move.target.name != "model.norm.weight" else 60)
    yield from pieces(self, move)
Source.pieces = slow
folder = Path(sys.argv[1])
spec = ConvertSpec(name="t", model=str(folder / "source"), out=str(folder / "place" / "made"), verify=False)
run.convert(spec, EventWriter(folder / "events.jsonl"), folder)
"""


def test_a_killed_run_is_swept_and_can_be_started_again(tmp_path: Path) -> None:
    source, place = upstream(tmp_path), tmp_path / "place"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = list(place.iterdir())
    assert len(left) == 1 and left[0].name.startswith(".made.partial-")
    sources.run(source, place / "made")
    assert [path.name for path in place.iterdir()] == ["made"]
    assert agrees("internlm2-text", place / "made") < 5e-6


@pytest.mark.parametrize("name", ["internvl-qwen2-github", "chatglm2"])
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_rounding_is_no_difference_of_the_models(tmp_path: Path, name: str, dtype: str) -> None:
    result = sources.run(upstream(tmp_path, name), tmp_path / "made", dtype=dtype, verify=True, image_token_id=299)
    assert result["logit_difference"] < 1e-5 * result["logit_largest"]
    if name.startswith("internvl"):
        back = sources.run(tmp_path / "made", tmp_path / "back", dtype="fp16", verify=True)
        assert back["logit_difference"] < 1e-5 * back["logit_largest"]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("chatglm2", {"layernorm_epsilon": None}),
        ("internlm2-text", {"rms_norm_eps": None}),
        ("internlm2-text", {"bos_token_id": {"a": 1}}),
        ("internlm2-text", {"use_cache": 3}),
        ("internvl-qwen2-github", {"max_dynamic_patch": 0}),
    ],
    ids=str,
)
def test_values_that_only_the_models_themselves_stumble_over(tmp_path: Path, name: str, change: dict[str, Any]) -> None:
    source, place = upstream(tmp_path, name), tmp_path / "place"
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError):
        sources.run(source, place / "made", verify=True, image_token_id=299)
    assert not place.exists() or not list(place.iterdir())


@pytest.mark.parametrize("classes", [7, {"a": 1}, [[]], "InternLM2ForCausalLM"])
def test_class_names_that_are_no_list_do_not_matter(tmp_path: Path, classes: Any) -> None:
    source = upstream(tmp_path)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"architectures": classes}))
    try:
        sources.run(source, tmp_path / "made", verify=True)
    except CheckpointError as error:
        assert "has another head" in error.what
    else:
        assert agrees("internlm2-text", tmp_path / "made") < 5e-6


def test_warming_up_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    from transformers import conversion_mapping

    from quantui.checkpoint.convert.native import warm_up

    warm_up()
    assert conversion_mapping._checkpoint_conversion_mapping_cache is not None
    assert capfd.readouterr() == ("", "")
