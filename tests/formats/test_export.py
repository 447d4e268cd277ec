"""The export job from a folder to another format, the command line around it, and which recipe goes where."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from quantui import cli_export
from quantui.errors import CheckpointError, OutputError, QuantUIError, RecipeError, ResultError
from quantui.events import EventWriter
from quantui.formats.adapt import even
from quantui.formats.catalog import FORMATS, open_quantized
from quantui.formats.forecast import fits
from quantui.formats.reread import compare
from quantui.formats.run import export
from quantui.jobs.preflight_export import prepare_export
from quantui.jobs.store import JobStore
from quantui.numerics.layerfiles import save_cache, save_layer
from quantui.numerics.quantized import CacheScales, Inputs, Weights
from quantui.recipe import llmcompressor
from quantui.recipe.importing import import_text
from quantui.spec import ExportSpec
from quantui.workspace import RECIPES
from tests.formats.folders import write_folder
from tests.formats.layers import folder_of, random_layer

pytestmark = pytest.mark.engine
FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
W4 = Weights(bits=4, strategy="group", group_size=128, symmetric=False)
TOKEN = Inputs("int", 8, "token", True)
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs one export as its worker does, and returns the result."""

    def carry_out(source: Path, format: str, out: Path, part_bytes: int | None = None) -> dict[str, Any]:
        spec = ExportSpec(name="test", source=str(source), format=format, out=str(out), part_bytes=part_bytes)
        return export(spec, EventWriter(tmp_path / "events.jsonl"), tmp_path)

    return carry_out


def saved(folder: Path, weights: Weights, inputs: Inputs | None = None, **more: Any) -> Path:
    """A folder with two layers of this scheme."""
    layers = [random_layer(weights, inputs, 64, 128, leaf=leaf, **more) for leaf in ("self_attn.k_proj", "mlp.down_proj")]
    folder.mkdir(parents=True)
    FORMATS["compressed-tensors"].write(folder_of(layers, folder.parent / "plain"), folder)
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize(
    ("weights", "inputs", "chain"),
    [
        (W4, None, ("awq", "msmodelslim", "ascend-v1", "compressed-tensors")),
        (Weights(), TOKEN, ("lmdeploy-w8a8", "msmodelslim", "compressed-tensors", "ascend-v1")),
        (Weights(), Inputs(symmetric=False), ("msmodelslim", "ascend-v1", "compressed-tensors")),
        (Weights(symmetric=False), None, ("ascend-v1", "compressed-tensors", "msmodelslim")),
        (Weights("float8"), Inputs("float8", 8, "token", True), ("lmdeploy-w8a8", "compressed-tensors")),
    ],
)  # fmt: skip
def test_from_one_format_to_the_next(
    weights: Weights, inputs: Inputs | None, chain: tuple[str, ...], tmp_path: Path, run: Run
) -> None:
    source = saved(tmp_path / "起点 folder", weights, inputs, dtype="bfloat16")
    before = [layer.dequantize() for layer in open_quantized(source).read()]
    for number, name in enumerate(chain):
        target = tmp_path / f"到 {number}"
        result = run(source, name, target)
        assert result["layers"] == 2 and result["largest_deviation"] <= 2**-9
        assert (target / "tokenizer.json").exists() and json.loads((target / "quantui.json").read_text())["format"] == name
        source = target
    opened = open_quantized(source)
    assert opened.config["model_type"] == "llama" and opened.format == chain[-1]
    for made, wanted in zip(opened.read(), before, strict=True):
        torch.testing.assert_close(made.dequantize(), wanted, rtol=2**-9, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_sparse_and_two_stage_layers_beside_a_model(dtype: str, tmp_path: Path, run: Run) -> None:
    sparse = random_layer(Weights(sparse=True), Inputs(symmetric=False), 64, 128, dtype=dtype)
    staged = random_layer(
        Weights(bits=4, strategy="group", group_size=32, two_stage=True), TOKEN, 64, 128, dtype=dtype, layer=1
    )
    plain = {f"{layer.name}.weight": torch.zeros(64, 128) for layer in (sparse, staged)}
    folder = write_folder(tmp_path / "model", plain, None)
    for layer in (sparse, staged):
        save_layer(folder, layer)
    for name in ("msmodelslim", "ascend-v1"):
        assert run(folder, name, tmp_path / name)["layers"] == 2
        labels = open_quantized(tmp_path / name).extras["labels"]
        assert {"W8A8S", "W4A8_DYNAMIC"} <= set(labels.values())


def test_what_cannot_be_held_is_named_and_leaves_nothing(tmp_path: Path, run: Run) -> None:
    source = saved(tmp_path / "source", Weights(), TOKEN)
    with pytest.raises(OutputError, match=r"k_proj: awq cannot hold this layer: its inputs are quantized"):
        run(source, "awq", tmp_path / "out")
    layer = random_layer(Weights(bits=4), None, 64, 128)
    cache = CacheScales("model.layers.0.self_attn", "float8", 8, "tensor", False, torch.ones(1), torch.ones(1))
    held = folder_of([layer], tmp_path / "plain", [cache])
    (tmp_path / "cached").mkdir()
    FORMATS["compressed-tensors"].write(held, tmp_path / "cached")
    assert open_quantized(tmp_path / "cached").caches[0].kind == "float8"
    with pytest.raises(OutputError, match=r"self_attn: awq cannot hold this layer: its K/V cache is float8"):
        run(tmp_path / "cached", "awq", tmp_path / "out")
    with pytest.raises(OutputError, match=r"no config.json"):
        run(FIXTURES / "msmodelslim/w8a16", "compressed-tensors", tmp_path / "out")
    with pytest.raises(CheckpointError, match="no folder of quantized weights"):
        run(FIXTURES / "lmdeploy/model-gqa", "awq", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_wrapped_norms_go_out_and_nothing_else(tmp_path: Path, run: Run) -> None:
    folder = shutil.copytree(FIXTURES / "msmodelslim/anti_m1", tmp_path / "anti")
    shutil.copy(FIXTURES / "msmodelslim/model-outliers/config.json", folder / "config.json")
    run(folder, "compressed-tensors", tmp_path / "out")
    names = load_file(tmp_path / "out/model.safetensors").keys()
    assert not [name for name in names if ".module." in name or name.endswith("norm.bias")]
    (weights,) = folder.glob("*.safetensors")
    tensors = load_file(weights)
    tensors["model.norm.bias"][0] = 1
    save_file(tensors, str(weights))
    with pytest.raises(OutputError, match=r"model.norm: its norm has a bias"):
        run(folder, "compressed-tensors", tmp_path / "other")


def test_norms_get_a_bias_where_the_recipe_suppresses_outliers(tmp_path: Path, run: Run) -> None:
    source = saved(tmp_path / "source", Weights(), TOKEN)
    recipe = llmcompressor.loads((RECIPES / "int8-w8a8-static.yaml").read_text())
    method = type(recipe).model_fields["outliers"].annotation.__args__[0](method="m4")  # type: ignore[union-attr]
    made = recipe.model_copy(update={"outliers": method, "smoothquant": None})
    (source / "recipe.yaml").write_text(llmcompressor.dumps(made))
    run(source, "msmodelslim", tmp_path / "out")
    body = json.loads((tmp_path / "out/quant_model_description_w8a8_dynamic.json").read_text())
    assert body["model.norm.bias"] == "FLOAT" and body["model.norm.module.weight"] == "W8A8_DYNAMIC"


def test_keys_and_values_with_scales_of_their_own_kinds(tmp_path: Path, run: Run) -> None:
    """Keys by head and symmetric, values by tensor and not: every head gets the scale of the values, and keys get zeros."""
    folder = saved(tmp_path / "model", Weights())
    keys, values, zeros = torch.tensor([0.5, 0.25]), torch.tensor([0.125]), torch.tensor([3.0])
    name = "model.layers.0.self_attn"
    save_cache(folder, CacheScales(name, "int", 8, "head", False, keys, values, None, zeros))
    for format in ("lmdeploy-kv", "compressed-tensors"):
        run(folder, format, tmp_path / format)
        (cache,) = open_quantized(tmp_path / format).caches
        assert (cache.key_scale.tolist(), cache.value_scale.tolist()) == ([0.5, 0.25], [0.125, 0.125])
        assert cache.key_zero is not None and cache.key_zero.tolist() == [0, 0]
        assert cache.value_zero is not None and cache.value_zero.tolist() == [3, 3]
    uneven = CacheScales(name, "int", 8, "head", False, keys, torch.ones(8))
    with pytest.raises(OutputError, match="2 scales and its values 8"):
        even(uneven)


def test_what_comes_back_otherwise_is_found(tmp_path: Path) -> None:
    first = random_layer(Weights(), TOKEN, 8, 64)
    assert first.scale is not None
    other = dataclasses.replace(first, scale=first.scale * 1.01)
    with pytest.raises(ResultError, match=r"q_proj: a weight came back 1.00% of itself off"):
        compare(folder_of([first], tmp_path), folder_of([other], tmp_path))
    turned = dataclasses.replace(first, codes=-first.codes)
    with pytest.raises(ResultError, match="q_proj"):
        compare(folder_of([first], tmp_path), folder_of([turned], tmp_path))
    assert compare(folder_of([first], tmp_path), folder_of([first], tmp_path)) == 0


def cli(run: Run) -> typer.Typer:
    """The two commands, with jobs run in this process."""
    app = typer.Typer()

    def carry_out(store: JobStore, spec: ExportSpec) -> dict[str, Any]:
        return run(Path(spec.source), spec.format, Path(spec.out), spec.part_bytes)

    cli_export.add_to(app, carry_out)
    return app


def test_the_command_line(tmp_path: Path, run: Run) -> None:
    source = saved(tmp_path / "source", Weights(bits=4, strategy="group", group_size=32), None)
    words = ["export", str(source), "--out", str(tmp_path / "out"), "--workspace", str(tmp_path / "ws"), "--format"]
    done = CliRunner().invoke(cli(run), [*words, "awq", "--part-file-size", "0.00001", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["source_format"] == "compressed-tensors" and len(result["files"]) > 1
    again = CliRunner().invoke(cli(run), [*words, "awq"])
    assert isinstance(again.exception, OutputError)
    shutil.rmtree(tmp_path / "out")
    assert "every weight is the same" in CliRunner().invoke(cli(run), [*words, "msmodelslim"]).output
    for wrong in ("gguf", ""):
        assert isinstance(CliRunner().invoke(cli(run), [*words, wrong]).exception, QuantUIError)
    (tmp_path / "utf16.yaml").write_bytes("a: 1".encode("utf-16"))
    for name in ("utf16.yaml", "source", "none.yaml"):
        asked = ["formats", "--recipe", str(tmp_path / name)]
        assert isinstance(CliRunner().invoke(cli(run), asked).exception, RecipeError)


def test_a_run_stands_for_what_it_wrote(tmp_path: Path) -> None:
    source = saved(tmp_path / "made", Weights(), TOKEN)
    folder = tmp_path / "runs/20260101-000000-a"
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"out": str(source)}))
    (folder / "events.jsonl").write_text("")
    for given in (str(folder), folder.name):
        spec = prepare_export(None, source=given, format="awq", out=str(tmp_path / "o"), runs=tmp_path / "runs")
        assert spec.source == str(source)
    fine: dict[str, Any] = {"source": str(source), "format": "awq", "out": str(tmp_path / "o")}
    missing, inside = str(tmp_path / "no"), str(source / "in")
    odd = ({"source": " "}, {"out": ""}, {"format": "zip"}, {"source": missing}, {"out": inside}, {"source": "a" * 5000})
    sizes = ({"part_file_size": size} for size in (0.0, 1e-12, float("nan"), float("inf"), 1e300))
    (folder / "spec.json").write_bytes(b"\xff[]")
    for wrong in (*odd, *sizes, {"source": str(folder)}):
        with pytest.raises(QuantUIError):
            prepare_export(None, **(fine | wrong), runs=tmp_path / "runs")


def test_which_recipe_goes_where() -> None:
    def held(name: str) -> set[str]:
        recipe = llmcompressor.loads((RECIPES / f"{name}.yaml").read_text())
        return {fit.format for fit in fits(recipe) if fit.holds}

    assert {"msmodelslim", "ascend-v1", "compressed-tensors"} <= held("int8-w8a8-static")
    assert not {"awq", "msmodelslim"} & held("fp8-w8a8-kv8")
    levels = import_text("QuantConfig(w_bit=4, a_bit=16, w_method='NF')", "msmodelslim").recipe
    assert {fit.format for fit in fits(levels) if fit.holds} == {"msmodelslim", "ascend-v1", "numpy"}
    done = CliRunner().invoke(cli(lambda: {}), ["formats", "--json"])
    body = json.loads(done.stdout)
    assert body["formats"] == list(FORMATS) and "int8-w8a8-static" in body["recipes"]
    shown = CliRunner().invoke(cli(lambda: {}), ["formats", "--recipe", str(RECIPES / "fp8-w8a8-kv8.yaml")])
    assert "(1)" in shown.output and "yes" in shown.output
