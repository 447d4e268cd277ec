"""Whether a statistics job can work, settled before it is submitted. No torch."""

from __future__ import annotations

from pathlib import Path

from quantui.calibration import schema as calibration_schema
from quantui.calibration.pictures import check_picture
from quantui.calibration.sources import read_samples
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import check_loadable, linear_layers, summary_of
from quantui.devices import resolve_name
from quantui.errors import CalibrationError, CheckpointError, InputError, OutputError
from quantui.recipe.text import LONGEST
from quantui.spec import StatsSpec
from quantui.workspace import Workspace, absolute, check_new_folder, free_bytes

CHANNEL_BYTES = 64
"""Bytes of a table for each channel of a Linear's input and output, detail included, roughly."""


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


def _check(spec: StatsSpec) -> None:
    checkpoint = open_checkpoint(Path(spec.model))
    check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
    path = Path(spec.calibration_path)
    chosen = calibration_schema.loads(spec.calibration, where=str(path), base=path.parent)
    samples = read_samples(chosen, [Path(root) for root in spec.roots])
    pictures = [sample for sample in samples if sample.image]
    if pictures and summary_of(checkpoint).kind == "text":
        what = "here is a picture, but the model reads only text"
        raise CalibrationError(what, where=pictures[0].where, todo="choose an image-text model, or data without pictures")
    for sample in pictures:
        check_picture(sample)
    channels = sum(layer.in_features + layer.out_features for layer in linear_layers(checkpoint))
    needed, free = channels * CHANNEL_BYTES + 2**20, free_bytes(Path(spec.out).parent)
    if free < needed:
        what = f"the table needs about {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free"
        raise OutputError(what, where=spec.out, todo="free some space, or choose another disk")
