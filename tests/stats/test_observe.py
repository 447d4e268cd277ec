"""The pass against everything computed directly in float64 on the concatenated activations."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from quantui.errors import CalibrationError, ResultError
from quantui.stats.collect import NotFiniteError
from quantui.stats.finish import finish
from quantui.stats.observe import observe
from quantui.stats.table import StatsTable
from quantui.stats.weights import look_at_weights
from tests.stats.models import Recorder, make, padded, token_batches

pytestmark = pytest.mark.engine


def table_of(model: Any, batches: list[dict[str, Any]], **options: Any) -> StatsTable:
    return finish(model, observe(model, batches, **options), None, {})


def picture_batches() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)
    batches = token_batches((9, 14))
    for tiles, batch in enumerate(batches, 1):
        batch["input_ids"][0, 1:5] = 90
        batch["pixel_values"] = torch.randn(1, 3, 56, 56, generator=generator)
        if tiles == 2:
            batch["pixel_values"] = torch.randn(2, 3, 56, 56, generator=generator)
            batch["input_ids"][0, 5:9] = 90
    return batches


def compare(table: StatsTable, recorder: Recorder, name: str, role: str, kept: str | None = None) -> None:
    """All base statistics and positions of one tensor."""
    rows = recorder.rows(kept or name, role)
    expected = {"max": rows.amax(0), "min": rows.amin(0), "mean": rows.mean(0), "absmean": rows.abs().mean(0)}
    expected["absmax"] = rows.abs().amax(0)
    scale = float(rows.abs().max())
    for stat, values in expected.items():
        np.testing.assert_allclose(table.stat(name, role, stat).reshape(-1), values, rtol=2e-5, atol=2e-6 * scale, err_msg=stat)
    assert table.tokens(name, role) == len(rows)


def compare_positions(table: StatsTable, recorder: Recorder, name: str, role: str, kept: str | None = None) -> None:
    """The value found where the table says the extreme is."""
    per_sample: dict[int, Any] = {}
    for sample, rows in recorder.kept[kept or name, role]:
        assert sample not in per_sample
        per_sample[sample] = rows
    for side in ("max", "min"):
        samples = table.stat(name, role, f"{side}_sample").reshape(-1)
        tokens = table.stat(name, role, f"{side}_token").reshape(-1)
        found = [float(per_sample[s][t, c]) for c, (s, t) in enumerate(zip(samples, tokens, strict=True))]
        np.testing.assert_allclose(found, table.stat(name, role, side).reshape(-1), rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "glm", "phi3", "qwen3", "gpt2"])
def test_every_linear_norm_key_and_value_is_as_computed_directly(kind: str) -> None:
    model = make(kind)
    batches = token_batches()
    table = table_of(model, batches)
    recorder = Recorder(model)
    recorder.run(model, batches)
    linears = [name for name, module in model.named_modules() if type(module).__name__ in ("Linear", "Conv1D")]
    assert sorted(linears) == sorted(layer.name for layer in table.layers)
    for name, role in recorder.kept:
        if role in ("input", "output"):
            compare(table, recorder, name, role)
            if not name.endswith(("q_norm", "k_norm")):
                compare_positions(table, recorder, name, role)
    for number, name in enumerate(table.attention):
        config = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        assert table.stat(name, "key", "max").shape == (heads, head_dim)
        for role in ("key", "value"):
            compare(table, recorder, name, role, str(number))
            compare_positions(table, recorder, name, role, str(number))
            std = recorder.rows(str(number), role).std(0, correction=0)
            np.testing.assert_allclose(table.stat(name, role, "std").reshape(-1), std, rtol=1e-4, atol=1e-6)
    assert len(table.attention) == 2


def test_a_conv1d_is_a_linear_with_its_weight_the_other_way_round() -> None:
    model = make("gpt2")
    table = finish(model, observe(model, token_batches((9,))), look_at_weights(model), {})
    layer = next(layer for layer in table.layers if layer.name == "transformer.h.1.mlp.c_proj")
    assert (layer.place.kind, layer.inputs, layer.outputs) == ("down", 48, 32)
    weight = model.transformer.h[1].mlp.c_proj.weight.detach().numpy()
    np.testing.assert_array_equal(table.weight(layer, "max"), weight.max(0))
    assert table.stat(layer.name, "input", "max").shape == (48,)
    kinds = [layer.place.kind for layer in table.layers if layer.place.block == 0]
    assert kinds == ["qkv", "o", "up", "down"]


def test_multi_query_attention_has_one_head() -> None:
    table = table_of(make("llama", num_key_value_heads=1), token_batches())
    assert table.stat("model.layers.1.self_attn", "key", "absmax").shape == (1, 8)


def test_keys_differ_from_their_projection_and_values_do_not() -> None:
    table = table_of(make("llama"), token_batches())
    key, value = (table.stat("model.layers.0.self_attn", role, "max").reshape(-1) for role in ("key", "value"))
    assert not np.allclose(key, table.stat("model.layers.0.self_attn.k_proj", "output", "max"))
    np.testing.assert_array_equal(value, table.stat("model.layers.0.self_attn.v_proj", "output", "max"))


def test_a_model_of_text_and_pictures() -> None:
    model, batches = make("internvl"), picture_batches()
    table = table_of(model, batches)
    recorder = Recorder(model)
    recorder.run(model, batches)
    for name, role in recorder.kept:
        if role in ("input", "output"):
            compare(table, recorder, name, role)
    for number, name in enumerate(table.attention):
        for role in ("key", "value"):
            compare(table, recorder, name, role, str(number))
            compare_positions(table, recorder, name, role, str(number))
    vision = next(layer for layer in table.layers if layer.place.vision and layer.place.kind == "q")
    compare_positions(table, recorder, vision.name, "input")
    assert table.cause(vision.name, "input").word == ""
    assert len(table.attention) == 2, "the vision tower writes no cache"
    assert table.tokens(vision.name, "input") == 3 * 17


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("kind", ["llama", "mixtral"])
def test_padding_is_never_counted(kind: str, left: bool) -> None:
    model, batches = make(kind), token_batches()
    alone, together = table_of(model, batches), table_of(model, [padded(batches, left=left)])
    assert alone.entries == together.entries
    for name, array in alone.arrays.items():
        np.testing.assert_array_equal(array, together.arrays[name], err_msg=name)


def test_an_unequal_batch_does_not_skew_the_mean() -> None:
    model = torch.nn.Sequential()
    model.add_module("a", torch.nn.Linear(3, 2))
    from quantui.stats.collect import Collector
    from quantui.stats.hooks import watching

    collector = Collector()
    with torch.no_grad(), watching(model, collector):
        for number, (rows, value) in enumerate([(4, 1.0), (1, 6.0)]):
            collector.begin(number, rows)
            model(torch.full((rows, 3), value))
            collector.commit()
    site = collector.sites["a", "input"]
    np.testing.assert_allclose(site.sums[0] / site.count, [2.0, 2.0, 2.0])  # not (1 + 6) / 2
    assert site.shape == (3,), "an input of two axes keeps its channels"


def test_two_models_in_one_process_do_not_meet() -> None:
    first, second = table_of(make("llama"), token_batches()), table_of(make("phi3"), token_batches())
    assert not {layer.name for layer in first.layers} & {"model.layers.0.self_attn.qkv_proj"}
    assert not {layer.name for layer in second.layers} & {"model.layers.0.self_attn.q_proj"}


def test_as_many_tokens_as_heads_are_still_tokens() -> None:
    model, batches = make("llama"), token_batches((2,))
    table = table_of(model, batches)
    recorder = Recorder(model)
    recorder.run(model, batches)
    compare(table, recorder, table.attention[0], "key", "0")


def test_the_pass_leaves_the_model_as_it_was() -> None:
    model, batch = make("mixtral"), token_batches()[2]
    with torch.no_grad():
        before = model(**batch).logits
        table_of(model, [batch])
        torch.testing.assert_close(model(**batch).logits, before, rtol=0, atol=0)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_routed_experts_are_linears_with_their_own_tokens(kind: str) -> None:
    model, batches = make(kind), token_batches()
    calls: dict[str, list[tuple[int, Any, Any]]] = {}
    sample = [0]

    def keep(name: str, _module: Any, args: Any) -> None:
        calls.setdefault(name, []).append((sample[0], args[0].reshape(-1, 32).clone(), args[1].clone()))

    handles = [
        layer.mlp.experts.register_forward_pre_hook(functools.partial(keep, f"model.layers.{number}.mlp.experts"))
        for number, layer in enumerate(model.model.layers)
    ]
    with torch.no_grad():
        for sample[0], batch in enumerate(batches):
            model(**batch)
    for handle in handles:
        handle.remove()
    table = table_of(model, batches)
    total = 0
    for name, seen in calls.items():
        for expert in range(4):
            rows = {(s, t): x[t] for s, x, index in seen for t in (index == expert).any(1).nonzero()[:, 0].tolist()}
            up = f"{name}.{expert}.up_proj"
            assert table.tokens(up, "input") == len(rows) == table.tokens(f"{name}.{expert}.down_proj", "input")
            total += len(rows)
            joined = torch.stack(list(rows.values())).double()
            np.testing.assert_allclose(table.stat(up, "input", "max"), joined.amax(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(table.stat(up, "input", "min"), joined.amin(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(table.stat(up, "input", "mean"), joined.mean(0), rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(table.stat(up, "input", "absmean"), joined.abs().mean(0), rtol=1e-4, atol=1e-6)
            places = zip(table.stat(up, "input", "max_sample"), table.stat(up, "input", "max_token"), strict=True)
            found = [float(rows[int(s), int(t)][c]) for c, (s, t) in enumerate(places)]
            np.testing.assert_allclose(found, joined.amax(0), rtol=1e-5, atol=1e-6)
    assert total == 2 * 2 * sum(batch["input_ids"].shape[1] for batch in batches)
    assert {layer.place.expert for layer in table.layers} >= {0, 1, 2, 3}


@pytest.mark.parametrize("kind", ["phimoe", "minimax"])
def test_routers_that_give_two_things_and_attention_without_keys_pass_by(kind: str) -> None:
    model, batches = make(kind), token_batches((9,))
    table = table_of(model, batches)
    assert all(table.has(layer.name, "input") for layer in table.layers if layer.place.kind in ("q", "o", "router"))
    assert len(table.attention) == (2 if kind == "phimoe" else 1)


@pytest.mark.parametrize("kind", ["mixtral", "gpt-oss"])
def test_expert_by_expert_computes_what_the_model_does(kind: str) -> None:
    from quantui.stats.collect import Collector
    from quantui.stats.hooks import watching

    model, batch = make(kind), token_batches()[2]
    collector = Collector()
    collector.begin(0, 40)
    with torch.no_grad():
        expected = model(**batch).logits
        with watching(model, collector):
            found = model(**batch, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite"), (float("-inf"), "infinite")])
def test_what_is_not_finite_is_named_at_once(value: float, kind: str) -> None:
    model, batches = make("llama"), token_batches((7, 12, 9))
    spoil(model, batches[1], 5, value)
    with pytest.raises(NotFiniteError) as caught:
        observe(model, batches, wheres=["a:1", "a:2", "a:3"])
    error = caught.value
    assert (error.layer, error.sample, error.token, error.where) == ("model.layers.1.mlp.down_proj", 1, 5, "a:2")
    assert kind in error.what and "channel 3" in error.what


def test_a_sample_that_is_not_finite_can_be_left_out_whole() -> None:
    model, batches = make("llama"), token_batches((7, 12, 9))
    expected = table_of(model, [batches[0], batches[2]])
    spoil(model, batches[1], 5, float("nan"))
    told: list[Any] = []
    made = observe(model, batches, not_finite="skip", skipped=told.append)
    found = finish(model, made, None, {})
    assert found.meta["skipped"] == [1] and told == made.skipped
    for stat in ("max", "min", "mean", "absmean", "max_token"):
        np.testing.assert_array_equal(found.arrays[f"channel/{stat}"], expected.arrays[f"channel/{stat}"])
    assert set(np.unique(found.arrays["channel/max_sample"])) <= {0, 2}
    with pytest.raises(ResultError, match="no sample is left"):
        observe(model, [batches[1]], not_finite="skip")


def spoil(model: Any, batch: dict[str, Any], token: int, value: float) -> None:
    """One value of an activation of one sample becomes not finite."""

    def hook(_module: Any, args: Any) -> Any:
        x = args[0].clone()
        if x.shape[1] == batch["input_ids"].shape[1]:
            x[0, token, 3] = value
        return (x,)

    model.model.layers[1].mlp.down_proj.register_forward_pre_hook(hook)


def test_a_padded_batch_of_pictures_is_refused() -> None:
    batch = padded(token_batches((9, 14)), left=False) | {"pixel_values": torch.zeros(3, 3, 56, 56)}
    with pytest.raises(CalibrationError, match="pixel_values"):
        observe(make("internvl"), [batch])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reduced_without_losing_more(dtype: Any) -> None:
    model, batches = make("llama").to(dtype), token_batches()
    table = table_of(model, batches)
    recorder = Recorder(model)
    recorder.run(model, batches)
    for layer in table.layers:
        compare(table, recorder, layer.name, "input")
        compare_positions(table, recorder, layer.name, "output")


def test_layers_that_share_a_tensor_are_looked_at_once() -> None:
    table = table_of(make("llama"), token_batches())
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    sites = {table.site(f"model.layers.0.{name}", "input") for name in names}
    assert sites == {table.site("model.layers.0.input_layernorm", "output")}


def test_entries_part_when_their_tensors_do() -> None:
    from quantui.stats.collect import Collector

    collector = Collector()
    x, y, z = torch.ones(2, 3), torch.full((2, 3), 2.0), torch.full((2, 3), 5.0)
    for number, (a, b) in enumerate([(x, x), (y, z), (z, z)]):
        collector.begin(number, 2)
        collector.see("a", "input", a)
        collector.see("b", "input", b)
        collector.commit()
    collector.begin(3, 2)
    collector.see("b", "input", y)
    collector.commit()
    sums = {name: float(site.sums[0, 0] / site.count) for (name, _), site in collector.sites.items()}
    assert sums == {"a": 8 / 3, "b": 13 / 4}


def test_a_tensor_changed_in_place_is_another() -> None:
    from quantui.stats.collect import Collector

    collector = Collector()
    x = torch.ones(2, 3)
    collector.begin(0, 2)
    collector.see("a", "input", x)
    x.mul_(4)
    collector.see("b", "input", x)
    collector.commit()
    assert float(collector.sites["b", "input"].extremes[0, 0]) == 4.0


def test_a_weight_that_is_not_finite_is_named() -> None:
    model = make("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 2] = float("nan")
    with pytest.raises(ResultError, match=r"layers\.1\.mlp\.up_proj is NaN or infinite in output channel 3"):
        look_at_weights(model)


def test_weights_by_output_channel() -> None:
    model = make("mixtral")
    made = observe(model, token_batches((9,)))
    table = finish(model, made, look_at_weights(model), {})
    layer = next(layer for layer in table.layers if layer.name == "model.layers.0.mlp.experts.1.up_proj")
    expected = model.model.layers[0].mlp.experts.gate_up_proj[1, 48:].detach().numpy()
    np.testing.assert_array_equal(table.weight(layer, "min"), expected.min(1))
    np.testing.assert_array_equal(table.weight(layer, "absmax"), np.abs(expected).max(1))
    errors = table.weight_errors(layer)
    assert 0 < errors["int8-channel"] < errors["int4-g32"] < 0.1
    by_channel = table.channel_errors(layer)
    assert by_channel.keys() == errors.keys()
    scale = np.abs(expected).max(1, keepdims=True) / 127.5
    rounded = np.clip(np.round(expected / scale), -128, 127) * scale
    direct = np.linalg.norm(rounded - expected, axis=1) / np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(by_channel["int8-channel"], direct, rtol=1e-2)
    energy = np.square(expected).sum(1)
    for scheme, roots in by_channel.items():
        assert (np.square(roots) * energy).sum() / energy.sum() == pytest.approx(errors[scheme], rel=1e-2)


def test_pictures_norms_over_another_axis_are_left_alone() -> None:
    from quantui.stats.hooks import is_norm

    assert is_norm(torch.nn.LayerNorm(4)) and is_norm(torch.nn.RMSNorm(4))
    assert not is_norm(torch.nn.BatchNorm2d(4)) and not is_norm(torch.nn.GroupNorm(2, 4))
