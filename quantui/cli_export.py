"""The command line's formats: what was quantized written for another program, and which recipe goes into which format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import linear_layers
from quantui.cli_options import AsJson, KeptIn
from quantui.errors import RecipeError
from quantui.formats.catalog import FORMATS
from quantui.formats.forecast import fits
from quantui.jobs.preflight_export import prepare_export
from quantui.jobs.store import JobStore
from quantui.recipe import llmcompressor
from quantui.spec import ExportSpec
from quantui.workspace import Workspace, absolute, default_root

Run = Callable[[JobStore, ExportSpec], dict[str, Any]]


def add_to(app: typer.Typer, run: Run) -> None:
    """Adds the commands `export` and `formats`.

    Args:
        run: submits a job and returns its result.
    """

    @app.command()
    def export(
        source: Annotated[
            str, typer.Argument(metavar="RUN_OR_DIR", help="A folder of quantized weights, or the run that made it.")
        ],
        format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")],
        out: Annotated[str, typer.Option(help="Folder to write; must not exist.")],
        part_file_size: Annotated[
            float | None, typer.Option(metavar="GB", help="Largest weight file, in GB of 1024^3 bytes.")
        ] = None,
        workspace: KeptIn = None,
        as_json: AsJson = False,
    ) -> None:
        """Write quantized weights in another format; every layer is read again and compared before the folder gets its name."""
        runs = Workspace(workspace or default_root()).runs
        spec = prepare_export(None, source=source, format=format, out=out, part_file_size=part_file_size, runs=runs)
        result = run(JobStore(runs), spec)
        if as_json:
            print(json.dumps(result))
            return
        for title, value in _rows(result).items():
            print(f"{title:18} {value}")

    app.command("formats")(formats)


def formats(
    recipe: Annotated[
        str | None, typer.Option(help="Recipe file; the shipped recipes and those of the workspace if it is not given.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder whose layers are looked at, shape by shape.")] = None,
    workspace: Annotated[Path | None, typer.Option(help="Whose recipes are shown; ./workspace if it is not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which recipe goes into which format, and why not."""
    files = [absolute(recipe)] if recipe else Workspace(workspace or default_root()).recipe_files()
    layers = linear_layers(open_checkpoint(absolute(model))) if model else ()
    found: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        try:
            made = fits(llmcompressor.load(file), layers)
        except RecipeError:
            if recipe:
                raise
            continue  # one of many that does not fit this model
        found[file.stem] = [vars(fit) | {"holds": fit.holds} for fit in made]
    if as_json:
        print(json.dumps({"formats": list(FORMATS), "recipes": found}))
        return
    _show(found)


def _show(found: dict[str, list[dict[str, Any]]]) -> None:
    table = Table("recipe", *FORMATS)
    reasons: dict[str, int] = {}
    for name, row in found.items():
        cells = ["yes" if fit["holds"] else f"no ({reasons.setdefault(fit['reason'], len(reasons) + 1)})" for fit in row]
        table.add_row(name, *cells)
    console = Console(highlight=False, width=160)
    console.print(table)
    for reason, number in reasons.items():
        console.print(f"({number}) {reason}", soft_wrap=True, markup=False)


def _rows(result: dict[str, Any]) -> dict[str, str]:
    """What a person reads of an export, by title."""
    off, sizes = result["largest_deviation"], [result[f"bytes_{side}"] / 1e6 for side in ("before", "after")]
    return {
        "export": f"{result['source_format']} -> {result['format']}",
        "layers": f"{result['layers']} quantized, {result['tensors']} tensors untouched, {result['kv_layers']} K/V caches",
        "size (MB)": f"{sizes[0]:.2f} -> {sizes[1]:.2f} in {len(result['files'])} file(s)",
        "read again": "every weight is the same" if off == 0 else f"weights are at most {off:.2g} of themselves off",
        "time (s)": f"{result['seconds_total']:.1f}",
        "written to": str(result["out"]),
    }
