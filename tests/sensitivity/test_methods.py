"""Each method against what it stands for, on tiny models of several kinds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.device import DEVICE
from tests.sensitivity.conftest import FP8, W4, W8A8, Bench

pytestmark = pytest.mark.engine
KINDS = ("llama", "qwen2", "glm", "mixtral")


def naive(bench: Bench, choice: dict[str, int]) -> float:
    """Nats over all tokens of a choice: two whole passes of the model and nothing clever."""
    import torch

    from quantui.sensitivity.exact import quantized

    total = 0.0
    with torch.no_grad():
        for batch in bench.batches:
            plain = torch.log_softmax(bench.model(**batch.inputs, use_cache=False).logits.double(), -1)
            with quantized(bench.model, bench.rounding, choice):
                other = torch.log_softmax(bench.model(**batch.inputs, use_cache=False).logits.double(), -1)
            total += float(((plain.exp() * (plain - other)).sum(-1) * batch.real).sum())
    return total


def summed(rows: dict[str, list[Any]]) -> Any:
    return sum(np.concatenate([one.numpy() for one in part]).sum(0) for part in rows.values())


@pytest.mark.parametrize("kind", KINDS)
def test_exact_equals_whole_passes(kind: str) -> None:
    from quantui.sensitivity.exact import exact

    bench = Bench.of(kind)
    found = exact(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted)
    values = summed(found.rows)
    tokens = sum(found.tokens)
    for place in range(0, len(found.columns), 5):
        name, scheme = found.columns[place]
        assert values[place] / tokens == pytest.approx(naive(bench, {name: scheme}) / tokens, abs=1e-6), name
    assert max(values) / tokens > 1e-4


def test_no_change_gives_exactly_nothing(llama: Bench) -> None:
    from quantui.recipe.schema import QuantGroup
    from quantui.sensitivity.candidates import Candidate
    from quantui.sensitivity.exact import exact, measure
    from quantui.sensitivity.rounding import Rounding

    same = Rounding((Candidate("float", QuantGroup(name="g")),), None)
    wanted = dict.fromkeys(llama.wanted, (0,))
    assert not summed(exact(llama.model, llama.tail, llama.batches, same, wanted).rows).any()
    assert not summed(measure(llama.model, llama.tail, llama.batches, same, [dict.fromkeys(wanted, 0), {}]).rows).any()


def test_several_layers_are_measured_at_once(llama: Bench) -> None:
    from quantui.sensitivity.exact import measure

    choice = dict.fromkeys(list(llama.wanted)[:5], 1)
    found = measure(llama.model, llama.tail, llama.batches, llama.rounding, [choice, {}])
    assert summed(found.rows) == pytest.approx([naive(llama, choice), 0.0], rel=1e-3, abs=1e-9)


def test_a_head_that_is_scored_counts_like_a_layer(llama: Bench) -> None:
    from quantui.sensitivity.exact import exact
    from quantui.sensitivity.fisher import fisher
    from quantui.sensitivity.path import path

    wanted = {"lm_head": (0, 1)}
    truth = [naive(llama, {"lm_head": scheme}) for scheme in (0, 1)]
    assert summed(exact(llama.model, llama.tail, llama.batches, llama.rounding, wanted).rows) == pytest.approx(truth, rel=1e-3)
    assert summed(path(llama.model, llama.tail, llama.batches, llama.rounding, wanted).rows) == pytest.approx(truth, rel=0.05)
    products = fisher(llama.model, llama.tail, llama.batches, llama.rounding, wanted, draws=64)
    rows = np.concatenate([one.numpy() for one in products.rows["text"]])
    assert np.square(rows).mean(1).sum(0) / 2 == pytest.approx(truth, rel=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_foretells_exact(kind: str) -> None:
    from quantui.sensitivity.exact import exact
    from quantui.sensitivity.fisher import fisher

    bench = Bench.of(kind, (W8A8, W4, FP8))
    products = fisher(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted, draws=16)
    rows = np.concatenate([one.numpy() for one in products.rows["text"]]).astype(np.float64)
    guess = np.square(rows).mean(1).sum(0) / 2
    truth = summed(exact(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted).rows)
    for scheme in range(3):
        of = [place for place, (_, one) in enumerate(products.columns) if one == scheme]
        ranks = [np.argsort(np.argsort(values[of])) for values in (guess, truth)]
        assert np.corrcoef(*ranks)[0, 1] > (0.5 if kind == "mixtral" else 0.8)  # tokens that change their expert jump
    assert products.samples == [number for batch in bench.batches for number in batch.samples]


@pytest.mark.parametrize("kind", ("llama", "mixtral"))
def test_the_shares_of_a_path_sum_to_the_whole(kind: str) -> None:
    from quantui.sensitivity.exact import measure
    from quantui.sensitivity.path import path

    bench = Bench.of(kind)
    shares = path(bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted)
    values = summed(shares.rows)
    for scheme in (0, 1):
        of = [place for place, (_, one) in enumerate(shares.columns) if one == scheme]
        choice = [dict.fromkeys(bench.wanted, scheme)]
        whole = summed(measure(bench.model, bench.tail, bench.batches, bench.rounding, choice).rows)[0]
        jumps = 0.3 if kind == "mixtral" else 0.15  # a token that takes another expert leaves the path
        assert values[of].sum() == pytest.approx(whole, rel=jumps)


def test_padding_and_batches_change_nothing() -> None:
    from quantui.sensitivity.exact import exact

    one, many = Bench.of("llama", tokens=1), Bench.of("llama", tokens=4096)
    assert len(one.batches) == 5 and len(many.batches) == 1
    sums = [summed(exact(b.model, b.tail, b.batches, b.rounding, b.wanted).rows) for b in (one, many)]
    assert sums[0] == pytest.approx(sums[1], rel=0.05, abs=1e-4)  # a value on the border of two codes may fall either way


def test_local_errors_are_those_of_each_layer(llama: Bench) -> None:
    import torch

    from quantui.sensitivity.local import local

    found = local(llama.model, llama.batches, llama.rounding, llama.wanted)
    name = "model.layers.1.mlp.down_proj"
    place = found.columns.index((name, 1))
    seen = []
    module = llama.model.get_submodule(name)
    handle = module.register_forward_hook(lambda _m, args, out: seen.append((args[0], out)))
    with torch.no_grad():
        llama.model(**llama.batches[0].inputs, use_cache=False)
    handle.remove()
    x, out = seen[0]
    from quantui.numerics.fake import fake_weight

    weight = fake_weight(module.weight, W4.group.weights)
    error = ((torch.nn.functional.linear(x, weight) - out).square().sum(-1) * llama.batches[0].real).sum(1)
    assert found.errors[0][:, place].numpy() == pytest.approx(error.double().detach().numpy(), rel=1e-4)


def test_squares_of_half_precision_are_added_up_in_more() -> None:
    import torch

    from quantui.sensitivity.batches import make_batches
    from quantui.sensitivity.local import _by_row

    (batch,) = make_batches([{"input_ids": torch.ones(1, length, dtype=torch.long)} for length in (2, 3)])
    (alone,) = make_batches([{"input_ids": torch.ones(1, 3, dtype=torch.long)}])
    assert _by_row(torch.full((2, 3, 8), 300.0, dtype=torch.float16), batch, None).tolist() == [16 * 9e4, 24 * 9e4]
    assert _by_row(torch.full((1, 3, 8), 300.0, dtype=torch.float16), alone, None).tolist() == [24 * 9e4]


@pytest.mark.skipif(DEVICE == "cpu", reason="needs an accelerator")
@pytest.mark.parametrize("kind", ["mixtral", "internvl"])
def test_an_accelerator_finds_what_the_cpu_does(kind: str) -> None:
    from quantui.devices import torch_device
    from quantui.sensitivity.exact import exact
    from quantui.sensitivity.fisher import fisher
    from quantui.sensitivity.local import local
    from quantui.sensitivity.path import path

    def found(bench: Bench) -> list[Any]:
        given = bench.model, bench.tail, bench.batches, bench.rounding, bench.wanted
        errors = local(bench.model, bench.batches, bench.rounding, bench.wanted).errors
        return [summed(exact(*given).rows), summed(path(*given).rows), summed(fisher(*given).rows), summed({"": errors})]

    known = (W8A8, W4, FP8)
    for here, there in zip(
        found(Bench.of(kind, known)), found(Bench.of(kind, known, device=torch_device(DEVICE))), strict=True
    ):
        assert np.abs(here - there).max() < 1e-3 * np.abs(here).max()


@pytest.mark.parametrize("kind", ("llama", "glm", "mixtral"))
def test_a_model_that_is_streamed_has_the_same_local_errors(kind: str, tmp_path: Path) -> None:
    import torch

    from quantui.checkpoint.files import open_checkpoint
    from quantui.sensitivity.local import local
    from quantui.sensitivity.streamed import Streamed, local_streamed

    bench = Bench.of(kind)
    bench.model.save_pretrained(tmp_path / kind)
    bench.wanted["lm_head"] = (1,)  # what comes after the decoder layers
    plain = local(bench.model, bench.batches, bench.rounding, bench.wanted)
    streamed = Streamed(open_checkpoint(tmp_path / kind), torch.device("cpu"))
    found, inputs = local_streamed(streamed, bench.batches, (W8A8, W4), bench.wanted)
    assert all(torch.equal(*pair) for pair in zip(plain.errors, found.errors, strict=True))
    assert all(torch.equal(*pair) for pair in zip(plain.outputs, found.outputs, strict=True))
    assert {name: one.scores() for name, one in plain.inputs.items()} == {n: one.scores() for n, one in found.inputs.items()}
    assert set(inputs) == set(bench.wanted)
    assert {parameter.device.type for block in streamed.blocks for parameter in block.parameters()} == {"meta"}


def test_files_with_other_names_cannot_be_streamed(tmp_path: Path) -> None:
    import torch

    from quantui.checkpoint.files import open_checkpoint
    from quantui.errors import CheckpointError
    from quantui.sensitivity.streamed import Streamed
    from tests.stats.models import make

    make("mixtral").save_pretrained(tmp_path / "mixtral")
    checkpoint = open_checkpoint(tmp_path / "mixtral")
    other = {name.replace("layers.1.", "blocks.1."): tensor for name, tensor in checkpoint.tensors.items()}
    with pytest.raises(CheckpointError, match=r"one decoder layer at a time.*model\.layers\.1"):
        Streamed(replace(checkpoint, tensors=other), torch.device("cpu"))
    left = {name: tensor for name, tensor in checkpoint.tensors.items() if "layers.1.self_attn.q_proj" not in name}
    streamed = Streamed(replace(checkpoint, tensors=left), torch.device("cpu"))
    with (
        pytest.raises(CheckpointError, match=r"model\.layers\.1\.self_attn\.q_proj\.weight is not in its files"),
        streamed.block(1),
    ):
        pass


@pytest.mark.parametrize("strategy", ("tensor", "attn_head", "channel", "token"))
def test_keys_and_values_are_scored_like_layers(strategy: str) -> None:
    from quantui.recipe.schema import QuantArgs
    from quantui.sensitivity.exact import exact
    from quantui.sensitivity.fisher import fisher
    from quantui.sensitivity.rounding import Rounding, find_ranges

    bench = Bench.of("llama")
    args = QuantArgs(num_bits=4, strategy=strategy, dynamic=strategy == "token", symmetric=strategy != "channel")
    ranges = find_ranges(bench.model, bench.tail, bench.batches, caches=True)
    bench.rounding = Rounding((W8A8, W4), ranges, caches=(args, args))
    names = [f"model.layers.{block}.self_attn.{role}_cache" for block in (0, 1) for role in "kv"]
    wanted = dict.fromkeys(names, (2,))
    truth = summed(exact(bench.model, bench.tail, bench.batches, bench.rounding, wanted).rows)
    assert truth[1] == pytest.approx(naive(bench, {names[1]: 2}), rel=1e-3)
    products = fisher(bench.model, bench.tail, bench.batches, bench.rounding, wanted, draws=32)
    rows = np.concatenate([one.numpy() for one in products.rows["text"]]).astype(np.float64)
    guess = np.square(rows).mean(1).sum(0) / 2
    assert (truth > 0).all()
    assert np.log(guess / truth) == pytest.approx(np.zeros(4), abs=0.9)


def test_a_model_goes_on_talking_with_its_own_cache_behind_the_rounding() -> None:
    import torch

    from quantui.sensitivity.sites import routed

    bench = Bench.of("llama")
    asked = {
        "input_ids": torch.arange(3, 9)[None],
        "max_new_tokens": 8,
        "do_sample": False,
        "pad_token_id": 0,
        "eos_token_id": [],
    }
    plain = bench.model.generate(**asked)
    seen: list[tuple[int, ...]] = []
    with routed(bench.model, lambda site, x, _: site.product(x), lambda _name, _role, x: seen.append(tuple(x.shape)) or x):
        told = bench.model.generate(**asked)
    assert torch.equal(told, plain)
    assert len(seen) == 8 * 2 * 2 and seen[0][2] == 6 and seen[-1][2] == 1  # tokens, blocks, keys and values


@pytest.mark.parametrize("strategy", ("tensor", "channel", "group", "block"))
@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("symmetric", (True, False))
def test_weights_come_back_as_from_the_engine(strategy: str, bits: int, symmetric: bool) -> None:
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils.helpers import calculate_qparams

    from quantui.numerics.fake import _extremes, engine_args, fake_weight
    from quantui.recipe.schema import QuantArgs

    shape = {"group_size": 16} if strategy == "group" else {"block_structure": (16, 16)} if strategy == "block" else {}
    args = QuantArgs(num_bits=bits, strategy=strategy, symmetric=symmetric, **shape)
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    theirs = engine_args(args)
    scale, zero = calculate_qparams(*_extremes(weight, args), theirs)
    assert torch.equal(fake_weight(weight, args), fake_quantize(weight, scale, zero, theirs))
