"""lmdeploy's own statistics and cache files, made by its code, against ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from quantui.errors import CheckpointError
from quantui.stats import lmdeploy
from quantui.stats.kv import write_lmdeploy
from quantui.stats.table import StatsTable

pytestmark = pytest.mark.engine
FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "lmdeploy"
ROLES = {"key": "key", "value": "value", "inputs": "input", "outputs": "output"}


@pytest.fixture(scope="module")
def theirs() -> dict[str, Any]:
    return dict(load_file(FIXTURES / "stats-gqa-v0.1.0.safetensors"))


@pytest.fixture(scope="module")
def ours() -> StatsTable:
    import torch
    from safetensors.torch import load_file as load_torch

    from quantui.checkpoint.load import load_model
    from quantui.stats.finish import finish
    from quantui.stats.observe import observe

    model = load_model(FIXTURES / "model-gqa", image_text=False)
    assert model.dtype == torch.float16
    ids = load_torch(FIXTURES / "calibration.safetensors")["input_ids"]
    return finish(model, observe(model, [{"input_ids": row[None]} for row in ids]), None, {})


@pytest.fixture
def their_files(theirs: dict[str, Any], tmp_path: Path) -> Path:
    """The four .pth files as lmdeploy leaves them."""
    import torch

    for kind, role in ROLES.items():
        body: dict[str, dict[str, Any]] = {}
        for name, array in theirs.items():
            its, stat, layer = name.split("/")
            if its == kind:
                body.setdefault(stat, {})[layer] = torch.from_numpy(array)
        torch.save(body, tmp_path / lmdeploy.FILES[role])
    return tmp_path


def test_our_statistics_are_theirs(ours: StatsTable, theirs: dict[str, Any]) -> None:
    for name, expected in theirs.items():
        kind, stat, layer = name.split("/")
        module = f"{layer}.self_attn" if kind in ("key", "value") else layer
        found = ours.stat(module, ROLES[kind], stat)
        assert found.shape == expected.shape
        wanted = expected.astype(np.float64)
        first = layer.startswith("model.layers.0") and (kind in ("key", "value") or (kind == "inputs" and "attn" in layer))
        exact = first and not layer.endswith("o_proj")
        scale = np.abs(wanted).max()
        assert np.abs(found - wanted).max() <= (1e-3 if exact else 2e-2) * scale, name


def test_their_files_come_back_as_they_were(their_files: Path, theirs: dict[str, Any], tmp_path: Path) -> None:
    import torch

    table = lmdeploy.read(their_files)
    (tmp_path / "again").mkdir()
    for path in lmdeploy.export(table, tmp_path / "again"):
        before = torch.load(their_files / path.name, weights_only=True)
        after = torch.load(path, weights_only=True)
        assert before.keys() == after.keys()
        for stat, layers in before.items():
            assert list(layers) == list(after[stat])
            for layer, tensor in layers.items():
                assert after[stat][layer].dtype == tensor.dtype == torch.float16
                torch.testing.assert_close(after[stat][layer], tensor, rtol=0, atol=0)


def test_our_files_have_their_names_shapes_and_dtype(ours: StatsTable, their_files: Path, tmp_path: Path) -> None:
    import torch

    (tmp_path / "ours").mkdir()
    for path in lmdeploy.export(ours, tmp_path / "ours"):
        before, after = (torch.load(folder / path.name, weights_only=True) for folder in (their_files, path.parent))
        for stat, layers in before.items():
            assert {name: (t.dtype, t.shape) for name, t in layers.items()} == {
                name: (t.dtype, t.shape) for name, t in after[stat].items()
            }


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("tp", [1, 2])
def test_cache_files_agree_byte_for_byte(their_files: Path, tmp_path: Path, symmetric: bool, tp: int) -> None:
    expected = FIXTURES / "kv_qparams-gqa" / f"weights_{'sym' if symmetric else 'asym'}_tp{tp}"
    out = tmp_path / "out"
    out.mkdir()
    lines = write_lmdeploy(lmdeploy.read(their_files), out, symmetric=symmetric, tp=tp)
    assert "\n".join(lines) + "\n" == (expected / "stdout.txt").read_text()
    files = {path.name: path.read_bytes() for path in expected.glob("layers.*")}
    assert files == {path.name: path.read_bytes() for path in out.iterdir()}


def test_cache_files_of_our_own_statistics_are_close(ours: StatsTable, tmp_path: Path) -> None:
    write_lmdeploy(ours, tmp_path)
    for path in (FIXTURES / "kv_qparams-gqa" / "weights_asym_tp1").glob("layers.*"):
        expected, found = (np.fromfile(file, "<f4") for file in (path, tmp_path / path.name))
        np.testing.assert_allclose(found, expected, rtol=2e-2, atol=2e-2)


def shaped(first: tuple[int, ...], others: tuple[int, ...] | None = None, fill: float = 1.0) -> dict[str, Any]:
    """Statistics of one layer, the largest values in one shape and the others in another."""
    shapes = {"max": first, "min": others or first, "absmax": others or first}
    return {stat: {"model.layers.0": torch.full(shape, fill)} for stat, shape in shapes.items()}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"junk", b"not a pickle", None, [1, 2], {"max": {"a": 3}}, {"other": {}}, shaped((8,)), shaped((2, 4), (2, 3)),
        shaped((0, 4)), shaped((2, 4), fill=float("nan")), {"max": {}, "min": {}, "absmax": {}},
    ],
)  # fmt: skip
def test_files_that_are_none_are_refused(tmp_path: Path, content: Any) -> None:
    for name in ("key_stats.pth", "value_stats.pth"):
        if isinstance(content, bytes):
            (tmp_path / name).write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / name)
    with pytest.raises(CheckpointError, match="key_stats"):
        lmdeploy.read(tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import torch

    class Harmful:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "ran",))

    for name in ("key_stats.pth", "value_stats.pth"):
        torch.save({"max": Harmful()}, tmp_path / name)
    with pytest.raises(CheckpointError):
        lmdeploy.read(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_bfloat16_model_is_exported_as_float32() -> None:
    import tempfile

    import torch

    from tests.stats.models import make, token_batches
    from tests.stats.test_observe import table_of

    table = table_of(make("internvl").to(torch.bfloat16), token_batches((5,)))
    with tempfile.TemporaryDirectory() as folder:
        lmdeploy.export(table, Path(folder))
        inputs = torch.load(Path(folder) / "inputs_stats.pth", weights_only=True)
        outputs = torch.load(Path(folder) / "outputs_stats.pth", weights_only=True)
    assert inputs["max"]["model.layers.0.mlp.down_proj"].dtype == torch.float32
    assert not any("vision" in name or "lm_head" in name for name in inputs["max"])
    assert "model.norm" in outputs["mean"] and "model.norm" not in inputs["mean"]
