"""What a transformers folder has beside its shards: config.json and the index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quantui.checkpoint.files import Checkpoint
from quantui.checkpoint.inspect import linear_layers
from quantui.errors import OutputError
from quantui.formats.base import GIB, OpenFolder
from quantui.formats.names import aliases
from quantui.formats.shards import ShardFiles
from quantui.workspace import write_json

PART_BYTES = 5 * GIB
"""Most bytes of a shard where nothing else is said; transformers 5 writes shards of up to 50 GB, its earlier versions of 5."""


def check_config(source: OpenFolder) -> None:
    """Refuses a source without which the result could not be loaded.

    Raises:
        OutputError: it has no config.json.
    """
    if not source.config:
        what = "there is no config.json, without which the result could not be loaded"
        raise OutputError(what, where=str(source.folder), todo="copy the float model's config.json into it")


def write_index(folder: Path, files: ShardFiles) -> None:
    """Writes model.safetensors.index.json, where there are several shards."""
    if len(set(files.weight_map.values())) > 1:
        index = {"metadata": {"total_size": files.total}, "weight_map": dict(sorted(files.weight_map.items()))}
        write_json(folder / "model.safetensors.index.json", index)


def write_config(folder: Path, config: Mapping[str, Any], quantization: Mapping[str, Any] | None) -> None:
    """Writes config.json as transformers does: keys sorted, a newline at the end."""
    body = dict(config) | ({"quantization_config": quantization} if quantization else {})
    text = json.dumps(body, indent=2, ensure_ascii=False, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def float_linears(source: OpenFolder) -> list[str]:
    """Linears that stay float, by their names in the files and then in the live model."""
    floats = {part.name: part.tensor for part in source.tensors}
    listed = {linear.name for linear in linear_layers(Checkpoint(source.folder, source.config, floats, False))}
    modules = dict.fromkeys(name.rpartition(".")[0] for name in floats)
    files = [name for name in modules if any(alias in listed for alias in aliases(name, source.config))]
    return list(dict.fromkeys(alias for name in files for alias in aliases(name, source.config)))


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """A config that names this dtype, by whichever key it named one, also in the parts of a composed model."""
    made = {key: with_dtype(value, dtype) if isinstance(value, dict) else value for key, value in config.items()}
    return made | {key: dtype for key in ("dtype", "torch_dtype") if key in config}


def read_json(file: Path) -> dict[str, Any] | None:
    """A JSON object; None where there is no such file or it holds none."""
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return body if isinstance(body, dict) else None
