"""The export job: a folder of quantized weights in, the same in another format out, read again before it gets its name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from quantui.errors import CheckpointError, OutputError
from quantui.events import Artifact, EventWriter, Log, Metric
from quantui.formats.adapt import adapted
from quantui.formats.base import Format, OpenFolder
from quantui.formats.catalog import FORMATS, open_quantized
from quantui.formats.reread import compare
from quantui.spec import ExportSpec
from quantui.stages import Stages
from quantui.workspace import staged_folder, sweep_staging, write_json

WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".npy", ".gguf", ".onnx", ".msgpack", ".h5", ".weight")
NOT_TAKEN = ("config.json", "quantui.json", "spec.json", "result.json", "process.json")
"""Files of the source that say what it is, not what the model is."""


def export(spec: ExportSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out an export job.

    Args:
        folder: the job's folder; nothing is written there but by the caller.

    Returns:
        The result as it stands in result.json: sizes in bytes, times in seconds.

    Raises:
        InputError: the source cannot be read, or the format cannot hold it; the first layer is named.
        ResultError: what was written does not come back as it was.
    """
    import torch

    stages = Stages(events)
    held = FORMATS[spec.format]
    with stages("start"):
        torch.set_num_threads(1)  # layers are worked on side by side, and threads within one would only wait for each other
        sweep_staging(Path(spec.out))
        source = open_quantized(Path(spec.source))
        events.write(Log("info", f"{len(source.layers)} quantized layers in the format {source.format}"))
    with stages("check"):
        source = adapted(source, spec.format)
        check_holds(held, source)
    with staged_folder(Path(spec.out)) as staging:
        with stages("write"):
            held.write(source, staging, part_bytes=spec.part_bytes)
            copy_sidecars(source.folder, staging)
        with stages("reread"):
            written = held.open(staging)
            kept = replace(source, parts=()) if not written.parts else source  # K/V scales alone
            off = compare(kept, written, lambda done, total: stages.told(done, total, "tensors"))
            events.write(Log("info", f"every layer and tensor was read again; weights are at most {off:.2g} of themselves off"))
        result = _result(spec, source, staging, off)
        result |= {"seconds": stages.seconds, "seconds_total": round(sum(stages.seconds.values()), 3)}
        write_json(staging / "quantui.json", {"model": _original(source.folder), "exported_from": spec.source} | result)
    for name in ("bytes_before", "bytes_after"):
        events.write(Metric(name, float(result[name]), "B"))
    events.write(Artifact("export", spec.out))
    return result


def check_holds(held: Format, source: OpenFolder) -> None:
    """Refuses what the format cannot hold.

    Raises:
        OutputError: a layer or a K/V cache cannot be held; the first, and why.
        CheckpointError: there is nothing quantized to write.
    """
    if not source.layers and not source.caches:
        what = "nothing in it is quantized"
        raise CheckpointError(what, where=str(source.folder), todo="give the result of a quantize run")
    todo = "see `formats` for what holds it"
    for part in source.layers:
        if reason := held.refusal(part.outline):
            raise OutputError(f"{held.name} cannot hold this layer: {reason}", where=part.name, todo=todo)
    for cache in source.caches:
        if reason := held.refusal_of_cache(cache):
            raise OutputError(f"{held.name} cannot hold this layer: {reason}", where=cache.name, todo=todo)


def copy_sidecars(source: Path, target: Path) -> None:
    """Copies what a loader needs beside weights and config: tokenizer, templates, processor, licence, Python code."""
    for file in source.iterdir():
        described = "description" in file.name or file.name.endswith(".index.json") or file.name.startswith(".")
        plain = file.is_file() and not described and file.suffix not in WEIGHTS and file.name not in NOT_TAKEN
        if plain and not (target / file.name).exists():
            shutil.copy2(file, target / file.name)


def _original(folder: Path) -> str | None:
    """The float model a folder says it was made from."""
    from quantui.formats.model_files import read_json

    return (read_json(folder / "quantui.json") or {}).get("model")


def _result(spec: ExportSpec, source: OpenFolder, staging: Path, off: float) -> dict[str, Any]:
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    files = sorted(file.name for file in staging.iterdir() if file.suffix in WEIGHTS)
    return {
        "out": spec.out,
        "format": spec.format,
        "source_format": source.format,
        "layers": len(source.layers),
        "tensors": len(source.tensors),
        "kv_layers": len(source.caches),
        "largest_deviation": off,
        "files": files,
        "bytes_before": _weight_bytes(source.folder),
        "bytes_after": _weight_bytes(staging),
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
    }


def _weight_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir() if file.suffix in WEIGHTS)
