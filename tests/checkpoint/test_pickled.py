"""Pickled weights: read without torch, and without running what they ask for."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.checkpoint import pickled
from quantui.checkpoint.files import open_checkpoint
from quantui.errors import CheckpointError
from tests.checkpoint.shards import write_config

DANGEROUS = ("os", "subprocess", "builtins", "torch", "numpy", "functools", "operator", "pickle", "copyreg")


def write_zip(file: Path, data: bytes, name: str = "archive/data.pkl", method: int = zipfile.ZIP_STORED) -> Path:
    """A zip as torch.save writes it, around any pickle."""
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, data)
    return file


def refused(file: Path) -> CheckpointError:
    """The error that reading this file raises."""
    with pytest.raises(CheckpointError) as caught:
        pickled.read_header(file)
    assert caught.value.where == str(file) and caught.value.todo
    return caught.value


class Runs:
    """Pickles to a call of any function."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("depth", ["whole", "value", "key"])
def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path: Path, protocol: int, depth: str) -> None:
    proof = tmp_path / "proof"
    evil = Runs(os.system, f"touch {proof}")
    body: Any = {"whole": evil, "value": {"a": evil}, "key": {evil: 1}}[depth]
    file = write_zip(tmp_path / "pytorch_model.bin", pickle.dumps(body, protocol))
    assert "posix.system" in refused(file).what
    assert not proof.exists()
    os.system(f"touch {proof}")  # the proof would have been made
    assert proof.exists()


@pytest.mark.parametrize(
    "function",
    [eval, exec, __import__, getattr, open, print, io.open, os.popen, pickle.loads],
)  # fmt: skip
def test_no_other_function_is_found(tmp_path: Path, function: Any) -> None:
    assert "which is not a tensor" in refused(write_zip(tmp_path / "x.bin", pickle.dumps(Runs(function, "1")))).what


@given(module=st.sampled_from(DANGEROUS), name=st.text("abcdefghijklmnopqrstuvwxyz_.", min_size=1, max_size=12))
def test_no_name_outside_the_table_is_found(tmp_path_factory: pytest.TempPathFactory, module: str, name: str) -> None:
    file = tmp_path_factory.getbasetemp() / "named.bin"
    refused(write_zip(file, f"c{module}\n{name}\n)R.".encode()))


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    "state",
    [b"}X\x05\x00\x00\x00_makeNs", b"N}X\x05\x00\x00\x00_makeNs\x86", b"N}X\x0c\x00\x00\x00__defaults__Ns\x86"],
)
def test_the_stand_ins_cannot_be_changed(tmp_path: Path, state: bytes) -> None:
    before = {key: stand_in._make for key, stand_in in pickled.REBUILD.items()}
    refused(write_zip(tmp_path / "x.bin", REBUILD + state + b"b."))
    assert {key: stand_in._make for key, stand_in in pickled.REBUILD.items()} == before


def test_methods_that_a_pickle_puts_on_its_object_are_not_called(tmp_path: Path) -> None:
    stuck = b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00items" + REBUILD + b"sb."
    assert "state dict" in refused(write_zip(tmp_path / "x.bin", stuck)).what


def test_an_opcode_that_asks_for_much_memory_gets_none(tmp_path: Path) -> None:
    memo = b"}r\xff\xff\xff\x7f."  # remember as number 2^31: the C unpickler makes a table of that length
    assert "state dict" in refused(write_zip(tmp_path / "x.bin", memo)).what


def test_a_pickle_that_unpacks_to_too_much_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickled, "PICKLE_LIMIT", 1000)
    bomb = write_zip(tmp_path / "x.bin", b"0" * 1_000_000, method=zipfile.ZIP_DEFLATED)
    assert "1000000 bytes" in refused(bomb).what


@given(junk=st.binary(max_size=60))
def test_any_junk_in_the_pickle_is_a_checkpoint_error(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    refused(write_zip(tmp_path_factory.getbasetemp() / "junk.bin", junk))


def test_what_is_no_zip_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.bin"
    for body in (b"", b"PK", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"GGUF" + bytes(100)):
        file.write_bytes(body)
        assert "not a torch file" in refused(file).what


def test_a_zip_that_torch_did_not_write_is_refused(tmp_path: Path) -> None:
    assert "data.pkl" in refused(write_zip(tmp_path / "x.bin", b"N.", name="word/document.xml")).what


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "x.bin", pickle.dumps({}) + bytes(500))
    body = file.read_bytes()
    for size in (10, len(body) // 2, len(body) - 1):
        file.write_bytes(body[:size])
        assert "truncated" in refused(file).what


@pytest.mark.parametrize("body", [[], 5, None, {}, OrderedDict(), {"model": {"a": 1}}, {"lr": ("F32", (1,))}])
def test_a_pickle_without_tensors_is_refused(tmp_path: Path, body: Any) -> None:
    assert "state dict" in refused(write_zip(tmp_path / "x.bin", pickle.dumps(body))).what


@pytest.mark.parametrize("shape", [b"(I-1\nt", b"(S'a'\nt", b"]", b"I5\n", b"N", b"(I01\nt"])
def test_a_tensor_of_no_shape_is_no_tensor(tmp_path: Path, shape: bytes) -> None:
    tensor = REBUILD + b"((S'F32'\nS'0'\ntI0\n" + shape + b"(I1\ntt" + b"R"
    assert "state dict" in refused(write_zip(tmp_path / "x.bin", b"}S'a'\n" + tensor + b"s.")).what


# --- files that torch itself wrote


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pytorch_model.bin of tensors of every dtype, as torch saves it."""
    import torch

    folder = write_config(tmp_path_factory.mktemp("pickled"))
    types = (
        torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
        torch.uint8, torch.bool, torch.complex64, torch.uint16, torch.float8_e4m3fn, torch.float8_e5m2,
    )  # fmt: skip
    body: dict[str, Any] = {str(dtype): torch.zeros(3, 4).to(dtype) for dtype in types}
    body |= {"scalar": torch.tensor(1.0), "view": torch.zeros(6, 6)[1:3, ::2].t(), "empty": torch.zeros(0, 5)}
    body["parameter"] = torch.nn.Parameter(torch.zeros(7, dtype=torch.bfloat16))
    torch.save(body, folder / "pytorch_model.bin")
    return folder


@pytest.mark.engine
def test_the_table_is_what_torch_reads(written: Path) -> None:
    import torch
    from safetensors.torch import save

    state = torch.load(written / "pytorch_model.bin", weights_only=True)
    tensors = open_checkpoint(written).tensors
    assert open_checkpoint(written).pickled
    assert list(tensors) == list(state)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {name: tuple(t.shape) for name, t in state.items()}
    assert {name: tensor.nbytes for name, tensor in tensors.items()} == {name: t.nbytes for name, t in state.items()}
    plain = save(
        {name: tensor.detach().contiguous() for name, tensor in state.items()}
    )  # names of dtypes as safetensors has them
    (written / "plain.safetensors").write_bytes(plain)
    from quantui.checkpoint.files import read_header

    stored = read_header(written / "plain.safetensors")
    assert {name: tensor.dtype for name, tensor in tensors.items()} == {name: tensor.dtype for name, tensor in stored.items()}


@pytest.mark.engine
def test_a_module_s_state_dict_and_sharded_files_are_read(tmp_path: Path) -> None:
    import torch

    folder = write_config(tmp_path / "m")
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Embedding(4, 5))
    state = module.state_dict()
    torch.save(OrderedDict((name, state[name]) for name in list(state)[:1]), folder / "pytorch_model-00001-of-00002.bin")
    torch.save(state, folder / "pytorch_model-00002-of-00002.bin")
    names = dict.fromkeys(list(state)[:1], "pytorch_model-00001-of-00002.bin")
    names |= dict.fromkeys(list(state)[1:], "pytorch_model-00002-of-00002.bin")
    import json

    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    opened = open_checkpoint(folder)
    assert {name: tensor.shape for name, tensor in opened.tensors.items()} == {
        "0.weight": (3, 2), "0.bias": (3,), "1.weight": (4, 5),
    }  # fmt: skip
    assert opened.tensors["0.weight"].shard.name == "pytorch_model-00001-of-00002.bin"


@pytest.mark.engine
def test_torch_s_legacy_format_is_refused_with_the_way_out(tmp_path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(2)}, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert "torch 1.6 or later" in refused(tmp_path / "old.bin").todo


@pytest.mark.engine
def test_a_file_that_torch_refuses_with_weights_only_is_refused_here_too(tmp_path: Path) -> None:
    import torch

    torch.save({"a": torch.zeros(2), "evil": Runs(os.getcwd)}, tmp_path / "x.bin")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "x.bin", weights_only=True)
    assert "getcwd" in refused(tmp_path / "x.bin").what
