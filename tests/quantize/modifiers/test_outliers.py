"""Moving outliers leaves what a model computes alone, in every family and by every method, and makes it easier to quantize."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.quantize.modifiers.conftest import FAMILIES, make

pytestmark = pytest.mark.engine
METHODS = ("m1", "m2", "m4", "m5", "m6", "lmdeploy")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    """A tiny model of each family."""
    return make(request.param)


def ids(count: int = 24) -> Any:
    """Token ids without special ones."""
    import torch

    return torch.arange(8, 8 + count).unsqueeze(0)


def seen_groups(model: Any, *, only_norms: bool, sample: bool = True) -> list[Any]:
    """The groups of a model that has been run on some tokens."""
    import torch

    from quantui.quantize.modifiers.outliers import groups_of

    groups = groups_of(model, [], only_norms=only_norms)
    handles = []
    for group in groups:
        look = partial(lambda group, _module, args: group.look(args[0], sample=sample), group)
        handles.append(group.readers[0].register_forward_pre_hook(look))
    with torch.no_grad():
        model(input_ids=ids())
    for handle in handles:
        handle.remove()
    return groups


def quantize_all(model: Any) -> None:
    """int8 weights by channel and static int8 inputs for every Linear of the text decoder, as a scheme alone."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from torch.nn import Linear

    scheme = QuantizationScheme(
        targets=["Linear"],
        weights=QuantizationArgs(num_bits=8, strategy="channel"),
        input_activations=QuantizationArgs(num_bits=8, symmetric=False, strategy="tensor"),
    )
    for module in model.get_decoder().modules():
        if isinstance(module, Linear):
            module.quantization_scheme = scheme  # type: ignore[assignment]


@pytest.mark.parametrize("method", METHODS)
def test_the_model_computes_the_same(model: Any, method: str) -> None:
    """Largest difference of logits as a share of the largest."""
    import torch

    from quantui.quantize.modifiers.outliers import ONLY_NORMS, apply, scale_of

    state = {key: value.clone() for key, value in model.state_dict().items()}
    quantize_all(model)
    with torch.no_grad():
        before = model(input_ids=ids(40)).logits
        groups = seen_groups(model, only_norms=method in ONLY_NORMS)
        losses, moved = [], False
        for group in groups:
            scale = scale_of(group, method)
            moved |= bool((scale != 1).any())
            losses.append((group.loss(torch.ones_like(scale)), group.loss(scale)))
            apply(group, scale)
        after = model(input_ids=ids(40)).logits
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, state[key])]
    model.load_state_dict(state)
    assert moved and changed
    assert float((after - before).abs().max() / before.abs().max()) <= 1e-5
    if method in ("m2", "m6"):
        assert all(later <= earlier for earlier, later in losses) and sum(b for _, b in losses) < sum(a for a, _ in losses)


@pytest.mark.parametrize("method", ["smoothquant", "awq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_engines_own_leave_what_is_computed_alone(family: str, method: str) -> None:
    """Its SmoothQuant, and its AWQ, which is m3, with mappings from what feeds what; a vision tower is left as it is."""
    import torch
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, disable_quantization
    from llmcompressor.core import State
    from llmcompressor.modifiers.transform.awq import AWQMapping, AWQModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    from quantui.checkpoint.load import outline_of
    from quantui.quantize.mend import mend_pinning
    from quantui.quantize.plan import with_mappings
    from quantui.recipe.schema import Awq, Recipe, SmoothQuant

    mend_pinning()
    model = make(family)
    decoder = outline_of(model).decoder
    config, state = model.config.to_dict(), State(model=model)
    if method == "awq":
        awq = with_mappings(Recipe(awq=Awq()), config, decoder).awq
        assert awq is not None and awq.mappings is not None
        mappings = [AWQMapping(**mapping.model_dump()) for mapping in awq.mappings]
        modifier: Any = AWQModifier(n_grid=3, duo_scaling=False, mappings=mappings)
    else:
        smooth = with_mappings(Recipe(smoothquant=SmoothQuant()), config, decoder).smoothquant
        assert smooth is not None and smooth.mappings is not None
        modifier = SmoothQuantModifier(mappings=list(smooth.mappings))
        state.data.calib = []  # it asks for some before anything else
    weights = {"num_bits": 4, "strategy": "group", "group_size": 16}
    groups: Any = {"g": {"targets": [r"re:.*layers\.0\..*_proj$"], "weights": weights}}
    apply_quantization_config(model, QuantizationConfig(config_groups=groups))
    model.apply(disable_quantization)
    kept = {name: weight.clone() for name, weight in model.named_parameters()}
    with torch.no_grad():
        before = model(input_ids=ids(40)).logits
        modifier.on_initialize(state)
        modifier.on_calibration_start(state, None)
        model(input_ids=ids(), use_cache=False)
        modifier.on_sequential_epoch_end(state, None)
        modifier.on_calibration_end(state, None)
        after = model(input_ids=ids(40)).logits
    changed = [name for name, weight in model.named_parameters() if not torch.equal(weight, kept[name])]
    named = [name for name in changed if not name.endswith(("_scale", "_zero_point"))]
    assert any("norm" in name for name in named) and all(name.startswith(f"{decoder}.") for name in named)
    assert float((after - before).abs().max() / before.abs().max()) <= 1e-5


def test_norms_and_linears_of_a_layer() -> None:
    """Four groups a layer, two where only norms are sources, none with an ignored reader."""
    from quantui.quantize.modifiers.outliers import groups_of

    llama = make("llama")
    assert [len(groups_of(llama, [], only_norms=only)) for only in (False, True)] == [4, 2]
    left = groups_of(llama, ["re:.*layers.0.self_attn.o_proj"], only_norms=False)
    assert len(left) == 3


def test_a_model_of_unknown_build_is_refused() -> None:
    """Named with those that are known."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from quantui.quantize.modifiers.outliers import groups_of

    sizes = {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 8, "bos_token_id": 1, "eos_token_id": 2}
    tiny = GPT2LMHeadModel(GPT2Config(**sizes))
    with pytest.raises(ValueError, match="type gpt2, only glm"):
        groups_of(tiny, [], only_norms=True)


def test_the_mask_takes_the_channels_that_stand_apart() -> None:
    """Two of them in each direction; without any, nothing is scaled."""
    import torch

    from quantui.numerics.smooth import masked

    torch.manual_seed(0)
    high, low = torch.rand(200) + 1, -torch.rand(200) - 1
    assert bool((masked(low, high) == 1).all())
    high[5], high[9], low[11] = 30.0, 32.0, -50.0
    found = masked(low, high)
    assert (found != 1).nonzero().flatten().tolist() == [5, 9, 11]
    assert float(found[11]) == pytest.approx((50 / float(-low[low > -50].min())) ** 0.7)
