"""The command line: the same functions the page calls, with the rights of whoever runs it.

Exit codes: 0 done, 2 the input is wrong (one sentence on stderr), 1 it failed while running.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from typer.exceptions import TyperException

from quantui import cli_calibration, cli_compare, cli_export, cli_recipe, cli_sensitivity, cli_stats
from quantui.checkpoint.convert.prepare import prepare_conversion
from quantui.cli_options import AsJson, Device, KeptIn, Model, TrustRemoteCode, err
from quantui.errors import InputError, QuantUIError, RunError
from quantui.events import Failed, Log, Progress, Stamped
from quantui.jobs.launch import cancel
from quantui.jobs.preflight import Forecast, forecast, prepare
from quantui.jobs.store import JobStore
from quantui.jobs.tail import follow
from quantui.spec import JobSpec
from quantui.workspace import RECIPES, Workspace, default_root

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.add_typer(cli_calibration.app, name="calibration")
app.add_typer(cli_recipe.app, name="recipe")
cli_compare.add_to(app, lambda store, spec: run_job(store, spec))
cli_export.add_to(app, lambda store, spec: run_job(store, spec))
cli_stats.add_to(app, lambda store, spec: run_job(store, spec))
cli_sensitivity.add_to(app, lambda store, spec: run_job(store, spec))

DEMO = (("chat", "fp8-w8a8-kv8"), ("chat", "int8-w8a8-static"), ("vision", "fp8-w8a8-kv8"))
"""What `demo` runs: model and recipe."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command line and exits with its code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    try:
        sys.exit(app(given or ["--help"], standalone_mode=False))
    except TyperException as error:
        _stop(InputError(error.format_message().rstrip("."), todo="see --help"), as_json="--json" in given)
    except QuantUIError as error:
        _stop(error, as_json="--json" in given)
    except Exception as error:  # noqa: BLE001  (whoever reads the JSON gets some whatever happens)
        traceback.print_exc()
        _stop(RunError(f"{type(error).__name__}: {error}", todo="please report this"), as_json="--json" in given)


def _stop(error: QuantUIError, *, as_json: bool) -> NoReturn:
    print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
    if as_json:
        body = {"what": error.what, "where": error.where, "todo": error.todo}
        print(json.dumps({"error": body, "exit_code": error.exit_code}))
    sys.exit(error.exit_code)


@app.callback()
def quantui() -> None:
    """See what quantization does to a model, decide layer by layer, write the checkpoint you deploy."""


@app.command()
def quantize(
    model: Model,
    recipe: Annotated[str, typer.Option(help="Recipe file (llm-compressor YAML).")],
    out: Annotated[str, typer.Option(help="Folder to write; must not exist.")],
    calibration: Annotated[str | None, typer.Option(help="Calibration file; needed by recipes with static scales.")] = None,
    evaluation: Annotated[
        str,
        typer.Option(help="Held-out questions: a jsonl file, none, or auto = evaluation.jsonl beside the calibration file."),
    ] = "auto",
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
    statistics: Annotated[
        bool, typer.Option("--statistics/--no-statistics", help="Gather the float model's statistics while calibrating.")
    ] = True,
    workspace: KeptIn = None,
    as_json: AsJson = False,
) -> None:
    """Quantize a model folder with a recipe."""
    spec = prepare(
        None,
        model=model,
        recipe=recipe,
        calibration=calibration,
        out=out,
        device=device,
        trust_remote_code=trust_remote_code,
        evaluation=evaluation,
        statistics=statistics,
    )
    made = forecast(spec)
    store = JobStore(Workspace(workspace or default_root()).runs)
    _show_forecast(made)
    result = run_job(store, spec)
    if as_json:
        print(json.dumps(result))
    else:
        for title, value in _row(spec.name, result).items():
            print(f"{title:18} {value}")
        if statistics:
            print(f"{'statistics':18} {result.get('stats') or result['stats_note']}")
        print(f"{'written to':18} {result['out']}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Folder of the checkpoint in its original layout.")],
    target: Annotated[str, typer.Argument(metavar="DST", help="Folder to write; must not exist.")],
    processor_from: Annotated[
        str | None, typer.Option(metavar="DIR", help="Copy tokenizer and processor files from here instead of making them.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest weight file, as 5GB or 500MB.")] = "5GB",
    dtype: Annotated[str, typer.Option(help="keep, bf16 or fp16.")] = "keep",
    verify: Annotated[
        bool | None, typer.Option("--verify/--no-verify", help="Compare logits of both sides; by default below 2 GB.")
    ] = None,
    allow_extra: Annotated[
        bool, typer.Option("--allow-extra", help="Drop tensors that belong nowhere instead of stopping.")
    ] = False,
    image_token_id: Annotated[
        int | None, typer.Option(help="The token that stands for a picture, where no tokenizer tells it.")
    ] = None,
    workspace: KeptIn = None,
    as_json: AsJson = False,
) -> None:
    """Convert a checkpoint from its original layout to transformers' own, or InternVL back."""
    spec = prepare_conversion(
        None,
        model=source,
        out=target,
        processor_from=processor_from,
        max_shard_size=max_shard_size,
        dtype=dtype,
        verify=verify,
        allow_extra=allow_extra,
        image_token_id=image_token_id,
    )
    result = run_job(JobStore(Workspace(workspace or default_root()).runs), spec)
    if as_json:
        print(json.dumps(result))
        return
    for title, value in _conversion_rows(result).items():
        print(f"{title:18} {value}")


@app.command()
def demo(
    workspace: Annotated[
        Path | None, typer.Option(help="Keep models, jobs and results here; else they go with the command.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Quantize the embedded models and print what it does to them."""
    with tempfile.TemporaryDirectory(prefix="quantui-demo-") as temporary:
        space = Workspace(workspace or Path(temporary))
        space.add_demo()
        rows = []
        for model, recipe in DEMO:
            spec = prepare(
                space,
                model=str(space.models / model),
                recipe=str(RECIPES / f"{recipe}.yaml"),
                calibration=str(space.calibration / model / "calibration.yaml"),
                out=str(space.free_name(f"{model}-{recipe}")),
                device=device,
            )
            rows.append((spec.name, run_job(JobStore(space.runs), spec)))
        Console(highlight=False, width=140).print(_table(rows))


def run_job(store: JobStore, spec: JobSpec, show: Callable[[Stamped], None] | None = None) -> dict[str, Any]:
    """Submits a job, shows its events on stderr until it ends, and returns its result.

    Raises:
        QuantUIError: the job failed; Ctrl-C cancels it first.
    """
    run = store.submit(spec)
    if run.queue_position and run.queue_position > 1:
        err.print(f"waiting in the queue at place {run.queue_position}")
    show = show or _Printer()
    try:
        for stamped in follow(store, run.id):
            show(stamped)
            if isinstance(stamped.event, Failed):
                raise _as_error(stamped.event)
    except KeyboardInterrupt:
        cancel(store, run.id)
        raise RunError("cancelled", where=run.id) from None
    result = store.result(run.id)
    if result is None:
        raise RunError("the job ended without a result", where=str(run.folder), todo="read log.txt there")
    return result


class _Printer:
    """Shows stages and log lines from info up, each stage once."""

    def __init__(self) -> None:
        self._stage = ""

    def __call__(self, stamped: Stamped) -> None:
        """Shows one event."""
        event = stamped.event
        if isinstance(event, Progress) and event.stage != self._stage:
            self._stage = event.stage
            err.print(f"[bold]{event.stage}[/bold]")
        elif isinstance(event, Log) and event.level in ("info", "warning", "error") and event.source == "quantui":
            style = {"warning": "yellow", "error": "red"}.get(event.level, "dim")
            err.print(f"  {event.text}", style=style, markup=False)


def _as_error(failed: Failed) -> QuantUIError:
    error = RunError(failed.what, where=failed.where, todo=failed.todo)
    error.exit_code = 2 if failed.reason == "input" else 1
    return error


def _show_forecast(made: Forecast) -> None:
    about = "" if made.calibration_tokens_exact else "about "
    back = "" if made.fallback is None else " before automatic fallback"
    err.print(
        f"{made.layers_quantized} layers quantized, {made.layers_left} left in float{back}; "
        f"{made.bytes_before / 1e6:.1f} MB -> about {made.bytes_after / 1e6:.1f} MB; "
        f"{made.calibration_samples} samples, {about}{made.calibration_tokens:,} tokens; "
        f"about {made.memory_bytes / 1e9:.1f} GB of memory"
    )


def _table(rows: list[tuple[str, dict[str, Any]]]) -> Table:
    shown = [_row(name, result) for name, result in rows]
    table = Table()
    for title in shown[0]:
        table.add_column(title, justify="left" if title == "run" else "right", no_wrap=True)
    for row in shown:
        table.add_row(*row.values())
    return table


def _row(name: str, result: dict[str, Any]) -> dict[str, str]:
    """What a person reads of a result, by title."""
    quantized, left = result["layers_quantized"], result["layers_left"]
    return {
        "run": name,
        "exact match": _pair(result, "exact_match", lambda share: f"{share:.1%}"),
        "perplexity": _pair(result, "perplexity", lambda value: f"{value:.3f}"),
        "size (MB)": _pair(result, "bytes", lambda size: f"{size / 1e6:.2f}"),
        "layers": f"{quantized} of {quantized + left}",
        "time (s)": f"{result['seconds_total']:.1f}",
        "peak memory (MB)": f"{result['peak_memory_bytes'] / 1e6:,.0f}",
    }


def _conversion_rows(result: dict[str, Any]) -> dict[str, str]:
    """What a person reads of a conversion, by title."""
    off, largest = result["logit_difference"], result["logit_largest"]
    compared = "not compared" if off is None else f"at most {off:.3g} apart; the largest is {largest:.3g}"
    return {
        "conversion": f"{result['conversion']} -> {result['architecture']}",
        "tensors": f"{result['tensors']} written, each read again; {len(result['dropped'])} dropped",
        "size (MB)": f"{result['bytes_before'] / 1e6:.2f} -> {result['bytes_after'] / 1e6:.2f} in {result['shards']} file(s)",
        "logits": compared,
        "time (s)": f"{result['seconds_total']:.1f}",
        "written to": str(result["out"]),
    }


def _pair(result: dict[str, Any], name: str, shown: Callable[[Any], str]) -> str:
    before, after = result[f"{name}_before"], result[f"{name}_after"]
    return "not measured" if before is None else f"{shown(before)} -> {shown(after)}"
