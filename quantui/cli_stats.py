"""The command line's statistics: collecting them, and K/V cache scales of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from quantui.checkpoint.files import open_checkpoint
from quantui.cli_options import AsJson, Calibration, Device, KeptIn, Model, TrustRemoteCode, err
from quantui.errors import InputError, OutputError
from quantui.jobs.preflight_stats import prepare_stats
from quantui.jobs.store import JobStore
from quantui.spec import StatsSpec
from quantui.stats.cache_size import PRECISIONS, cache_shape, cache_table
from quantui.stats.kv import ENGINE_SAFE_NOTE, Grain, write_json, write_lmdeploy, write_msmodelslim
from quantui.stats.table import StatsTable
from quantui.workspace import Workspace, absolute, default_root

Run = Callable[[JobStore, StatsSpec], dict[str, Any]]
FORMATS = ("lmdeploy", "msmodelslim", "json")
GRAINS: dict[str, Grain] = {"tensor": "tensor", "head": "head", "channel": "channel"}


def add_to(app: typer.Typer, run: Run) -> None:
    """Adds the commands `stats`, `stats-import`, `kv-qparams` and `kv-memory`.

    Args:
        run: submits a job and returns its result.
    """

    @app.command()
    def stats(
        model: Model,
        calibration: Calibration,
        out: Annotated[str, typer.Option(help="Folder to write; must not exist.")],
        detail: Annotated[
            bool, typer.Option("--detail", help="Moments, quantiles, outliers and histograms too; a slower pass.")
        ] = False,
        weights: Annotated[bool, typer.Option(help="Look at weights and what common schemes cost them.")] = True,
        lmdeploy: Annotated[bool, typer.Option("--lmdeploy", help="Write lmdeploy's four .pth files too.")] = False,
        not_finite: Annotated[
            str, typer.Option(help="What a NaN or infinite activation does: stop, or skip its sample.")
        ] = "stop",
        device: Device = "auto",
        trust_remote_code: TrustRemoteCode = False,
        workspace: KeptIn = None,
        as_json: AsJson = False,
    ) -> None:
        """Collect what calibration data does to every layer: ranges, keys and values, and who caused them."""
        spec = prepare_stats(
            None,
            model=model,
            calibration=calibration,
            out=out,
            detail=detail,
            weights=weights,
            lmdeploy=lmdeploy,
            not_finite=not_finite,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        result = run(JobStore(Workspace(workspace or default_root()).runs), spec)
        print(json.dumps(result) if as_json else _shown(result))

    app.command("stats-import")(stats_import)
    app.command("kv-qparams")(kv_qparams)
    app.command("kv-memory")(kv_memory)


def stats_import(
    work_dir: Annotated[str, typer.Argument(metavar="WORK_DIR", help="The work_dir of lmdeploy lite calibrate.")],
    out: Annotated[str, typer.Option(help="Folder to write; must not exist.")],
    model: Annotated[str, typer.Option(help="Folder of the model, under which the page lists the statistics.")] = "",
    as_json: AsJson = False,
) -> None:
    """Turn the statistics that lmdeploy lite calibrate left into a table that the page shows."""
    from quantui.stats import lmdeploy

    of = open_checkpoint(absolute(model)).folder if model else None
    table = lmdeploy.import_folder(absolute(work_dir), absolute(out), of)
    told = {"out": str(absolute(out)), "layers": len(table.layers), "kv_layers": len(table.attention)}
    print(json.dumps(told) if as_json else f"{told['layers']} linears, K/V of {told['kv_layers']} layers in {told['out']}")


def kv_qparams(
    stats: Annotated[str, typer.Argument(metavar="STATS", help="A statistics folder, or the work_dir of lmdeploy calibrate.")],
    out: Annotated[str, typer.Option(help="Folder to write into; made if it is not there.")],
    sym: Annotated[bool, typer.Option("--sym", help="Symmetric scales without zero points.")] = False,
    tp: Annotated[int, typer.Option(help="Tensor-parallel ranks the heads are dealt to.")] = 1,
    form: Annotated[str, typer.Option("--format", help="lmdeploy, msmodelslim or json.")] = "lmdeploy",
    bits: Annotated[int, typer.Option(min=2, max=8, help="Width of a code.")] = 8,
    grain: Annotated[str, typer.Option(help="For json: what shares a scale: tensor, head or channel.")] = "tensor",
    engine_safe: Annotated[
        bool, typer.Option("--engine-safe", help="For lmdeploy --sym: write the four numbers its engine reads.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write scales and zero points of a quantized K/V cache from statistics."""
    if form not in FORMATS:
        raise InputError(f"format {form!r} is unknown", where="--format", todo=f"choose {', '.join(FORMATS)}")
    if grain not in GRAINS:
        raise InputError(f"{grain!r} is unknown", where="--grain", todo=f"choose {', '.join(GRAINS)}")
    if form == "msmodelslim" and (tp != 1 or bits != 8):
        raise InputError("msModelSlim's cache is 8 bits wide and not dealt to ranks", where="--tp", todo="leave them out")
    if not out.strip():
        raise OutputError("no output folder is given", where="--out", todo="name the folder to write into")
    table, folder = open_table(absolute(stats)), absolute(out)
    if form == "lmdeploy":
        lines = write_lmdeploy(table, folder, symmetric=sym, tp=tp, engine_safe=engine_safe, bits=bits)
        if sym and not engine_safe:
            err.print(f"note: {ENGINE_SAFE_NOTE}", style="yellow")
    elif form == "msmodelslim":
        lines = write_msmodelslim(table, folder, symmetric=sym)
    else:
        lines = write_json(table, folder, symmetric=sym, tp=tp, grain=GRAINS[grain], bits=bits)
    if as_json:
        print(
            json.dumps({"out": str(folder), "format": form, "files": sorted(p.name for p in folder.iterdir()), "lines": lines})
        )
        return
    print("\n".join(lines))


def kv_memory(
    model: Annotated[str, typer.Option(help="Folder of the model.")],
    batch: Annotated[str, typer.Option(help="Sequences at once, by commas.")] = "1,8,16,32,48",
    context: Annotated[str, typer.Option(help="Tokens of a sequence, by commas.")] = "2048,8192,32768",
    as_json: AsJson = False,
) -> None:
    """Print what the K/V cache of a model takes in fp16, fp8, int8 and int4."""
    folder = absolute(model)
    shape = cache_shape(open_checkpoint(folder).config, str(folder / "config.json"))
    rows = cache_table(shape, _numbers("--batch", batch), _numbers("--context", context))
    if as_json:
        table = [{"batch": batch, "tokens": tokens, "bytes": sizes} for batch, tokens, sizes in rows]
        print(json.dumps(asdict(shape) | {"memory": table}))
        return
    print(f"{shape.layers} layers, {shape.kv_heads} K/V heads of {shape.head_dim}; MiB of the cache:")
    print(f"{'batch':>6} {'tokens':>8}" + "".join(f"{name:>11}" for name in PRECISIONS))
    for many, tokens, sizes in rows:
        print(f"{many:6} {tokens:8}" + "".join(f"{size / 2**20:11,.1f}" for size in sizes.values()))


def _numbers(option: str, text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"{text!r} is not a list of whole numbers from 1 on", where=option, todo=f"write {option} 1,8,16")
    return [int(part) for part in parts]


def open_table(folder: Path) -> StatsTable:
    """A table of ours, or of lmdeploy's four files.

    Raises:
        CheckpointError: it is neither.
    """
    from quantui.stats import lmdeploy

    return (
        lmdeploy.read(folder)
        if lmdeploy.is_lmdeploy(folder) and not (folder / "stats.json").exists()
        else StatsTable.load(folder)
    )


def _shown(result: dict[str, Any]) -> str:
    rows = {
        "samples": f"{result['samples']}, {result['tokens']:,} tokens; {result['skipped']} left out",
        "layers": f"{result['layers']} linears, K/V of {result['kv_layers']} layers",
        "table (MB)": f"{result['bytes'] / 1e6:.2f}",
        "time (s)": f"{result['seconds_total']:.1f}; {result['statistics_share']:.0%} of the pass was for statistics",
        "written to": result["out"],
    }
    lines = [f"{title:12} {value}" for title, value in rows.items()]
    lines += ["", "channels that stand out (largest magnitude, and its ratio to the median channel):"]
    lines += [
        f"  {one['absmax']:10.4g} {one['ratio']:8.1f}x  channel {one['channel']:<6} {one['layers'][0]}"
        for one in result["offenders"]
    ]
    return "\n".join(lines)
