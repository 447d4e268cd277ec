"""Reading compressed-tensors folders: which group each layer belongs to, and its tensors as codes and scales.

Source: compressed_tensors/compressors and quantization/quant_config.py of 0.19.0.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from quantui.checkpoint.files import Checkpoint, Tensor, open_checkpoint
from quantui.checkpoint.inspect import linear_layers
from quantui.errors import CheckpointError
from quantui.formats.base import CacheScales, LayerPart, OpenFolder, Outline, QuantizedLayer, TensorPart
from quantui.formats.names import aliases
from quantui.formats.order import module_key
from quantui.formats.schemes import inputs_of, weights_of
from quantui.formats.tensors import named_dtype, need, read_pieces, read_tensor
from quantui.numerics.layerfiles import cache_files, layer_files, load_cache, load_layer
from quantui.numerics.quantized import Weights
from quantui.numerics.sound import sound_cache, sound_layer
from quantui.recipe.match import takes
from quantui.recipe.schema import QuantArgs, QuantGroup

if TYPE_CHECKING:
    import torch

LEAVES = (
    "weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_shape", "weight_global_scale", "weight_g_idx",
    "bias", "input_scale", "input_zero_point", "input_global_scale",
)  # fmt: skip
"""What a quantized layer may own."""

CACHE_LEAVES = ("k_scale", "v_scale", "k_zero_point", "v_zero_point", "q_scale", "q_zero_point")
PACKED = {"pack-quantized": "I32", "nvfp4-pack-quantized": "U8", "mxfp4-pack-quantized": "U8"}
"""How codes that share words or bytes are stored."""
PLAIN, DENSE = ("I8", "F8_E4M3"), ("BF16", "F16", "F32", "F64")
"""How those are that stand one by one, and weights that are left in float beside their scales."""
REMEDY = "quantize the model again, or correct config.json"


class Settings(BaseModel):
    """What is read of a quantization_config; what is null there counts as not said."""

    quant_method: str = "compressed-tensors"
    config_groups: dict[str, dict[str, Any]] = {}
    format: str = "dense"
    quantization_status: str = ""
    ignore: tuple[str, ...] = ()
    kv_cache_scheme: QuantArgs | None = None
    transform_config: dict[str, Any] = {}


@dataclass(frozen=True)
class Group:
    """One config group: how its layers are quantized, and in which files' format."""

    scheme: QuantGroup
    format: str


def open_folder(folder: Path, name: str) -> OpenFolder:
    """The folder as layers and tensors.

    Raises:
        CheckpointError: it is truncated, not compressed-tensors, or config and tensors disagree.
    """
    checkpoint = open_checkpoint(folder)
    body = checkpoint.config.get("quantization_config")
    kept = layer_files(folder)
    if body is None and not kept:
        what = "config.json has no quantization_config, so nothing here is quantized"
        raise CheckpointError(what, where=str(folder), todo="give the folder of a quantized model")
    said, groups = read_settings(body or {}, folder / "config.json")
    owned = _owned(checkpoint.tensors)
    dtype = named_dtype(checkpoint.config, checkpoint.tensors.values())
    stored = {alias: layer for layer in owned for alias in aliases(layer, checkpoint.config)}
    parts = {stored.get(layer, layer): _kept_part(file, stored.get(layer, layer)) for layer, file in kept.items()}
    if missing := set(parts) - set(owned):
        what = f"there is a file of the quantized layer {min(missing)}, but the model has no such layer"
        raise CheckpointError(what, where=str(folder), todo=REMEDY)
    for layer, tensors in owned.items():
        if layer not in parts and ("weight_packed" in tensors or "weight_scale" in tensors):
            parts[layer] = _part(layer, tensors, _group_for(groups, aliases(layer, checkpoint.config), folder), dtype)
    _check_all_taken(checkpoint, said, groups, parts)
    taken = {f"{layer}.{leaf}" for layer in parts for leaf in LEAVES}
    left = [t for t in checkpoint.tensors.values() if t.name not in taken and t.name.rpartition(".")[2] not in CACHE_LEAVES]
    every: list[LayerPart | TensorPart] = [*parts.values(), *map(TensorPart, left)]
    config = {key: value for key, value in checkpoint.config.items() if key != "quantization_config"}
    caches = (
        *_caches(checkpoint.tensors, said.kv_cache_scheme, folder),
        *(_kept_cache(file, stored) for file in cache_files(folder)),
    )
    extras = {"transform_config": said.transform_config} if said.transform_config else {}
    ordered = tuple(sorted(every, key=lambda part: module_key(part.name)))
    return OpenFolder(folder, name, config, ordered, tuple(sorted(caches, key=lambda c: module_key(c.name))), dtype, extras)


def read_settings(body: Mapping[str, Any], where: Path) -> tuple[Settings, list[Group]]:
    """A quantization_config, and its groups.

    Raises:
        CheckpointError: it is another method's, or something in it cannot be read.
    """
    method = body.get("quant_method", "compressed-tensors")
    if method != "compressed-tensors":
        raise CheckpointError(f"it is quantized by {method!r}, not compressed-tensors", where=str(where), todo=REMEDY)
    name = "quantization_config"
    try:
        said = Settings.model_validate({key: value for key, value in body.items() if value is not None})
        schemes = []
        for name, given in said.config_groups.items():
            schemes.append(QuantGroup.model_validate(given | {"name": name}))
        name = "ignore"
        for target in (*said.ignore, *(target for scheme in schemes for target in scheme.targets)):
            takes(target, "")  # whether it is a pattern at all
    except (ValidationError, re.error) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = ": ".join((".".join(map(str, first["loc"])), first["msg"]))
        raise CheckpointError(f"{name} cannot be read ({reason})", where=str(where), todo=REMEDY) from error
    frozen = said.quantization_status == "frozen"
    return said, [Group(scheme, "dense" if frozen else scheme.format or said.format) for scheme in schemes]


def _owned(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Module -> leaf -> tensor, of what a quantized layer may own."""
    owned: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf in LEAVES:
            owned.setdefault(layer, {})[leaf] = tensor
    return owned


def _group_for(groups: list[Group], names: tuple[str, ...], folder: Path) -> Group:
    """The group of a layer: by exact name, then pattern, then class."""
    for wanted in ("name", "pattern", "class"):
        for group in groups:
            if group.scheme.weights is None:
                continue
            for target in group.scheme.targets:
                kind = "pattern" if target.startswith("re:") else "class" if target in ("Linear", "Module") else "name"
                if kind == wanted and any(takes(target, name) for name in names):
                    return group
    what = f"{names[0]} has quantized tensors, but no group of quantization_config takes it"
    raise CheckpointError(what, where=str(folder / "config.json"), todo=REMEDY)


def _check_all_taken(checkpoint: Checkpoint, said: Settings, groups: list[Group], parts: Mapping[str, LayerPart]) -> None:
    """Refuses a config that says a layer is quantized whose tensors are float."""
    made = {name for layer in parts for name in aliases(layer, checkpoint.config)}
    targets = [target for group in groups if group.scheme.weights is not None for target in group.scheme.targets]
    for linear in linear_layers(checkpoint):
        if linear.name in made or any(takes(pattern, linear.name) for pattern in said.ignore):
            continue
        if any(takes(target, linear.name) for target in targets):
            what = f"quantization_config says that {linear.name} is quantized, but it has a float weight and no weight_scale"
            raise CheckpointError(what, where=str(checkpoint.folder), todo=REMEDY)


def _kept_part(file: Path, name: str) -> LayerPart:
    def load(meta: bool) -> QuantizedLayer:
        return replace(load_layer(file, meta=meta), name=name)

    return LayerPart(load(True).outline, load)


def _kept_cache(file: Path, stored: Mapping[str, str]) -> CacheScales:
    """Scales kept beside the model, by the names its files have."""
    cache = load_cache(file)
    live = next((alias for alias in stored if alias.startswith(f"{cache.name}.")), "")
    if not live or stored[live] == live:
        return cache
    name = stored[live][: -len(live.removeprefix(cache.name))]
    key, value = (f"{name}{linear.removeprefix(cache.name)}" for linear in (cache.key, cache.value))
    return replace(cache, name=name, key=key, value=value)


def _part(layer: str, tensors: dict[str, Tensor], group: Group, dtype: str) -> LayerPart:
    args = group.scheme.weights
    assert args is not None  # _group_for passes over groups without
    main = tensors.get("weight_packed") or tensors.get("weight")
    needed = "weight_packed" if group.format in PACKED else "weight"
    if main is None or needed not in tensors or "weight_scale" not in tensors:
        absent = needed if needed not in tensors else "weight_scale"
        raise CheckpointError(f"{layer} is {group.format}, but has no {absent}", where=str(_any(tensors).shard), todo=REMEDY)
    if not args.symmetric and "weight_zero_point" not in tensors:
        what = f"{layer} is asymmetric, but has no weight_zero_point"
        raise CheckpointError(what, where=str(main.shard), todo=REMEDY)
    columns = _columns(main, tensors, group, args)
    outline = Outline(
        layer, weights_of(args), inputs_of(group.scheme.input_activations), main.shape[0], columns, "bias" in tensors,
        "weight_g_idx" in tensors,
    )  # fmt: skip
    _check_shapes(outline, tensors, group)
    load = functools.partial(_load, outline, tensors, group, dtype)
    stored = main if group.format not in PACKED and main.dtype in ("I8", "F8_E4M3") else None
    packed = group.format == "pack-quantized" and args.num_bits == 4 and columns % 8 == 0
    light = functools.partial(load, False, light=True) if stored is not None or packed else None
    words = (lambda rows: read_pieces(main, rows * main.shape[1])) if packed else None
    return LayerPart(outline, load, light, stored, words)


def _any(tensors: Mapping[str, Tensor]) -> Tensor:
    return next(iter(tensors.values()))


def _columns(main: Tensor, tensors: Mapping[str, Tensor], group: Group, args: QuantArgs) -> int:
    if len(main.shape) != 2:
        what = f"{main.name} has {len(main.shape)} dimensions, and a Linear's weight has two"
        raise CheckpointError(what, where=str(main.shard), todo="stacked experts cannot be read: quantize them one by one")
    need(main, *([PACKED[group.format]] if group.format in PACKED else DENSE if group.format == "dense" else PLAIN))
    if group.format == "pack-quantized":
        if shape := tensors.get("weight_shape"):
            need(shape, "I64", "I32", shape=(2,))
            rows, columns = read_tensor(shape).tolist()
            if rows != main.shape[0] or columns < 1:
                what = f"{shape.name} says {rows}x{columns}, but {main.name} has {main.shape[0]} rows"
                raise CheckpointError(what, where=str(main.shard), todo=REMEDY)
            return int(columns)
        return main.shape[1] * 32 // args.num_bits
    return main.shape[1] * 2 if group.format in PACKED else main.shape[1]


def _check_shapes(outline: Outline, tensors: Mapping[str, Tensor], group: Group) -> None:
    """Refuses scales and zero points that do not fit the weight."""
    weights, rows, columns = outline.weights, outline.rows, outline.columns
    across = -(-columns // (weights.group_size or columns))
    if weights.block:
        wanted: tuple[tuple[int, ...], ...] = ((-(-rows // weights.block[0]), -(-columns // weights.block[1])),)
    elif weights.strategy == "tensor":
        wanted = ((), (1,), (1, 1))
    else:
        wanted = ((rows, across), *(((rows,),) if across == 1 else ()))
    zero = tensors.get("weight_zero_point")
    if group.format == "pack-quantized":
        need(tensors["weight_packed"], "I32", shape=(rows, -(-columns * weights.bits // 32)))
        if zero is not None and _is_packed(weights):
            need(zero, "I32", shape=(-(-rows * weights.bits // 32), across))
            zero = None
    for entry in (tensors["weight_scale"], zero):
        if entry is not None and entry.shape not in wanted:
            what = f"{entry.name} has the shape {entry.shape}, but {outline.name} of {rows}x{columns} needs {wanted[0]}"
            raise CheckpointError(what, where=str(entry.shard), todo=REMEDY)
    divisor = tensors.get("weight_global_scale")
    if divisor is not None and divisor.elements != 1:
        what = f"{divisor.name} has the shape {divisor.shape}, where one number belongs"
        raise CheckpointError(what, where=str(divisor.shard), todo=REMEDY)


def _is_packed(weights: Weights) -> bool:
    """Whether zero points of packed codes are packed too."""
    return weights.strategy in ("group", "channel")


def _load(
    outline: Outline, tensors: Mapping[str, Tensor], group: Group, dtype: str, meta: bool, *, light: bool = False
) -> QuantizedLayer:
    held = {
        leaf: read_tensor(tensor, meta=meta or (light and leaf in ("weight", "weight_packed")))
        for leaf, tensor in tensors.items()
        if leaf != "weight_shape"
    }
    weights = outline.weights
    scale, zero = held["weight_scale"], held.get("weight_zero_point")
    if zero is not None and group.format == "pack-quantized" and _is_packed(weights):
        from quantui.numerics.pack import dense_codes

        zero = dense_codes(zero.t(), weights.bits, outline.rows).t().contiguous()
    if weights.power_of_two and tensors["weight_scale"].dtype == "U8":
        import torch

        scale = torch.exp2(scale.float() - 127)
    input_zero = held.get("input_zero_point")
    for symmetric, offset in ((weights.symmetric, zero), (outline.inputs is None or outline.inputs.symmetric, input_zero)):
        if symmetric and offset is not None and not offset.is_meta and bool(offset.any()):
            what = f"{outline.name} has zero points other than 0, but quantization_config says that it is symmetric"
            raise CheckpointError(what, where=str(tensors["weight_scale"].shard), todo=REMEDY)
    layer = QuantizedLayer(
        outline.name,
        weights,
        outline.inputs,
        _codes(outline, held, group, scale, zero, tensors["weight_scale"].shard),
        scale,
        None if weights.symmetric else zero,
        divisor=held.get("weight_global_scale"),
        group_index=held.get("weight_g_idx"),
        bias=held.get("bias"),
        input_scale=held.get("input_scale"),
        input_zero=input_zero,
        input_divisor=held.get("input_global_scale"),
        dtype=dtype,
    )
    return sound_layer(layer, str(tensors["weight_scale"].shard))


def _codes(
    outline: Outline, held: Mapping[str, torch.Tensor], group: Group, scale: Any, zero: Any, shard: Path
) -> torch.Tensor:
    from quantui.numerics.pack import dense_codes, from_halves

    if group.format == "pack-quantized":
        return dense_codes(held["weight_packed"], outline.weights.bits, outline.columns)
    if group.format in PACKED:
        return from_halves(held["weight_packed"])
    weight = held["weight"]
    if weight.element_size() == 1:
        return weight
    if not weight.is_meta and not bool(weight.isfinite().all()):
        raise CheckpointError(f"{outline.name} has weights that are no finite numbers", where=str(shard), todo=REMEDY)
    from quantui.formats.dense import codes_of

    return codes_of(weight, outline.weights, scale, zero, held.get("weight_global_scale"))


def _caches(tensors: Mapping[str, Tensor], args: QuantArgs | None, folder: Path) -> list[CacheScales]:
    found = ((owner, leaf) for owner, _, leaf in (name.rpartition(".") for name in tensors) if leaf in ("k_scale", "v_scale"))
    owners = dict.fromkeys(owner for owner, _ in found)
    if args is None and owners:
        what = f"{next(iter(owners))} has a K/V scale, but quantization_config has no kv_cache_scheme"
        raise CheckpointError(what, where=str(folder / "config.json"), todo=REMEDY)
    if args is None or args.dynamic:
        return []
    if not owners:
        what = "quantization_config has a kv_cache_scheme with static scales, but no attention layer has a k_scale"
        raise CheckpointError(what, where=str(folder / "config.json"), todo=REMEDY)
    return [_cache(owner, tensors, args, folder) for owner in owners]


def _cache(owner: str, tensors: Mapping[str, Tensor], args: QuantArgs, folder: Path) -> CacheScales:
    held = {leaf: read_tensor(tensors[f"{owner}.{leaf}"]).reshape(-1) for leaf in CACHE_LEAVES if f"{owner}.{leaf}" in tensors}
    if not held.keys() >= {"k_scale", "v_scale"}:
        raise CheckpointError(f"{owner} has only one of k_scale and v_scale", where=str(folder), todo=REMEDY)
    zeros = [held.get(leaf) for leaf in ("k_zero_point", "v_zero_point")]
    if args.symmetric and any(zero is not None and bool(zero.any()) for zero in zeros):
        what = f"{owner} has zero points other than 0, but kv_cache_scheme says that it is symmetric"
        raise CheckpointError(what, where=str(folder / "config.json"), todo=REMEDY)
    key_zero, value_zero = (None, None) if args.symmetric else zeros
    strategy: Any = {"attn_head": "head", "channel": "channel"}.get(args.strategy, "tensor")
    kind: Any = "int" if args.type == "int" else "float8"
    cache = CacheScales(owner, kind, args.num_bits, strategy, False, held["k_scale"], held["v_scale"], key_zero, value_zero)
    return sound_cache(cache, str(tensors[f"{owner}.k_scale"].shard))
