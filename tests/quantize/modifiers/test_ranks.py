"""Inputs of o_proj and down_proj with a static scale for each tensor-parallel rank, from the recipe to what is exported."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from quantui.formats.catalog import FORMATS, open_quantized
from quantui.formats.compressed_tensors_read import open_folder
from quantui.formats.reread import compare
from tests.quantize.conftest import RunJob

pytestmark = pytest.mark.engine
RANKS = 4
RECIPE = f"""quant_stage:
  quant_modifiers:
    QuantizationModifier:
      config_groups:
        dealt:
          targets: ['re:.*(o_proj|down_proj)$']
          weights: {{strategy: channel, observer_kwargs: {{shards: {RANKS}, sent: rank}}}}
          input_activations: {{symmetric: false, observer: static_minmax}}
"""


def tokens(folder: Path) -> Path:
    """A calibration file of four samples, and the samples in tokens.safetensors beside it."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file({"input_ids": torch.randint(3, 30, (4, 24))}, str(folder / "tokens.safetensors"))
    file = folder / "calibration.yaml"
    file.write_text("sources:\n  - {kind: tokens, path: tokens.safetensors}\nsamples: 4\nmax_tokens: 64\nshuffle: false\n")
    return file


def seen(folder: Path, name: str, samples: Path) -> Any:
    """What a layer of the float model gets, (tokens, channels)."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model, held = AutoModelForCausalLM.from_pretrained(folder), []
    model.get_submodule(name).register_forward_pre_hook(lambda _, args: held.append(args[0].flatten(0, -2)))
    with torch.no_grad():
        for row in load_file(samples.parent / "tokens.safetensors")["input_ids"]:
            model(row[None])
    return torch.cat(held)


def test_each_rank_has_the_range_of_its_own_channels(llama: Path, run_job: RunJob, tmp_path: Path) -> None:
    import torch

    from quantui.compare.pair import open_pair

    file = tokens(tmp_path)
    outcome = run_job(llama, RECIPE, file)
    assert outcome.failed is None, outcome.failed
    opened = open_folder(outcome.out, "compressed-tensors")
    name = "model.layers.0.self_attn.o_proj"  # nothing before it is quantized
    layer = next(layer for layer in opened.read() if layer.name == name)
    x = seen(llama, name, file)
    parts = x.float().chunk(RANKS, 1)
    low, high = (torch.stack([end(part) for part in parts]) for end in (torch.amin, torch.amax))
    wanted = (high.clamp(min=0) - low.clamp(max=0)) / 255
    assert layer.input_scale is not None and layer.input_zero is not None and layer.inputs is not None
    torch.testing.assert_close(layer.input_scale.float(), wanted, rtol=2**-7, atol=0)  # bfloat16, twice
    assert len(set(layer.input_scale.tolist())) > 1 and layer.inputs.by_rank
    outputs = torch.stack([part @ own.T for part, own in zip(parts, layer.dequantize().chunk(RANKS, 1), strict=True)])
    assert layer.reduce_scale is not None and layer.gather_scale is not None and layer.gather_scale.shape == (x.shape[1],)
    torch.testing.assert_close(layer.reduce_scale.float() * 127, outputs.abs().amax(1), rtol=0.05, atol=0.02)

    pair = open_pair(llama, outcome.out, device="cpu")
    site = pair.sites[name]
    assert site.inputs is not None
    scale, zero = (values.float().repeat_interleave(x.shape[1] // RANKS) for values in (layer.input_scale, layer.input_zero))
    rounded = ((x.float() / scale).round() + zero).clamp(-128, 127)
    off = (site.inputs(x[None])[0].float() - (rounded - zero) * scale).abs()
    assert bool((off <= 1.5 * scale).all()) and float((off <= 0.3 * scale).float().mean()) > 0.9  # bfloat16 rounds twice

    for format in ("msmodelslim", "ascend-v1", "compressed-tensors"):
        (tmp_path / format).mkdir()
        FORMATS[format].write(opened, tmp_path / format)
        again = open_quantized(tmp_path / format)
        compare(opened, again)
        back = next(layer for layer in again.read() if layer.name == name)
        assert back.input_scale is not None
        if format != "compressed-tensors":
            assert torch.equal(back.input_scale, layer.input_scale) and torch.equal(
                back.input_zero.to(torch.int8), layer.input_zero
            )
        else:  # one scale over the ranges of all ranks, as the folder itself has for transformers
            assert torch.equal(back.input_scale, opened_plainly(outcome.out, name))


def opened_plainly(folder: Path, name: str) -> Any:
    """The input scale that transformers finds in a folder."""
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")[f"{name}.input_scale"]


@pytest.mark.parametrize("kind", ["rank", "all"])
def test_what_ranks_send_has_the_range_of_their_parts(kind: str) -> None:
    import torch

    from quantui.quantize.sent import FOUND, find_sent, parts_of

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.o_proj = torch.nn.Linear(64, 8)
            weights = SimpleNamespace(observer_kwargs={"shards": RANKS, "sent": kind})
            self.o_proj.quantization_scheme = SimpleNamespace(weights=weights)  # type: ignore[assignment]

        def forward(self, x: Any) -> Any:
            return self.o_proj(x)

    torch.manual_seed(0)
    model, batches = Model(), [torch.randn(1, 5, 64) * torch.arange(1, 65) for _ in range(3)]
    assert find_sent(model, ({"x": batch} for batch in batches)) == 1
    reduce, gather = getattr(model.o_proj, FOUND)
    weight, bias = model.o_proj.weight.detach(), model.o_proj.bias.detach()
    parts = torch.stack([torch.cat(batches, 1)[0][:, cut] @ weight[:, cut].T for cut in slices(64)])
    parts[0] += bias
    tops = parts.abs().amax(1) / 127
    torch.testing.assert_close(reduce, tops if kind == "rank" else tops.amax(0, keepdim=True))
    step = reduce.sum(0) if kind == "rank" else RANKS * reduce[0]
    assert bool(((gather * 127 - parts.sum(0).abs().amax(0)).abs() <= step / 2 + 1e-3).all())
    whole = sum(parts_of(model.o_proj, batches[0], RANKS))
    torch.testing.assert_close(whole, model.o_proj(batches[0]))


def slices(columns: int) -> list[slice]:
    """The columns of each rank."""
    size = columns // RANKS
    return [slice(start, start + size) for start in range(0, columns, size)]


def test_layers_without_static_inputs_are_dealt_from_the_folder_itself(llama: Path, run_job: RunJob, tmp_path: Path) -> None:
    """The engine's files hold their scales as groups, and its config.json that these are ranks."""
    dealt = "weights: {strategy: channel, observer_kwargs: {shards: 4}}"
    recipe = f"""quant_stage:
  quant_modifiers:
    QuantizationModifier:
      config_groups:
        alone: {{targets: ['re:.*o_proj$'], {dealt}}}
        by_token: {{targets: ['re:.*down_proj$'], {dealt}, input_activations: {{strategy: token, dynamic: true}}}}
"""
    outcome = run_job(llama, recipe, None)
    assert outcome.failed is None, outcome.failed
    opened = open_folder(outcome.out, "compressed-tensors")
    assert {layer.outline.weights.ranks for layer in opened.layers} == {RANKS}
    FORMATS["msmodelslim"].write(opened, tmp_path)
    body = json.loads(next(tmp_path.glob("quant_model_description*.json")).read_text())
    last = {name: label for name, label in body.items() if name.startswith("model.layers.0.") and "tp_list.3" in name}
    leaves = ("weight", "weight_scale", "weight_offset")
    owners = {"self_attn.o_proj": "W8A16", "mlp.down_proj": "W8A8_DYNAMIC"}
    assert last == {f"model.layers.0.{owner}.tp_list.3.{leaf}": label for owner, label in owners.items() for leaf in leaves}
    compare(opened, open_quantized(tmp_path))


def test_means_of_extremes_go_by_rank() -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    from quantui.quantize.progressive import find_progressively

    class Model(torch.nn.Module):
        device = torch.device("cpu")

        def __init__(self) -> None:
            super().__init__()
            self.o_proj = torch.nn.Linear(64, 8)
            args = QuantizationArgs(num_bits=8, symmetric=False, strategy="group", group_size=32, observer="msmodelslim")
            self.o_proj.quantization_scheme = QuantizationScheme(targets=["Linear"], input_activations=args)  # type: ignore[assignment]
            for leaf, dtype in (("input_scale", torch.float32), ("input_zero_point", torch.int8)):
                setattr(self.o_proj, leaf, torch.nn.Parameter(torch.zeros(2, dtype=dtype), requires_grad=False))

        def forward(self, x: Any) -> Any:
            return self.o_proj(x)

    torch.manual_seed(0)
    model, batches = Model(), [torch.randn(1, 5, 64) * torch.arange(1, 65) for _ in range(3)]
    assert find_progressively(model, ({"x": batch} for batch in batches)) == 1
    ends = [
        torch.stack([getattr(b, end)((0, 1, 3)) for b in (x.unflatten(-1, (2, 32)) for x in batches)]).mean(0)
        for end in ("amin", "amax")
    ]
    torch.testing.assert_close(model.o_proj.input_scale.data, (ends[1] - ends[0]) / 255)


@pytest.mark.parametrize("name", ["histogram", "auto"])
def test_ranges_are_cut_rank_by_rank(name: str) -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from llmcompressor.observers import Observer

    import quantui.quantize.observers.histogram  # noqa: F401

    torch.manual_seed(0)
    both = torch.randn(50, 2, 32) * torch.tensor([1.0, 30.0])[None, :, None]
    both[0, 1, 0] = 3e4

    def found(observed: Any) -> Any:
        observer = Observer.load_from_registry(name, base_name="input", args=QuantizationArgs(num_bits=8, symmetric=False))
        observer.update_statistics_from_observed(observed)
        return SimpleNamespace(**observer.get_qparams())

    apart, together = [found(both[:, rank : rank + 1]) for rank in range(2)], found(both)
    assert torch.equal(together.scale, torch.cat([one.scale for one in apart]))
    assert torch.equal(together.zero_point, torch.cat([one.zero_point for one in apart]))
