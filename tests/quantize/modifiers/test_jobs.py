"""Jobs with the methods that the engine does not have, from a recipe to a folder that opens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from quantui.events import Log
from quantui.formats.catalog import FORMATS
from quantui.formats.compressed_tensors_read import open_folder
from quantui.recipe import llmcompressor
from quantui.recipe.importing import import_text
from quantui.workspace import RECIPES
from tests.models.tiny import tokenizer
from tests.numerics.test_lmdeploy_weights import FIXTURES, tensors, unpacked
from tests.quantize.conftest import Outcome, RunJob

pytestmark = pytest.mark.engine
HEAD = "quant_stage:\n  quant_modifiers:\n"
WEIGHTS = "{num_bits: 4, strategy: group, group_size: 32, symmetric: false}"
HQQ = f"{HEAD}    HQQModifier: {{ignore: [lm_head], config_groups: {{g: {{targets: [Linear], weights: {WEIGHTS}}}}}}}\n"
CACHES = f"""{HEAD}    KVCacheModifier:
      keys: {{num_bits: 8, type: float, strategy: attn_head, observer: static_minmax}}
      values: {{num_bits: 8, symmetric: false, strategy: tensor, observer: static_minmax}}
    QuantizationModifier: {{targets: []}}
"""
RANGES = f"""{HEAD}    QuantizationModifier:
      ignore: [lm_head]
      config_groups:
        cut:
          targets: ['re:.*down_proj']
          weights: {{strategy: channel}}
          input_activations: {{symmetric: false, observer: histogram}}
        chosen:
          targets: ['re:.*o_proj']
          weights: {{strategy: channel}}
          input_activations: {{symmetric: false, observer: auto}}
        whole:
          targets: ['re:.*up_proj']
          weights: {{strategy: channel}}
          input_activations: {{symmetric: false, observer: static_minmax}}
"""


def layers(outcome: Outcome) -> dict[str, Any]:
    """The quantized layers of a result by name."""
    assert outcome.failed is None, outcome.failed
    return {layer.name: layer for layer in open_folder(outcome.out, "compressed-tensors").read()}


def test_hqq_needs_no_samples_and_loses_less(llama: Path, run_job: RunJob) -> None:
    """Than extremes, in every layer's weights."""
    from safetensors.torch import load_file

    plain, found = layers(run_job(llama, HQQ.replace("HQQ", "Quantization"), None)), layers(run_job(llama, HQQ, None))
    original = load_file(llama / "model.safetensors")
    for name, layer in found.items():
        weight = original[f"{name}.weight"].float()
        before, after = ((side.dequantize() - weight).square().sum() for side in (plain[name], layer))
        assert after < 0.98 * before


def test_outliers_of_a_model_that_reads_pictures(internvl: Path, pictures: Path, run_job: RunJob) -> None:
    """The shipped recipe: ranges are those from after the outliers were moved, though the whole model is calibrated at once."""
    outcome = run_job(internvl, (RECIPES / "internvl2-w8a8-m2.yaml").read_text(), pictures)
    found = layers(outcome)
    assert any("vision_tower" in name for name in found) and not any(name.endswith("down_proj") for name in found)
    assert outcome.result is not None and outcome.result["reopen_max_logit_difference"] < 1


def test_sparse_weights_are_kept_for_exports(llama: Path, chats: Path, run_job: RunJob) -> None:
    """The shipped recipe: int8 codes of which most stay within 4 bits."""
    outcome = run_job(llama, (RECIPES / "int8-w4a8-sparse.yaml").read_text().replace("0.01\n", "0.1\n"), chats)
    found = layers(outcome)
    assert len(found) == 14 and all(layer.weights.sparse and layer.inputs is not None for layer in found.values())
    for layer in found.values():
        beyond = float((layer.codes.abs() > 7).float().mean())
        assert 0 < beyond < 0.1
    assert any("quantized-layers" in log.text for log in outcome.of(Log))


def test_keys_and_values_cached_apart(llama: Path, chats: Path, run_job: RunJob) -> None:
    """A scale a head for keys as the cache holds them, one for values; the weights stay as they are."""
    outcome = run_job(llama, CACHES, chats)
    assert outcome.failed is None, outcome.failed
    caches = open_folder_of_caches(outcome.out)
    assert len(caches) == 2
    for cache in caches:
        assert (cache.strategy, cache.before_rope) == ("head", False)
        assert cache.key_scale.shape == (2,) and cache.value_scale.shape == (1,) and cache.value_zero is not None
    assert outcome.result is not None and outcome.result["kv_layers"] == 2


def open_folder_of_caches(folder: Path) -> list[Any]:
    """The K/V scales kept beside a model."""
    from quantui.numerics.layerfiles import cache_files, load_cache

    return [load_cache(file) for file in cache_files(folder)]


def test_ranges_are_cut_where_that_loses_less(llama: Path, chats: Path, run_job: RunJob) -> None:
    """All three observers in one job."""
    found = layers(run_job(llama, RANGES, chats))
    assert len(found) == 6
    assert all(float(layer.input_scale) > 0 for layer in found.values())


def test_plain_rounding_of_lmdeploy(run_job: RunJob, tmp_path: Path) -> None:
    """From its command line to its codes."""
    import torch

    shutil.copytree(FIXTURES / "model-gqa", tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    recipe = import_text("lmdeploy lite auto_awq m --calib-samples 0").recipe
    found = layers(run_job(tmp_path / "model", llmcompressor.dumps(recipe), None))
    expected = tensors("gqa-awq_rtn/model.safetensors")
    assert len(found) == 14
    for name, layer in found.items():
        assert torch.equal(layer.codes.T.long() + 8, unpacked(expected[f"{name}.qweight"]))
        assert torch.equal(layer.zero.T.long() + 8, unpacked(expected[f"{name}.qzeros"]))
        assert torch.equal(layer.scale.T.contiguous().view(torch.int16), expected[f"{name}.scales"].view(torch.int16))


def test_each_rank_has_scales_of_its_own(llama: Path, chats: Path, run_job: RunJob) -> None:
    """As msModelSlim would round what one of two tensor-parallel ranks has of o_proj and down_proj."""
    import torch
    from safetensors.torch import load_file

    recipe = import_text("QuantConfig(w_bit=8, a_bit=8, mm_tensor=False).simulate_tp(2)", "msmodelslim").recipe
    outcome = run_job(llama, llmcompressor.dumps(recipe), chats)
    original = load_file(llama / "model.safetensors")
    for name, layer in layers(outcome).items():
        weight = original[f"{name}.weight"]
        ranks = 2 if name.endswith(("o_proj", "down_proj")) else 1
        parts = weight.chunk(ranks, 1)
        scales = [part.abs().amax(1, keepdim=True) / 127 for part in parts]
        assert torch.equal(layer.scale, torch.cat(scales, 1))
        assert layer.input_scale.shape == (ranks,) and bool((layer.input_scale > 0).all())
        codes = [(part / scale).round().clamp(-127, 127).to(torch.int8) for part, scale in zip(parts, scales, strict=True)]
        assert torch.equal(layer.codes, torch.cat(codes, 1))
    part = next(part for part in open_folder(outcome.out, "compressed-tensors").layers if part.name.endswith("o_proj"))
    assert FORMATS["msmodelslim"].refusal(part.outline) is None
    assert "each tensor-parallel rank has scales of its own" in str(FORMATS["numpy"].refusal(part.outline))
