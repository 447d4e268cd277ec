"""The whole job on msModelSlim's tiny models, run from its own parameters, against what it wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from quantui import cli_recipe
from quantui.events import EventWriter, Log
from quantui.formats.compressed_tensors_read import open_folder
from quantui.formats.run import export
from quantui.recipe import llmcompressor
from quantui.recipe.importing import import_text
from quantui.spec import ExportSpec
from tests.device import DEVICE
from tests.numerics.test_weights_msmodelslim import FIXTURES, same, tensors
from tests.quantize.conftest import Outcome, RunJob

pytestmark = pytest.mark.engine
GROUPS = "mm_tensor=False, is_lowbit=True, open_outlier=False, group_size=32"
PARAMETERS = {
    "w8a8_bf16": "QuantConfig(w_bit=8, a_bit=8, mm_tensor=False)",
    "nf4": "QuantConfig(w_bit=4, a_bit=16, w_method='NF')",
    "w4a8_dynamic": f"QuantConfig(w_bit=4, a_bit=8, is_dynamic=True, {GROUPS})",
    "w8a8s_lowbit": "QuantConfig(w_bit=4, a_bit=8, mm_tensor=False, is_lowbit=True, fraction=0.1)",
    "kv_w8a8": "QuantConfig(w_bit=8, a_bit=8, mm_tensor=False, use_kvcache_quant=True)",
    "kv_asym_w8a16": "QuantConfig(w_bit=8, a_bit=16, mm_tensor=False).kv_quant(kv_sym=False)",
    "anti_m4": "AntiOutlierConfig(anti_method='m4')\nQuantConfig(w_bit=8, a_bit=8, mm_tensor=False)",
}
"""Scenario -> what msModelSlim was told."""

COMMANDS = {
    "--w_bit 8 --a_bit 8": {"msmodelslim": "w8a8", "ascend-v1": "w8a8_ascendV1"},
    "--w_bit 4 --a_bit 16 --w_sym False --is_lowbit True --open_outlier False --group_size 32": {
        "msmodelslim": "w4a16_group",
        "ascend-v1": "w4a16_group_v1",
    },
}
"""Options of its scripts -> format -> scenario."""


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures' token ids as a calibration file."""
    file = tmp_path_factory.mktemp("tokens") / "calibration.yaml"
    path = FIXTURES / "calibration.safetensors"
    file.write_text(f"sources:\n  - {{kind: tokens, path: {path}}}\nsamples: 4\nmax_tokens: 64\nshuffle: false\n")
    return file


@pytest.fixture(scope="module", params=PARAMETERS)
def scenario(request: pytest.FixtureRequest, calibration: Path, run_job: RunJob) -> Any:
    """A scenario's name, the finished job, and what msModelSlim wrote."""
    name = str(request.param)
    source = {"w8a8_bf16": "model-bf16", "anti_m4": "model-outliers"}.get(name, "model")
    recipe = import_text(PARAMETERS[name], "msmodelslim").recipe
    outcome = run_job(FIXTURES / source, llmcompressor.dumps(recipe), calibration)
    assert outcome.failed is None, outcome.failed
    return name, outcome, tensors(name)


@pytest.mark.parametrize("options", COMMANDS)
def test_from_its_options_to_its_files(options: str, calibration: Path, run_job: RunJob, tmp_path: Path) -> None:
    """Names, order, dtypes, JSON and bytes; what hangs on activations to 1e-6 where layers before it add up otherwise."""
    import torch
    from safetensors.torch import load_file

    made = CliRunner().invoke(cli_recipe.app, ["import", options])
    assert made.exit_code == 0, made.output
    outcome = run_job(FIXTURES / "model", made.stdout, calibration)
    assert outcome.failed is None, outcome.failed
    assert any("no tokenizer" in log.text for log in outcome.of(Log))
    for form, name in COMMANDS[options].items():
        spec = ExportSpec(name="test", source=str(outcome.out), format=form, out=str(tmp_path / form))
        export(spec, EventWriter(tmp_path / "events.jsonl"), tmp_path)
        for reference in (FIXTURES / name).iterdir():
            written = tmp_path / form / reference.name
            if reference.suffix == ".json":
                body, wanted = (json.loads(file.read_text()) for file in (written, reference))
                assert list(body.items()) == list(wanted.items())
                continue
            found, expected = load_file(written), load_file(reference)
            assert list(found) == list(expected)
            for key, tensor in expected.items():
                if key.endswith("input_scale"):
                    torch.testing.assert_close(found[key], tensor, rtol=1e-6, atol=0)
                elif key.endswith("deq_scale"):  # the bits of a float32
                    assert int((found[key] - tensor).abs().max()) <= 8
                else:
                    same(found[key], tensor)


def tensors_of(folder: Path) -> dict[str, Any]:
    """All tensors of the result."""
    from safetensors.torch import load_file

    return dict(load_file(folder / "model.safetensors"))


def layers(outcome: Outcome) -> dict[str, Any]:
    """The quantized layers of the result by name."""
    return {layer.name: layer for layer in open_folder(outcome.out, "compressed-tensors").read()}


def test_weights(scenario: Any) -> None:
    """Codes, scales and offsets; those of smoothed layers as well, since their scales come out the same."""
    import torch

    name, outcome, expected = scenario
    found = layers(outcome)
    assert len(found) == 14
    for prefix, layer in found.items():
        if layer.weights.kind == "nf4":
            flat = layer.codes.flatten()
            same((flat[0::2] << 4) | flat[1::2], expected[f"{prefix}.weight"])
            assert layer.scale.shape == (len(flat) // 64,)
            continue
        same(layer.codes, expected[f"{prefix}.weight"])
        if (scale := expected.get(f"{prefix}.weight_scale")) is not None:
            if name.startswith("anti"):
                torch.testing.assert_close(layer.scale.reshape(scale.shape), scale, rtol=5e-6, atol=0)
            else:
                same(layer.scale.reshape(scale.shape), scale)
            zero = torch.zeros_like(scale) if layer.zero is None else layer.zero.to(scale.dtype).reshape(scale.shape)
            assert torch.equal(zero, expected[f"{prefix}.weight_offset"])
        if (second := expected.get(f"{prefix}.weight_scale_second")) is not None:
            same(layer.second, second)


def test_inputs(scenario: Any) -> None:
    """Every layer's scale to 1e-6 (a step of bfloat16 there), and its zero point."""
    import torch

    _, outcome, expected = scenario
    for prefix, layer in layers(outcome).items():
        scale = expected.get(f"{prefix}.input_scale")
        assert (scale is None) == (layer.input_scale is None)
        if scale is not None:
            tolerance = 2**-7 if scale.dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(layer.input_scale, scale, rtol=tolerance, atol=0)
            off = layer.input_zero.to(scale.dtype) - expected[f"{prefix}.input_offset"]
            assert float(off.abs().max()) <= (0 if DEVICE == "cpu" else 1)  # other kernels of attention round to another code


def test_norms(scenario: Any) -> None:
    """What they were divided by."""
    import torch

    _, outcome, expected = scenario
    left = {part.name: part for part in open_folder(outcome.out, "compressed-tensors").tensors}
    found = tensors_of(outcome.out)
    for name in left:
        if name.endswith("layernorm.weight"):
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=0)


def test_caches(scenario: Any) -> None:
    """Scales and offsets of every channel of keys before RoPE and of values."""
    import torch

    name, outcome, expected = scenario
    caches = open_folder(outcome.out, "compressed-tensors").caches
    assert len(caches) == (2 if name.startswith("kv") else 0)
    for cache in caches:
        assert cache.before_rope and cache.strategy == "channel"
        for linear, scale, zero in (
            (cache.key, cache.key_scale, cache.key_zero),
            (cache.value, cache.value_scale, cache.value_zero),
        ):
            torch.testing.assert_close(scale, expected[f"{linear}.kv_cache_scale"], rtol=1e-6, atol=0)
            offset = torch.zeros_like(scale) if zero is None else zero.to(scale.dtype)
            assert torch.equal(offset, expected[f"{linear}.kv_cache_offset"])
