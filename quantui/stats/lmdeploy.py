"""lmdeploy's four files of statistics, written and read.

`key_stats.pth`, `value_stats.pth`: stat -> layer -> (kv_heads, head_dim); `inputs_stats.pth`, `outputs_stats.pth`: stat ->
module -> (channels,). Inside decoder layers only, outputs of the final norm besides.

Source: lmdeploy v0.1.0, lmdeploy/lite/quantization/calibration.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quantui.errors import CheckpointError
from quantui.stats.build import SiteArrays, build
from quantui.stats.table import StatsTable
from quantui.workspace import staged_folder

KV_STATS = ("max", "min", "absmax")
LINEAR_STATS = ("max", "min", "mean", "absmax", "absmean")
FILES = {"key": "key_stats.pth", "value": "value_stats.pth", "input": "inputs_stats.pth", "output": "outputs_stats.pth"}
"""Role of an entry -> the file it goes into."""


def export(table: StatsTable, folder: Path) -> tuple[Path, ...]:
    """Writes the four files into an existing folder; float16 for a float16 model and float32 for all others, as there.

    Of an image-text model the language model goes in, under the names it has alone.
    """
    import torch

    dtype = torch.float16 if table.meta["dtype"] == "float16" else torch.float32
    written = []
    for role, file in FILES.items():
        stats = KV_STATS if role in ("key", "value") else LINEAR_STATS
        names = {name: made for name, its in table.entries if its == role and (made := _their_name(table, name, role))}
        body = {
            stat: {made: torch.from_numpy(np.array(table.stat(name, role, stat))).to(dtype) for name, made in names.items()}
            for stat in stats
        }
        torch.save(body, folder / file)
        written.append(folder / file)
    return tuple(written)


def read(folder: Path) -> StatsTable:
    """The four files as a table; samples, tokens and weights are not known to them. Only `key` and `value` have to be there.

    Raises:
        CheckpointError: a file is missing, damaged or holds something else.
    """
    sites: list[SiteArrays] = []
    entries: list[tuple[str, str, int]] = []
    sizes: dict[str, dict[str, int]] = {}
    dtype = "float32"
    for role, file in FILES.items():
        path = folder / file
        if not path.exists() and role in ("input", "output"):
            continue
        body = _load(path)
        stats = KV_STATS if role in ("key", "value") else LINEAR_STATS
        try:
            if not body["max"]:
                raise ValueError("it names no layer")
            for name in body["max"]:
                values = {stat: body[stat][name] for stat in stats}
                _check(values, cache=role in ("key", "value"))
                if str(values["max"].dtype) == "torch.float16":
                    dtype = "float16"
                entries.append((f"{name}.self_attn" if role in ("key", "value") else name, role, len(sites)))
                sites.append(_site({stat: value.float().numpy() for stat, value in values.items()}))
                sizes.setdefault(name, {})[role] = sites[-1].channel["max"].size
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            what = f"the file is no statistics of lmdeploy ({type(error).__name__}: {error})"
            raise CheckpointError(what, where=str(path), todo="run lmdeploy lite calibrate again") from error
    linears = [  # norms have outputs alone; a search for scales leaves no file of outputs
        {"name": name, "in": size["input"], "out": size.get("output", 0), "weights": None}
        for name, size in sizes.items()
        if "input" in size
    ]
    heads = next((list(site.shape) for site in sites if len(site.shape) == 2), [0, 0])
    layers = sum(1 for _, role, _ in entries if role == "key")
    cache = {"layers": layers, "heads": 0, "kv_heads": heads[0], "head_dim": heads[1]}
    return build(sites, entries, linears, {"dtype": dtype, "source": "lmdeploy", "cache": cache})


def import_folder(folder: Path, out: Path, model: Path | None = None) -> StatsTable:
    """Writes the four files as a table of ours, which everything that reads tables can show.

    Args:
        folder: the work_dir of lmdeploy's calibration.
        out: written to; must not exist.
        model: the folder of the model they are of, under which pages list the table.

    Raises:
        CheckpointError: see `read`.
        OutputError: `out` exists or cannot be made.
    """
    table = read(folder)
    table.meta["model"] = str(model or "")
    with staged_folder(out) as staging:
        table.save(staging)
    return table


def is_lmdeploy(folder: Path) -> bool:
    """Whether a folder holds lmdeploy's statistics of keys and values."""
    return (folder / FILES["key"]).is_file() and (folder / FILES["value"]).is_file()


def _their_name(table: StatsTable, name: str, role: str) -> str:
    """What lmdeploy calls a module; "" for those it leaves out."""
    name = name.replace("model.language_model.", "model.", 1)
    if name.startswith(("vision", "model.vision", "model.visual", "model.multi_modal_projector", "multi_modal_projector")):
        return ""
    if role in ("key", "value"):
        return name.rpartition(".")[0]
    return name if ".layers." in name or (role == "output" and name.endswith(".norm")) else ""


def _check(values: dict[str, Any], *, cache: bool) -> None:
    """Refuses statistics of one module that are not of one shape.

    Raises:
        ValueError: they are not, or not of heads where they are of a cache, or hold nothing, or what is no number.
    """
    shapes = {tuple(value.shape) for value in values.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1 + cache or not all(value.numel() for value in values.values()):
        raise ValueError(f"they have the shapes {', '.join(map(str, sorted(shapes)))}")
    if not all(bool(value.isfinite().all()) for value in values.values()):
        raise ValueError("they hold what is no finite number")


def _load(path: Path) -> Any:
    import torch

    todo = "check the path: it is the work_dir of lmdeploy lite calibrate"
    try:
        body = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle raises whatever its bytes ask for
        what = f"the file cannot be read ({' '.join(str(error).split())[:200]})"
        raise CheckpointError(what, where=str(path), todo=todo) from error
    if not isinstance(body, dict):
        raise CheckpointError("the file is no statistics of lmdeploy", where=str(path), todo=todo)
    return body


def _site(values: dict[str, Any]) -> SiteArrays:
    shape = values["max"].shape
    flat = {stat: value.reshape(-1).astype(np.float32) for stat, value in values.items()}
    unknown = np.full(flat["max"].size, np.nan, np.float32)
    channel = {stat: flat.get(stat, unknown) for stat in ("max", "min", "mean", "absmean")}
    for side in ("max", "min"):
        channel |= {f"{side}_{what}": np.full(flat["max"].size, -1, np.int32) for what in ("sample", "token")}
    return SiteArrays(tuple(shape), 0, False, channel)
