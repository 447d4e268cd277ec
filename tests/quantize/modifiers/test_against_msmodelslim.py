"""The whole job on msModelSlim's tiny models, run from its own parameters, against what it wrote."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from quantui.formats.compressed_tensors_read import open_folder
from quantui.recipe import llmcompressor
from quantui.recipe.importing import import_text
from tests.models.tiny import tokenizer
from tests.numerics.test_weights_msmodelslim import FIXTURES, same, tensors
from tests.quantize.conftest import Outcome, RunJob

pytestmark = pytest.mark.engine
GROUPS = "mm_tensor=False, is_lowbit=True, open_outlier=False, group_size=32"
PARAMETERS = {
    "w8a8_bf16": "QuantConfig(w_bit=8, a_bit=8, mm_tensor=False)",
    "nf4": "QuantConfig(w_bit=4, a_bit=16, w_method='NF')",
    "w8a16_group": f"QuantConfig(w_bit=8, a_bit=16, w_sym=False, {GROUPS})",
    "w4a8_dynamic": f"QuantConfig(w_bit=4, a_bit=8, is_dynamic=True, {GROUPS})",
    "w8a8s_lowbit": "QuantConfig(w_bit=4, a_bit=8, mm_tensor=False, is_lowbit=True, fraction=0.1)",
    "kv_w8a8": "QuantConfig(w_bit=8, a_bit=8, mm_tensor=False, use_kvcache_quant=True)",
    "kv_asym_w8a16": "QuantConfig(w_bit=8, a_bit=16, mm_tensor=False).kv_quant(kv_sym=False)",
    "anti_m4": "AntiOutlierConfig(anti_method='m4')\nQuantConfig(w_bit=8, a_bit=8, mm_tensor=False)",
}
"""Scenario -> what msModelSlim was told."""


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixtures' token ids as a calibration file."""
    file = tmp_path_factory.mktemp("tokens") / "calibration.yaml"
    path = FIXTURES / "calibration.safetensors"
    file.write_text(f"sources:\n  - {{kind: tokens, path: {path}}}\nsamples: 4\nmax_tokens: 64\nshuffle: false\n")
    return file


@pytest.fixture(scope="module", params=PARAMETERS)
def scenario(
    request: pytest.FixtureRequest, calibration: Path, run_job: RunJob, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """A scenario's name, the finished job, and what msModelSlim wrote."""
    name = str(request.param)
    source = {"w8a8_bf16": "model-bf16", "anti_m4": "model-outliers"}.get(name, "model")
    folder = tmp_path_factory.mktemp(name) / "model"
    shutil.copytree(FIXTURES / source, folder)
    tokenizer().save_pretrained(folder)
    recipe = import_text(PARAMETERS[name], "msmodelslim").recipe
    outcome = run_job(folder, llmcompressor.dumps(recipe), calibration)
    assert outcome.failed is None, outcome.failed
    return name, outcome, tensors(name)


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
            assert torch.equal(layer.input_zero.to(scale.dtype), expected[f"{prefix}.input_offset"])


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
