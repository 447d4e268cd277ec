"""What is written here about the engine, against the engine itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import Linear, linear_layers
from quantui.recipe.args import ENGINE_OBSERVERS
from quantui.recipe.llmcompressor import dumps, load, loads
from quantui.recipe.llmcompressor.names import FIELDS, OWN
from quantui.recipe.match import KEY_VALUE, group_of, takes
from quantui.recipe.schema import CACHE_STRATEGIES, Dtype, Format, QuantArgs, QuantGroup, Recipe
from quantui.recipe.schemes import PRESETS, preset_group
from quantui.recipe.size import quantized_bytes, stored_format
from quantui.workspace import RECIPES
from tests.recipe.test_llmcompressor import SEED, staged
from tests.recipe.values import args

pytestmark = pytest.mark.engine


def beside(modifiers: str, quantizer: str = "QuantizationModifier: {scheme: W8A8, ignore: [lm_head]}") -> str:
    """A recipe of these modifiers, one a line, before one that quantizes."""
    lines = "".join(f"    {line}\n" for line in (*modifiers.splitlines(), quantizer))
    return f"quant_stage:\n  quant_modifiers:\n{lines}"


INNER = {"index", "group", "start", "end", "update", "requires_calibration_data"}
"""Fields of every modifier that say nothing of what is quantized."""

GIVEN = {
    "seed": SEED,
    "fp8-w8a8-kv8": (RECIPES / "fp8-w8a8-kv8.yaml").read_text(encoding="utf-8"),
    "int8-w8a8-static": (RECIPES / "int8-w8a8-static.yaml").read_text(encoding="utf-8"),
    "scheme": staged("scheme: FP8\nignore: [lm_head]"),
    "scheme in small letters": staged("scheme: w8a8\ntargets: re:.*mlp.*"),
    "schemes": staged("scheme: {W4A16: [re:.*mlp.*], FP8_DYNAMIC: [re:.*self_attn.*]}"),
    "asymmetric": staged("scheme: W4A16_ASYM"),
    "NVFP4": staged("scheme: NVFP4"),
    "MXFP4": staged("scheme: MXFP4"),
    "MXFP8": staged("scheme: MXFP8"),
    "blocks": staged("scheme: FP8_BLOCK"),
    "observers": staged("scheme: W8A8\nweight_observer: mse\ninput_observer: minmax"),
    "observers by kind": staged("scheme: FP8\nobserver: {weights: MSE, input: memoryless-minmax}"),
    "groups": staged(
        "config_groups:\n"
        "  a: {targets: [re:.*q_proj], weights: {num_bits: 4, group_size: 32, symmetric: false}}\n"
        "  b: {targets: [Linear], weights: {num_bits: 8, group_size: -1}, input_activations: {dynamic: true, strategy: token}}"
    ),
    "defaults": staged("config_groups: {a: {targets: [Linear], weights: {}, input_activations: {dynamic: true}}}"),
    "spellings": staged(
        "config_groups: {a: {targets: [Linear], weights: {type: FLOAT, strategy: BLOCK, block_structure: 64x32}}}"
    ),
    "cache only": staged("targets: []\nkv_cache_scheme: {num_bits: 8, type: float, strategy: attn_head}"),
    "outputs": staged("config_groups: {a: {targets: [Linear], output_activations: {observer: static_minmax}}}"),
    "format": staged("config_groups: {a: {targets: [Linear], weights: {strategy: channel}, format: int-quantized}}"),
    "kwargs": staged("config_groups: {a: {targets: [Linear], weights: {observer: mse, observer_kwargs: {grid: 10.0}}}}"),
    "GPTQ": staged("scheme: W4A16\nblock_size: 64\ndampening_frac: 0.02", "GPTQModifier"),
    "GPTQ in order": staged("config_groups: {a: {weights: {group_size: 32, actorder: weight}, targets: [a]}}", "GPTQModifier"),
    "GPTQ in both orders": staged("scheme: W4A16\nactorder: weight", "GPTQModifier"),
    "GPTQ without order": staged("scheme: W4A16\nactorder: null\nbatched_quantization: 2", "GPTQModifier"),
    "bypass": staged("scheme: W4A16\nbypass_divisibility_checks: true"),
    **{f"preset {name}": staged(f"scheme: {name}\nignore: [lm_head]") for name in PRESETS if name != "UNQUANTIZED"},
    "AWQ": beside("AWQModifier: {duo_scaling: both, n_grid: 10}", "QuantizationModifier: {scheme: W4A16_ASYM}"),
    "AWQ without offloading": beside(
        "AWQModifier: {offload_device: null, mappings: [{smooth_layer: 're:.*norm$', balance_layers: ['re:.*q_proj$']}]}",
        "GPTQModifier: {scheme: W4A16}",
    ),
    "AutoRound": staged("scheme: W4A16\niters: 9\nlr: 0.01\nenable_torch_compile: false\ndevice_ids: x", "AutoRoundModifier"),
    "AutoRound as it comes": staged("scheme: W4A16\ndisable_opt_rtn: true\nbatch_size: 2", "AutoRoundModifier"),
    "SpinQuant": beside("SpinQuantModifier: {rotations: [r1, R2], transform_type: random-hadamard}"),
    "SpinQuant as it comes": beside("SpinQuantModifier: {}"),
    "SpinQuant by block": beside("SpinQuantModifier: {rotations: [R1], transform_block_size: 32, precision: torch.float32}"),
    "QuIP": beside("QuIPModifier: {rotations: [V, u], targets: [Linear], ignore: [lm_head], transform_type: random-matrix}"),
    "equalized": beside("LogarithmicEqualizationModifier: {mappings: [[['re:.*q_proj'], 're:.*norm']], ignore: [a]}"),
    "SparseGPT": beside("SparseGPTModifier: {sparsity: 0.5, mask_structure: '2:4', targets: [Linear], ignore: [lm_head]}"),
    "SparseGPT by OWL": beside(
        "SparseGPTModifier: {sparsity: 0.5, sparsity_profile: owl, owl_m: 5, owl_lmbda: 0.08, dampening_frac: 0.001}"
    ),
    "Wanda": beside("WandaPruningModifier: {sparsity: [0.5, 0.4], mask_structure: '0:0', targets: 're:.*mlp.*'}"),
    "magnitude": beside(
        "MagnitudePruningModifier: {targets: ['re:.*weight'], init_sparsity: 0.0, final_sparsity: 0.5, start: 0.0, end: 1.0}"
    ),
    "constant": beside("ConstantPruningModifier: {targets: ['re:.*weight'], start: 0.0}"),
    "REAP": beside("REAPPruningModifier: {sparsity: 0.25, ignore: ['re:.*lm_head']}"),
    "several in their order": beside("SpinQuantModifier: {}\nSparseGPTModifier: {sparsity: 0.5}\nSmoothQuantModifier: {}"),
    "the other order": beside("SparseGPTModifier: {sparsity: 0.5}\nSpinQuantModifier: {}\nAWQModifier: {}"),
    "smooth": "q_stage:\n  q_modifiers:\n    SmoothQuantModifier: {smoothing_strength: 0.7, algorithm: log_equalization,"
    " mappings: [[['re:.*q_proj'], 're:.*input_layernorm']]}\n    QuantizationModifier: {scheme: W8A8}\n",
}  # fmt: skip


def engine_recipe(source: str) -> list[Any]:
    """The modifiers the engine makes of a recipe text."""
    from llmcompressor.recipe import Recipe as EngineRecipe

    from quantui.quantize.modifiers import register

    register()
    modifiers: list[Any] = EngineRecipe.create_instance(source).modifiers
    assert modifiers, "the engine would quantize nothing"
    return modifiers


# --- names and tables


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_those_of_the_engine(name: str) -> None:
    from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme

    theirs, ours = preset_name_to_scheme(name, ["Linear"]), preset_group(name, ("Linear",))
    for kind in ("weights", "input_activations", "output_activations"):
        mine, their = getattr(ours, kind), getattr(theirs, kind)
        assert (mine is None) == (their is None)
        if mine is not None:
            assert QuantizationArgs(**mine.model_dump(exclude_none=True)) == their


def test_the_names_of_presets_are_those_of_the_engine() -> None:
    from compressed_tensors.quantization.quant_scheme import PRESET_SCHEMES

    assert set(PRESETS) == set(PRESET_SCHEMES)


def test_fields_of_modifiers_are_those_of_the_engine() -> None:
    from llmcompressor.modifiers.factory import ModifierFactory

    ModifierFactory.refresh()
    classes = ModifierFactory._main_registry
    assert set(classes) - {"Modifier"} == set(FIELDS) - set(OWN)
    for name, fields in FIELDS.items():
        if name in OWN:
            continue
        theirs = {field for field in classes[name].model_fields if not field.endswith("_")} - INNER
        theirs -= {"calibration_function"}  # a Python function cannot stand in YAML
        assert set(fields) - INNER == theirs


def test_arguments_are_those_of_the_engine() -> None:
    from compressed_tensors.quantization import QuantizationArgs

    assert set(QuantArgs.model_fields) == set(QuantizationArgs.model_fields)
    ours, theirs = QuantArgs(), QuantizationArgs()
    assert ours.strategy == theirs.strategy and ours.num_bits == theirs.num_bits and ours.symmetric == theirs.symmetric


def test_groups_are_those_of_the_engine() -> None:
    from compressed_tensors.quantization import QuantizationScheme

    assert set(QuantGroup.model_fields) - {"name"} == set(QuantizationScheme.model_fields)


def test_formats_observers_and_dtypes_exist_in_the_engine() -> None:
    import torch
    from compressed_tensors.config import CompressionFormat
    from llmcompressor.observers import Observer

    legacy = {"sparse-bitmask", "sparse-24-bitmask", "marlin-24", "mixed-precision"}
    assert set(Format.__args__) == {each.value for each in CompressionFormat} - legacy
    observers = {name: Observer.get_value_from_registry(name).__module__ for name in Observer.registered_names()}
    theirs = {name for name, module in observers.items() if not module.startswith("quantui.")}
    assert {name.replace("_", "-") for name in ENGINE_OBSERVERS} == theirs
    assert all(isinstance(getattr(torch, name.removeprefix("torch.")), torch.dtype) for name in Dtype.__args__)


# --- what is written, the engine reads


def spelled_alike(config: Any) -> Any:
    """A config with observers in one spelling, and without the -1 that stands for no groups."""
    if isinstance(config, dict):
        made = {key: spelled_alike(value) for key, value in config.items()}
        if isinstance(made.get("observer"), str):
            made["observer"] = made["observer"].lower().replace("-", "_")
        return made | ({"group_size": None} if made.get("group_size") == -1 else {})
    return [spelled_alike(value) for value in config] if isinstance(config, list) else config


def as_read(value: Any) -> Any:
    """A field of a modifier, with tuples as lists."""
    return [as_read(each) for each in value] if isinstance(value, list | tuple) else value


@pytest.mark.filterwarnings("ignore:Using GROUP strategy")
@pytest.mark.parametrize("source", GIVEN.values(), ids=GIVEN.keys())
def test_the_engine_makes_the_same_of_a_recipe_and_of_what_is_written_of_it(source: str) -> None:
    before, after = engine_recipe(source), engine_recipe(dumps(loads(source)))
    assert [type(modifier).__name__ for modifier in before] == [type(modifier).__name__ for modifier in after]
    for theirs, ours in zip(before, after, strict=True):
        if hasattr(theirs, "resolved_config"):
            assert spelled_alike(ours.resolved_config.model_dump()) == spelled_alike(theirs.resolved_config.model_dump())
            assert ours.resolved_targets == theirs.resolved_targets
            assert ours.requires_calibration_data == theirs.requires_calibration_data
            skipped = {"config_groups", "scheme", "targets", "actorder", "observer", "weight_observer", "input_observer"}
        else:
            skipped = {"ignore"}  # null or an empty list
        fields = {name for name in type(theirs).model_fields if name not in skipped | (INNER - {"start", "end", "update"})}
        for name in fields:
            assert as_read(getattr(ours, name)) == as_read(getattr(theirs, name)), name


@pytest.mark.parametrize("source", GIVEN.values(), ids=GIVEN.keys())
def test_the_engine_asks_for_samples_when_a_recipe_says_so(source: str) -> None:
    assert any(modifier.requires_calibration_data for modifier in engine_recipe(source)) == loads(source).needs_calibration


@pytest.mark.filterwarnings("ignore:Using GROUP strategy")
@given(weights=st.none() | args("weights"), inputs=st.none() | args("activations"), cache=st.none() | args("cache"))
def test_the_engine_takes_whatever_is_valid_here(weights: Any, inputs: Any, cache: Any) -> None:
    group = QuantGroup(name="g", weights=weights, input_activations=inputs)
    recipe = Recipe(groups=(group,), kv_cache=cache)
    (modifier,) = engine_recipe(dumps(recipe))
    scheme = modifier.resolved_config.config_groups["g"]
    assert (scheme.weights is None, scheme.input_activations is None) == (weights is None, inputs is None)
    assert modifier.requires_calibration_data == recipe.needs_calibration


def test_every_shipped_recipe_is_read_by_the_engine() -> None:
    for file in sorted(RECIPES.glob("*.yaml")):
        recipe = load(file)
        if recipe.fallback is None:  # which is done before the engine is given the rest
            (*_, modifier) = engine_recipe(dumps(recipe))
            assert modifier.resolved_targets


# --- which layers


MATCHED = (
    ("Linear",),
    ("re:.*q_proj", "Linear"),
    ("re:.*self_attn.*", "re:.*q_proj"),
    ("re:.*layers.0.*", "re:.*k_proj", "model.layers.0.self_attn.k_proj"),
    ("re:model.layers.1", "Module"),
    ("re:q_proj", "lm_head"),
    ("re:.*proj", "re:.*mlp.*", "re:.*0.*"),
    ("Module", "Linear"),
)


@pytest.mark.parametrize("targets", MATCHED)
@pytest.mark.parametrize("ignore", [(), ("lm_head", "re:.*down_proj"), ("re:.*mlp.gate",), ("Linear",), ("re:layers.0",)])
def test_the_engine_gives_every_layer_the_same_group(
    live_llama: tuple[Path, Any], targets: tuple[str, ...], ignore: tuple[str, ...]
) -> None:
    from compressed_tensors.utils import match_named_modules, match_targets
    from torch.nn import Linear as TorchLinear

    _, model = live_llama
    groups = tuple(QuantGroup(name=t, targets=(t,), weights=QuantArgs()) for t in targets)
    recipe = Recipe(groups=groups, ignore=ignore)
    theirs = {
        name: match_targets(name, module, targets)[0]
        for name, module in match_named_modules(model, targets, ignore)
        if isinstance(module, TorchLinear)
    }
    layers = [
        Linear(name, m.out_features, m.in_features, "BF16") for name, m in model.named_modules() if isinstance(m, TorchLinear)
    ]
    ignored = {layer.name for layer in layers if any(takes(entry, layer.name) for entry in ignore)}
    ours = {layer.name: group_of(recipe, layer.name) for layer in layers if layer.name not in ignored}
    assert {name: group.name for name, group in ours.items() if group} == theirs


def test_attention_is_what_the_engine_calls_attention(live_llama: tuple[Path, Any]) -> None:
    from compressed_tensors.quantization.lifecycle.initialize import is_cached_attention_module

    folder, model = live_llama
    theirs = {name for name, module in model.named_modules() if is_cached_attention_module(module)}
    layers = linear_layers(open_checkpoint(folder))
    assert {layer.name.rpartition(".")[0] for layer in layers if layer.name.endswith(KEY_VALUE)} == theirs


@pytest.mark.parametrize("strategy", ["tensor", "attn_head", "token", "channel", "group", "block", "tensor_group"])
def test_caches_have_the_strategies_that_the_engine_can_set_up(strategy: str) -> None:
    import torch
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.initialize import initialize_qparams

    extra: dict[str, Any] = {"group": {"group_size": 4}, "tensor_group": {"group_size": 4}, "token": {"dynamic": True}}.get(
        strategy, {}
    )
    extra |= {"block_structure": [2, 2]} if strategy == "block" else {}
    made = QuantizationArgs(strategy=strategy, **extra)
    try:
        initialize_qparams(torch.nn.Linear(4, 4), "k", made, (2, None, 8), torch.float32)
        works = True
    except (TypeError, ValueError):
        works = False
    assert works == (strategy in CACHE_STRATEGIES and strategy != "channel")  # which is ours, written as KVCacheModifier


# --- what it takes on disk


def stored(group: QuantGroup, rows: int, columns: int, dtype: str) -> tuple[int, str]:
    """Bytes and format of one Linear that the engine has compressed."""
    import torch
    from compressed_tensors.compressors.base import compress_module
    from compressed_tensors.quantization import QuantizationConfig, QuantizationScheme, apply_quantization_config

    types = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    model = torch.nn.Sequential(torch.nn.Linear(columns, rows, bias=False)).to(types[dtype])
    scheme = QuantizationScheme(**group.model_dump(exclude={"name"}, exclude_none=True))
    apply_quantization_config(model, QuantizationConfig(config_groups={"g": scheme}), show_progress=False)
    for name, parameter in model.named_parameters():
        if name.endswith("_scale"):
            parameter.data.fill_(1.0)
    compress_module(model[0])
    return sum(tensor.nbytes for tensor in model.state_dict().values()), model[0].quantization_scheme.format.value


@pytest.mark.filterwarnings("ignore:Using GROUP strategy")
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("name", [name for name in PRESETS if name != "UNQUANTIZED"])
def test_presets_take_as_many_bytes_as_forecast(name: str, dtype: str) -> None:
    group = preset_group(name, ("Linear",))
    forecast = quantized_bytes(Linear("0", 192, 256, dtype), group), stored_format(group)
    assert stored(group, 192, 256, dtype) == forecast


OTHERS: dict[str, dict[str, Any]] = {
    "int8 tensor static": {"weights": QuantArgs(), "input_activations": QuantArgs()},
    "int8 asymmetric": {"weights": QuantArgs(symmetric=False), "input_activations": QuantArgs(symmetric=False)},
    "int4 g32": {"weights": QuantArgs(num_bits=4, group_size=32)},
    "int4 g32 asymmetric": {"weights": QuantArgs(num_bits=4, group_size=32, symmetric=False)},
    "int3 channel asymmetric": {"weights": QuantArgs(num_bits=3, strategy="channel", symmetric=False)},
    "int5 tensor asymmetric": {"weights": QuantArgs(num_bits=5, symmetric=False)},
    "fp8 only weights": {"weights": QuantArgs(type="float", strategy="channel")},
    "fp8 static and outputs": {
        "weights": QuantArgs(type="float"),
        "input_activations": QuantArgs(type="float"),
        "output_activations": QuantArgs(symmetric=False),
    },
    "named format": {"weights": QuantArgs(num_bits=4, strategy="channel"), "format": "int-quantized"},
    "dense": {"weights": QuantArgs(strategy="channel"), "format": "dense"},
    "odd columns": {"weights": QuantArgs(num_bits=3, strategy="channel")},
    "blocks": {"weights": QuantArgs(type="float", strategy="block", block_structure=(50, 25))},
    "groups of inputs": {"weights": QuantArgs(), "input_activations": QuantArgs(group_size=25, symmetric=False)},
    "only inputs": {"input_activations": QuantArgs()},
}


@pytest.mark.parametrize("fields", OTHERS.values(), ids=OTHERS.keys())
def test_other_groups_take_as_many_bytes_as_forecast(fields: dict[str, Any]) -> None:
    group = QuantGroup(name="g", **fields)
    columns = 128 if group.weights and group.weights.group_size else 100
    size, kind = stored(group, 96, columns, "BF16")
    assert (quantized_bytes(Linear("0", 96, columns, "BF16"), group), stored_format(group)) == (size, kind)
