"""Whether a statistics job can work, settled before it is submitted. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quantui.calibration import schema as calibration_schema
from quantui.calibration.cost import CPU_SHARE, DEVICE_FLOPS, cpu_flops, memory
from quantui.calibration.count import count_tokens
from quantui.calibration.pictures import check_picture
from quantui.calibration.schema import Calibration
from quantui.calibration.sources import Sample, read_samples
from quantui.checkpoint.files import Checkpoint, open_checkpoint
from quantui.checkpoint.inspect import check_loadable, linear_layers, summary_of
from quantui.devices import resolve_name
from quantui.errors import CalibrationError, CheckpointError, InputError, OutputError
from quantui.recipe.text import LONGEST
from quantui.spec import StatsSpec
from quantui.workspace import Workspace, absolute, check_new_folder, free_bytes

CHANNEL_BYTES, BASE_CHANNEL_BYTES = 64, 40
"""Bytes of a table for each channel of a Linear's input and output, with detail and without, roughly."""
SPREAD_BYTES = 16_500
"""Bytes of the distribution of one tensor."""

BASE_TIMES, DETAIL_TIMES = 1.15, 1.5
"""The pass against the bare forward pass, as bench/stats.py measures it."""
START_SECONDS = 6.0
"""What importing torch and transformers takes, and loading the tokenizer; an order of magnitude."""
SECONDS_A_BLOCK = 0.003
"""What a block takes for one sample beside the arithmetic, most of the time of a small model."""
WEIGHT_BYTES_A_SECOND = 5e7
"""Weights that are rounded to all schemes in a second, in bytes as stored; an order of magnitude."""
MEMORY_TIMES = 3
"""The memory held for statistics against the size of the table."""


def prepare_stats(
    workspace: Workspace | None,
    *,
    model: str,
    calibration: str,
    out: str,
    detail: bool = False,
    weights: bool = True,
    lmdeploy: bool = False,
    not_finite: str = "stop",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> StatsSpec:
    """A statistics job that can work, as far as can be told without loading the model.

    Args:
        workspace: whose roots hold for every path; None lets any path pass, as on the command line.
        not_finite: stop, or skip samples in which an activation is NaN or infinite.

    Raises:
        InputError: of the kind of what is wrong.
    """
    if not model.strip():
        raise CheckpointError("no model is chosen", todo="choose a model folder")
    if not calibration.strip():
        raise CalibrationError("no calibration file is chosen", todo="choose a calibration file")
    if not out.strip():
        raise OutputError("no output folder is given", todo="name the folder the statistics go to")
    if not_finite not in ("stop", "skip"):
        raise InputError(f"{not_finite!r} is unknown", where="--not-finite", todo="choose stop or skip")
    source = workspace.readable(model) if workspace else absolute(model)
    data = workspace.readable(calibration) if workspace else absolute(calibration)
    target = check_new_folder(workspace.writable(out) if workspace else absolute(out))
    spec = StatsSpec(
        name=f"{source.name} · {target.name}",
        model=str(source),
        calibration=calibration_schema.read_text(data, longest=LONGEST),
        calibration_path=str(data),
        out=str(target),
        detail=detail,
        weights=weights,
        lmdeploy=lmdeploy,
        not_finite="skip" if not_finite == "skip" else "stop",
        device=resolve_name(device),
        trust_remote_code=trust_remote_code,
        roots=tuple(str(root) for root in workspace.readable_roots) if workspace else (),
    )
    _check(spec)
    return spec


@dataclass(frozen=True)
class StatsCost:
    """Rough needs of a statistics job.

    Attributes:
        samples: how many it runs through the model.
        tokens: how many they come to, roughly.
        seconds: an order of magnitude, from start to end.
        memory_bytes: of the worker at its peak.
        table_bytes: of the table.
    """

    samples: int
    tokens: int
    seconds: float
    memory_bytes: int
    table_bytes: int


def cost_of(spec: StatsSpec) -> StatsCost:
    """What a statistics job will take.

    Raises:
        InputError: something changed since `prepare_stats` and it can no longer work.
    """
    checkpoint, samples, calibration = _inputs(spec)
    tokens, _ = count_tokens(checkpoint, samples, calibration, [Path(root) for root in spec.roots])
    summary = summary_of(checkpoint)
    flops = DEVICE_FLOPS.get(spec.device.partition(":")[0]) or cpu_flops() * CPU_SHARE
    arithmetic = 2 * summary.parameters * tokens / flops * (DETAIL_TIMES if spec.detail else BASE_TIMES)
    calls = len(samples) * summary.blocks * SECONDS_A_BLOCK * (DETAIL_TIMES if spec.detail else BASE_TIMES)
    seconds = START_SECONDS + arithmetic + calls + (checkpoint.nbytes / WEIGHT_BYTES_A_SECOND if spec.weights else 0)
    table = _table_bytes(checkpoint, detail=spec.detail)
    longest = min(calibration.max_tokens, tokens)
    peak = memory(checkpoint, 0, longest) + MEMORY_TIMES * table
    return StatsCost(len(samples), tokens, seconds, peak, table)


def _table_bytes(checkpoint: Checkpoint, *, detail: bool) -> int:
    layers = linear_layers(checkpoint)
    channels = sum(layer.in_features + layer.out_features for layer in layers)
    return channels * (CHANNEL_BYTES if detail else BASE_CHANNEL_BYTES) + (len(layers) * 2 * SPREAD_BYTES if detail else 0)


def _inputs(spec: StatsSpec) -> tuple[Checkpoint, list[Sample], Calibration]:
    checkpoint = open_checkpoint(Path(spec.model))
    check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
    path = Path(spec.calibration_path)
    chosen = calibration_schema.loads(spec.calibration, where=str(path), base=path.parent)
    return checkpoint, read_samples(chosen, [Path(root) for root in spec.roots]), chosen


def _check(spec: StatsSpec) -> None:
    checkpoint, samples, _ = _inputs(spec)
    pictures = [sample for sample in samples if sample.image]
    if pictures and summary_of(checkpoint).kind == "text":
        what = "here is a picture, but the model reads only text"
        raise CalibrationError(what, where=pictures[0].where, todo="choose an image-text model, or data without pictures")
    for sample in pictures:
        check_picture(sample)
    needed, free = _table_bytes(checkpoint, detail=spec.detail) + 2**20, free_bytes(Path(spec.out).parent)
    if free < needed:
        what = f"the table needs about {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free"
        raise OutputError(what, where=spec.out, todo="free some space, or choose another disk")
