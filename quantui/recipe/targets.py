"""Where the result of a recipe can be deployed: what each engine reads, as data, and the first layer it cannot read.

Sources: vllm/model_executor/layers/quantization/compressed_tensors/compressed_tensors.py; lmdeploy 0.16.0,
lmdeploy/turbomind/converter.py and lmdeploy/pytorch; msModelSlim 26.1.0, the types of its quant_model_description.json.
Reading is meant, not speed: whether a device has a kernel for a scheme is told by the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quantui.checkpoint.inspect import Linear
from quantui.recipe.args import LEVELS_OBSERVER
from quantui.recipe.layers import LayerTable, layer_table
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.recipe.shards import by_shard
from quantui.recipe.words import cache_words, scheme_words


@dataclass(frozen=True)
class Target:
    """Whether an engine can hold a recipe.

    Attributes:
        name: the engine.
        holds: whether it can.
        reason: how it does, or why it cannot and what would work.
        layer: the first layer it cannot hold; empty where that is no matter of one layer.
    """

    name: str
    holds: bool
    reason: str
    layer: str = ""


@dataclass(frozen=True)
class Side:
    """What weights or activations an engine reads; an empty tuple means any."""

    bits: tuple[int, ...]
    kind: str = "int"
    strategies: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    symmetric: bool | None = None
    dynamic: bool | str | None = None
    scale: str | None = None
    levels: bool = False  # NF4's, not integers

    def takes(self, args: QuantArgs) -> bool:
        """Whether it reads these."""
        return (
            args.num_bits in self.bits
            and args.type == self.kind
            and (not self.strategies or args.strategy in self.strategies)
            and (not self.groups or args.group_size is None or args.group_size in self.groups)
            and (self.symmetric is None or args.symmetric == self.symmetric)
            and (self.dynamic is None or args.dynamic == self.dynamic)
            and (args.scale_dtype == self.scale)
            and (args.observer == LEVELS_OBSERVER) == self.levels
        )


@dataclass(frozen=True)
class Scheme:
    """One scheme of an engine; no inputs means weights only."""

    name: str
    weights: Side
    inputs: Side | None = None
    rows: int = 1  # out_features must be a multiple of it
    columns: int = 1  # and in_features of this

    def takes(self, group: QuantGroup) -> bool:
        """Whether layers of this group can be read as it."""
        if group.weights is None or group.output_activations is not None or not self.weights.takes(group.weights):
            return False
        given = group.input_activations
        return given is None if self.inputs is None else given is not None and self.inputs.takes(given)

    def fits(self, layer: Linear) -> bool:
        """Whether the layer has a shape it can be stored in."""
        return layer.out_features % self.rows == 0 and layer.in_features % self.columns == 0


@dataclass(frozen=True)
class Engine:
    """What an engine reads.

    Attributes:
        name: its name.
        through: the format it reads.
        schemes: the schemes of its layers.
        cache: K/V caches it reads.
        without: why it has no other K/V cache.
        apart: values may be cached otherwise than keys.
        fused: layers it computes as one, which need one scheme.
        mixed: several schemes may stand in one model.
        sparse: it reads W4A8S.
        online: it does rotations at run time.
        head: lm_head may be quantized.
        ranks: it reads a layer for each tensor-parallel rank.
    """

    name: str
    through: str
    schemes: tuple[Scheme, ...]
    cache: tuple[Side, ...]
    without: str
    apart: bool = False
    fused: tuple[tuple[str, ...], ...] = ()
    mixed: bool = True
    sparse: bool = False
    online: bool = False
    head: bool = True
    ranks: bool = False


FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
_TOKEN = Side((8,), strategies=("token",), dynamic=True)
_TOKEN_FP8 = Side((8,), "float", strategies=("token",), dynamic=True)
_STATIC = Side((8,), strategies=("tensor",), dynamic=False)
_STATIC_FP8 = Side((8,), "float", strategies=("tensor",), dynamic=False)
_WHOLE, _NV, _MX = ("tensor", "channel"), "torch.float8_e4m3fn", "torch.uint8"
_NVFP4 = Side((4,), "float", ("tensor_group",), (16,), scale=_NV)
_MXFP4, _MXFP8 = Side((4,), "float", ("group",), (32,), scale=_MX), Side((8,), "float", ("group",), (32,), scale=_MX)

VLLM = Engine(
    "vLLM",
    "compressed-tensors",
    (
        Scheme("int8 static", Side((8,), strategies=_WHOLE, symmetric=True), _STATIC),
        Scheme("int8 dynamic", Side((8,), strategies=_WHOLE, symmetric=True), _TOKEN),
        Scheme("int4 weights with int8 dynamic", Side((4,), strategies=("group", "channel"), symmetric=True), _TOKEN),
        Scheme("int4 weights with fp8 dynamic", Side((4,), strategies=("group",), groups=(128,), symmetric=True), _TOKEN_FP8),
        Scheme("int4 or int8 weights", Side((4, 8), strategies=("channel", "group"), groups=(32, 64, 128))),
        Scheme("fp8 static", Side((8,), "float", _WHOLE), _STATIC_FP8),
        Scheme("fp8 dynamic", Side((8,), "float", _WHOLE), _TOKEN_FP8),
        Scheme("fp8 by block", Side((8,), "float", ("block",)), Side((8,), "float", ("group",), (128,), dynamic=True)),
        Scheme("fp8 weights", Side((8,), "float", _WHOLE)),
        Scheme("nvfp4", _NVFP4, Side((4,), "float", ("tensor_group",), (16,), dynamic="local", scale=_NV)),
        Scheme("nvfp4 weights", _NVFP4),
        Scheme("mxfp4", _MXFP4, Side((4,), "float", ("group",), (32,), dynamic=True, scale=_MX)),
        Scheme("mxfp4 weights", _MXFP4),
        Scheme("mxfp8", _MXFP8, Side((8,), "float", ("group",), (32,), dynamic=True, scale=_MX)),
    ),
    cache=(Side((8,), "float", ("tensor",), symmetric=True, dynamic=False),),
    without="its K/V cache is fp8 by tensor and symmetric, or float",
    fused=FUSED,
    online=True,
)
_CACHES = ("tensor", "attn_head", "token")
TRANSFORMERS = Engine(
    "transformers",
    "compressed-tensors",
    (),
    cache=(Side(tuple(range(2, 9)), strategies=_CACHES), Side((8,), "float", _CACHES)),
    without="compressed-tensors has scales by tensor or head for one: use strategy tensor or attn_head",
)
LMDEPLOY = Engine(
    "lmdeploy",
    "AWQ, compressed-tensors or its own smooth_quant files",
    (
        Scheme(
            "AWQ int4 asymmetric group 128", Side((4,), strategies=("group",), groups=(128,), symmetric=False), None, 8, 128
        ),
        Scheme("int4 group 32 or 128", Side((4,), strategies=("group",), groups=(32, 128)), None, 8, 32),
        Scheme("smooth_quant int8 dynamic", Side((8,), strategies=("channel",), symmetric=True), _TOKEN),
        Scheme("smooth_quant fp8 dynamic", Side((8,), "float", ("channel",)), _TOKEN_FP8),
    ),
    cache=(),
    without="it quantizes keys and values at run time and reads no scales since 0.4.0: leave kv_cache out, start it with "
    "--quant-policy 8",
    fused=FUSED,
    mixed=False,
    head=False,
)
ASCEND = Engine(
    "MindIE / vLLM-Ascend",
    "msModelSlim's format",
    (
        Scheme("W8A8", Side((8,), strategies=_WHOLE, symmetric=True), _STATIC),
        Scheme("W8A8_DYNAMIC", Side((8,), strategies=_WHOLE, symmetric=True), _TOKEN),
        Scheme("W8A16", Side((8,), strategies=(*_WHOLE, "group"), groups=(32, 64, 128, 256))),
        Scheme("W4A16", Side((4,), strategies=("channel",)), None, 1, 2),
        Scheme("W4A16 by group", Side((4,), strategies=("group",), groups=(32, 64, 128, 256)), None, 2),
        Scheme("W4A8_DYNAMIC", Side((4,), strategies=("group",), groups=(32, 64, 128, 256), symmetric=True), _TOKEN, 2, 16),
        Scheme("NF4", Side((4,), strategies=("group",), levels=True), None),
        Scheme("WFP8AFP8_DYNAMIC", Side((8,), "float", ("channel",)), _TOKEN_FP8),
        Scheme("W8A8_MXFP8", _MXFP8, Side((8,), "float", ("group",), (32,), dynamic=True, scale=_MX)),
    ),
    cache=(Side((8,), strategies=("channel",), dynamic=False),),
    without="its K/V cache is C8: int8, static and by channel, or float",
    apart=True,
    fused=FUSED,
    sparse=True,
    ranks=True,
)
ENGINES = (VLLM, TRANSFORMERS, LMDEPLOY, ASCEND)


def targets(recipe: Recipe, layers: Sequence[Linear], table: LayerTable | None = None) -> list[Target]:
    """Whether each engine can hold this recipe for these layers, and if not, which layer and why.

    Args:
        recipe: the decision.
        layers: the Linear layers of the model.
        table: their layer table, where it is there already.
    """
    made = table or layer_table(recipe, layers)
    return [_target(engine, recipe, layers, made) for engine in ENGINES]


def _target(engine: Engine, recipe: Recipe, layers: Sequence[Linear], table: LayerTable) -> Target:
    if refused := _whole(engine, recipe):
        return Target(engine.name, False, refused)
    groups: dict[str | None, QuantGroup] = {group.name: group for group in recipe.groups if group.quantizes}
    taking: dict[str, tuple[Scheme, ...]] = {}
    used: dict[str, str] = {}
    seen: set[tuple[str | None, tuple[int, int], bool]] = set()  # a model has many layers of few kinds
    for layer, row in zip(layers, table.rows, strict=True) if engine.schemes else ():
        kind = (row.group, row.shape, layer.name.endswith("lm_head"))
        group = groups.get(row.group) if kind not in seen else None
        if group is None:
            continue
        seen.add(kind)
        group = group if engine.ranks else by_shard(group, layer.in_features)
        if group.name not in taking:
            taking[group.name] = tuple(scheme for scheme in engine.schemes if scheme.takes(group))
            used[group.name] = layer.name
        schemes = taking[group.name]
        if recipe.sparse is None or not engine.sparse:
            if not schemes:
                known = ", ".join(scheme.name for scheme in engine.schemes)
                what = f"{scheme_words(group)} is none of the schemes it reads: {known}"
                if group.output_activations is not None:
                    what = "it does not quantize what layers put out: leave output_activations out"
                return Target(engine.name, False, what, layer.name)
            if not any(scheme.fits(layer) for scheme in schemes):
                what = f"its {schemes[0].name} cannot hold {layer.out_features}x{layer.in_features}: leave the layer in float"
                return Target(engine.name, False, what, layer.name)
        if not engine.head and layer.name.endswith("lm_head"):
            return Target(engine.name, False, "it reads lm_head in float only: add it to ignore", layer.name)
    if not engine.mixed and len({scheme_words(groups[name]) for name in taking}) > 1:
        first, second = list(taking)[:2]
        return Target(engine.name, False, f"it reads one scheme a model, not {first} and {second}", used[second])
    if apart := _apart(engine, table):
        return Target(engine.name, False, *apart)
    held = ", ".join(dict.fromkeys(schemes[0].name for schemes in taking.values() if schemes)) or "float layers"
    return Target(engine.name, True, f"through {engine.through}{f': {held}' if engine.schemes else ''}")


def _whole(engine: Engine, recipe: Recipe) -> str:
    """Why an engine cannot hold the recipe whatever the layers are; empty where it can."""
    if recipe.sparse is not None and not engine.sparse:
        return "sparse weights (W4A8S) are read through msModelSlim's format only"
    if not engine.online and any(modifier.is_online for modifier in recipe.engine_modifiers):
        return "it does not do the rotations at run time that this recipe leaves to it: keep R1 and R2 only"
    for args in (recipe.kv_cache, recipe.value_cache):
        if args is not None and not any(side.takes(args) for side in engine.cache):
            return f"a K/V cache of {cache_words(args)}: {engine.without}"
    if recipe.value_cache not in (None, recipe.kv_cache) and not engine.apart:
        return "it caches values as it caches keys: leave out what the recipe says of values alone"
    return ""


def _apart(engine: Engine, table: LayerTable) -> tuple[str, str] | None:
    """Layers that the engine computes as one but that have different schemes: why, and which."""
    if not engine.fused:
        return None
    by_name = {row.name: row for row in table.rows}
    for parts in engine.fused:
        leaf = parts[0]
        for name in [name for name in by_name if name.endswith(f".{leaf}")]:
            row, parent = by_name[name], name.removesuffix(f".{leaf}")
            for part in parts[1:]:
                other = by_name.get(f"{parent}.{part}")
                if other is not None and other.scheme != row.scheme:
                    what = f"it computes {', '.join(parts)} as one, but {leaf} is {row.scheme} and {part} is {other.scheme}"
                    return f"{what}: give them one scheme", other.name
    return None
