"""Quantized layers in files of their own, one a layer, beside a model whose own files cannot hold them.

`quantized-layers/<module name>.safetensors` holds the tensors of a QuantizedLayer by the names of its fields, and everything
else of it as JSON under "layer" in the file's metadata; `quantized-layers/<attention name>.cache.safetensors` holds the scales
of a K/V cache in the same way. The model's own weights stay what a plain loader needs: what the layers come back as.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantui.errors import CheckpointError
from quantui.numerics.quantized import TENSORS, CacheScales, Inputs, QuantizedLayer, Weights
from quantui.numerics.sound import sound_cache, sound_layer

FOLDER = "quantized-layers"
CACHE = ".cache.safetensors"
CACHE_TENSORS = ("key_scale", "value_scale", "key_zero", "value_zero")


def save_layer(folder: Path, layer: QuantizedLayer) -> None:
    """Writes one layer beside the model in `folder`."""
    body: dict[str, Any] = {"name": layer.name, "dtype": layer.dtype, "weights": asdict(layer.weights)}
    body["inputs"] = asdict(layer.inputs) if layer.inputs else None
    _save(folder / FOLDER / f"{layer.name}.safetensors", layer, TENSORS, body)


def save_cache(folder: Path, cache: CacheScales) -> None:
    """Writes the scales of one attention layer's K/V cache beside the model in `folder`."""
    body = {name: value for name, value in vars(cache).items() if name not in CACHE_TENSORS}
    _save(folder / FOLDER / f"{cache.name}{CACHE}", cache, CACHE_TENSORS, body)


def layer_files(folder: Path) -> dict[str, Path]:
    """Module name -> file of every layer kept beside the model in `folder`."""
    found = sorted((folder / FOLDER).glob("*.safetensors"))
    return {file.name.removesuffix(".safetensors"): file for file in found if not file.name.endswith(CACHE)}


def cache_files(folder: Path) -> list[Path]:
    """The files of K/V cache scales kept beside the model in `folder`."""
    return sorted((folder / FOLDER).glob(f"*{CACHE}"))


def load_layer(file: Path, *, meta: bool = False) -> QuantizedLayer:
    """Reads one layer; with meta only its shapes and dtypes.

    Raises:
        CheckpointError: the file is not one of a quantized layer.
    """
    body, tensors = _load(file, TENSORS, meta)
    try:
        inputs = Inputs(**body["inputs"]) if body["inputs"] else None
        block = body["weights"].get("block")
        weights = Weights(**(body["weights"] | {"block": tuple(block) if block else None}))
        return sound_layer(QuantizedLayer(body["name"], weights, inputs, **tensors, dtype=body["dtype"]), str(file))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise _foreign(file, error) from error


def load_cache(file: Path) -> CacheScales:
    """Reads the scales of one K/V cache.

    Raises:
        CheckpointError: the file is not one of such scales.
    """
    body, tensors = _load(file, CACHE_TENSORS, False)
    try:
        return sound_cache(CacheScales(**body, **tensors), str(file))
    except (TypeError, AttributeError) as error:
        raise _foreign(file, error) from error


def _save(file: Path, held: object, names: tuple[str, ...], body: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    file.parent.mkdir(exist_ok=True)
    tensors = {name: getattr(held, name) for name in names if getattr(held, name) is not None}
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(ready, str(file), metadata={"layer": json.dumps(body)})


def _load(file: Path, names: tuple[str, ...], meta: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), framework="pt") as opened:
            body = json.loads((opened.metadata() or {})["layer"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys() if name in names}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _foreign(file, error) from error
    if meta:
        tensors = {name: tensor.to("meta") for name, tensor in tensors.items()}
    return body, dict.fromkeys(names) | tensors


def _foreign(file: Path, error: Exception) -> CheckpointError:
    what = f"this is not the file of a quantized layer ({type(error).__name__}: {error})"
    return CheckpointError(what, where=str(file), todo="quantize the model again")
