"""Recipes of every kind, for hypothesis and for tables."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from quantui.recipe.args import OBSERVERS
from quantui.recipe.schema import (
    AutoRound,
    Awq,
    AwqMapping,
    EngineModifier,
    Fallback,
    Gptq,
    Hqq,
    OutlierSuppression,
    QuantArgs,
    QuantGroup,
    Recipe,
    SmoothQuant,
    Sparse,
)

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = st.one_of(
    st.sampled_from(
        ["Linear", "re:.*lm_head", "re:.*vision_tower.*", "model.layers.0.mlp.down_proj", "re:a|b", "LlamaAttention"]
    ),
    text.filter(lambda name: not name.startswith("re:")),
)
observers = st.none() | st.sampled_from(OBSERVERS)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-9, 9) | text, lambda inner: st.lists(inner, max_size=2)
)


def args(kind: str) -> st.SearchStrategy[QuantArgs]:
    """Valid QuantArgs for "weights", "activations" or "cache"."""
    static: list[dict[str, Any]] = [{"strategy": "tensor"}]
    if kind == "weights":
        static += [{"strategy": "channel"}, {"strategy": "block", "block_structure": (128, 64)}]
        static += [{"strategy": "group", "group_size": size} for size in (1, 16, 32, 128)]
    if kind == "cache":
        static += [{"strategy": "attn_head"}]
    dynamic: list[dict[str, Any]] = [{"strategy": "token", "dynamic": True}, {"strategy": "tensor", "dynamic": True}]
    if kind == "activations":
        static += [{"strategy": "group", "group_size": 64}]
        dynamic += [{"strategy": "tensor_group", "group_size": 16, "dynamic": "local"}]
    shapes = st.sampled_from(static if kind == "weights" else static + dynamic)
    integers = st.fixed_dictionaries({"type": st.just("int"), "num_bits": st.integers(2, 8), "symmetric": st.booleans()})
    floats = st.just({"type": "float", "num_bits": 8})
    fp4 = st.sampled_from([
        {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16, "scale_dtype": "torch.float8_e4m3fn"},
        {"type": "float", "num_bits": 4, "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
    ])  # fmt: skip
    rest = {"observer": observers, "observer_kwargs": st.dictionaries(text, plain, max_size=2)}
    if kind == "weights":
        rest["actorder"] = st.sampled_from([None, "weight", "static"])
    first = st.one_of(integers, floats) if kind != "weights" else st.one_of(integers, floats, fp4)
    return st.builds(_made, first, shapes, st.fixed_dictionaries(rest))


def _made(first: dict[str, Any], shape: dict[str, Any], rest: dict[str, Any]) -> QuantArgs:
    return QuantArgs(**{**({} if "strategy" in first else shape), **first, **rest})


@st.composite
def group(draw: st.DrawFn, name: str, targets: tuple[str, ...]) -> QuantGroup:
    """A valid group of these targets."""
    weights = draw(st.none() | args("weights"))
    inputs, outputs = draw(st.none() | args("activations")), draw(st.none() | args("activations"))
    kind = draw(st.sampled_from([None, None, "pack-quantized", "int-quantized", "dense"]))
    return QuantGroup(
        name=name, targets=targets, weights=weights, input_activations=inputs, output_activations=outputs, format=kind
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any valid recipe that quantizes something."""
    targets = draw(st.lists(names, max_size=4, unique=True))
    titles = draw(st.lists(text, min_size=len(targets), max_size=len(targets), unique=True))
    groups = tuple(draw(group(title, (target,))) for title, target in zip(titles, targets, strict=True))
    cache = draw(st.none() | args("cache"))
    if cache is None and not any(made.quantizes for made in groups):
        cache = QuantArgs(type="float")
    orders = {made.weights.actorder for made in groups if made.weights and made.weights.actorder}
    rounding = draw(st.sampled_from([None, "gptq", "autoround", "hqq"]))
    method = draw(gptqs(orders) if rounding == "gptq" else st.sampled_from(ROUNDING[rounding])) if rounding else None
    suppression = draw(st.sampled_from([None, "smoothquant", "awq", "outliers"]))
    smooth = draw(SUPPRESSION[suppression]) if suppression else None
    return Recipe(
        groups=groups,
        ignore=tuple(draw(st.lists(names, max_size=3))),
        kv_cache=cache,
        value_cache=draw(st.none() | args("cache")) if cache is not None else None,
        sparse=draw(st.sampled_from([None, Sparse(), Sparse(fraction=0.05, sigma=3.0)])),
        fallback=draw(st.sampled_from([None, Fallback(level=5), Fallback(bits_per_weight=4.5)])),
        engine_modifiers=tuple(draw(st.lists(st.sampled_from(RARE), max_size=2, unique_by=lambda each: each.name))),
        bypass_divisibility_checks=draw(st.booleans()),
        **({rounding: method} if rounding else {}),
        **({suppression: smooth} if suppression else {}),
    )


def gptqs(orders: set[str]) -> st.SearchStrategy[Gptq]:
    """GPTQ knobs; the order that goes with groups that name these orders."""
    return st.builds(
        Gptq,
        block_size=st.integers(1, 512),
        dampening_frac=st.floats(1e-6, 1, exclude_min=True),
        actorder=st.sampled_from(["static", *(["weight"] if "static" not in orders else []), *([] if orders else [None])]),
        batched_quantization=st.sampled_from(["auto", None, 1, 8]),
    )


smoothquants = st.builds(
    SmoothQuant,
    strength=st.floats(0, 1),
    mappings=st.none() | st.lists(st.tuples(st.lists(names, min_size=1, max_size=2).map(tuple), names), max_size=2).map(tuple),
    ignore=st.lists(names, max_size=2).map(tuple),
    algorithm=st.sampled_from(["smoothquant", "log_equalization"]),
)
SUPPRESSION: dict[str, st.SearchStrategy[Any]] = {
    "smoothquant": smoothquants,
    "awq": st.builds(
        Awq,
        duo_scaling=st.sampled_from([True, False, "both"]),
        n_grid=st.integers(1, 40),
        mappings=st.sampled_from([None, (AwqMapping(smooth_layer="re:.*norm", balance_layers=("re:.*q_proj", "a")),)]),
        offload_device=st.sampled_from(["default", None]),
    ),
    "outliers": st.builds(
        OutlierSuppression,
        method=st.sampled_from(["m2", "m4", "m5", "m6"]),
        alpha=st.none() | st.floats(0, 1),
        ignore=st.lists(names, max_size=2).map(tuple),
    ),
}
ROUNDING: dict[str, list[Any]] = {
    "autoround": [AutoRound(), AutoRound(iters=3, lr=0.5, device_ids="0,1", enable_torch_compile=False)],
    "hqq": [Hqq(), Hqq(iterations=3, lp_norm=0.5)],
}
RARE = [
    EngineModifier(name="SpinQuantModifier"),
    EngineModifier(name="SpinQuantModifier", settings={"rotations": ["R1", "R4"], "transform_block_size": 32}),
    EngineModifier(name="QuIPModifier", settings={"ignore": "lm_head"}),
    EngineModifier(name="SparseGPTModifier", settings={"sparsity": 0.5, "mask_structure": "2:4"}),
    EngineModifier(name="ConstantPruningModifier", settings={"targets": ["re:.*weight"], "start": 0.0}),
]
