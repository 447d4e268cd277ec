"""The command line's comparison: how far two models are apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from quantui.cli_options import AsJson, Device, KeptIn, TrustRemoteCode
from quantui.compare.benchmarks import shown as benchmark_table
from quantui.compare.figures import KEYS
from quantui.compare.report import write_report
from quantui.errors import InputError, OutputError
from quantui.jobs.preflight_compare import prepare_compare, prepare_harness
from quantui.jobs.store import JobStore
from quantui.spec import CompareSpec, HarnessSpec
from quantui.workspace import Workspace, absolute, default_root

Run = Callable[[JobStore, CompareSpec | HarnessSpec], dict[str, Any]]


def add_to(app: typer.Typer, run: Run) -> None:
    """Adds the commands `compare`, `lm-eval` and `report`.

    Args:
        run: submits a job and returns its result.
    """

    @app.command()
    def compare(
        quantized: Annotated[str, typer.Option(help="Folder of the quantized model, or of the run that made it.")],
        data: Annotated[str, typer.Option(help="jsonl of chats with answers, which are scored token by token.")],
        original: Annotated[str, typer.Option(help="Folder of the float model, unless the other names it.")] = "",
        limit: Annotated[int, typer.Option(min=0, help="Rows that are used, from the first; 0 for all.")] = 0,
        device: Device = "auto",
        trust_remote_code: TrustRemoteCode = False,
        workspace: KeptIn = None,
        as_json: AsJson = False,
    ) -> None:
        """Measure how far a quantized model is from its original, on the tokens of expected answers."""
        spec = prepare_compare(
            None,
            original=original,
            quantized=quantized,
            data=data,
            limit=limit,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        result = run(JobStore(Workspace(workspace or default_root()).runs), spec)
        print(json.dumps({key: result[key] for key in KEYS}) if as_json else _shown(result))

    _add_harness(app, run)
    app.command()(report)


def _add_harness(app: typer.Typer, run: Run) -> None:
    @app.command("lm-eval")
    def lm_eval(
        quantized: Annotated[str, typer.Option(help="Folder of the quantized model, or of the run that made it.")],
        tasks: Annotated[str, typer.Option(help="Tasks of lm-evaluation-harness, by commas.")],
        original: Annotated[str, typer.Option(help="Folder of the float model, unless the other names it.")] = "",
        tasks_folder: Annotated[
            str, typer.Option(help="Folder with YAML files of more tasks, over data on this machine.")
        ] = "",
        limit: Annotated[int, typer.Option(min=0, help="Rows of each task that are used, from the first; 0 for all.")] = 0,
        chat: Annotated[bool, typer.Option("--chat", help="Put prompts through the model's chat template.")] = False,
        device: Device = "auto",
        trust_remote_code: TrustRemoteCode = False,
        workspace: KeptIn = None,
        as_json: AsJson = False,
    ) -> None:
        """Run benchmarks of lm-evaluation-harness on both models: one table with what changed."""
        spec = prepare_harness(
            original=original,
            quantized=quantized,
            tasks=[name.strip() for name in tasks.split(",") if name.strip()],
            tasks_folder=tasks_folder or None,
            limit=limit,
            chat=chat,
            device=device,
            trust_remote_code=trust_remote_code,
        )
        result = run(JobStore(Workspace(workspace or default_root()).runs), spec)
        print(json.dumps(result) if as_json else benchmark_table(result["rows"], result["columns"]))


def report(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Ids or folders of runs, or quantized model folders.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    lang: Annotated[str, typer.Option(help="en or zh-CN.")] = "en",
    workspace: Annotated[Path | None, typer.Option(help="Where runs are looked for by id; ./workspace if not given.")] = None,
) -> None:
    """Write what was found of one or more quantized models as one HTML file that opens offline."""
    kept = (workspace or default_root()) / "runs"
    folders = [absolute(run) if Path(run).exists() else absolute(kept / run) for run in runs]
    if missing := next((folder for folder in folders if not folder.is_dir()), None):
        raise InputError("there is no such run", where=missing.name, todo="give its id with --workspace, or its folder")
    target = absolute(out)
    if not target.parent.is_dir():
        raise OutputError("its folder does not exist", where=str(target), todo="make the folder, or choose another place")
    write_report(folders, target, lang=lang)
    print(target)


def _shown(result: dict[str, Any]) -> str:
    noise = result["noise_floor"]
    at = result["kl_max_at"]
    exact = [result[f"exact_match_{side}"] for side in ("original", "quantized")]
    rows = {
        "KL (nats/token)": f"mean {result['kl_mean']:.5f}, median {result['kl_median']:.5f}, 90 % {result['kl_p90']:.5f}, "
        f"99 % {result['kl_p99']:.5f}, largest {result['kl_max']:.3f} at {at['token']!r} of {at['where']}",
        "noise of bf16": "not measured" if noise is None else f"{noise:.2g} nats/token",
        "same top token": f"{result['top1_agreement']:.2%}",
        "perplexity": f"{result['perplexity_original']:.4f} -> {result['perplexity_quantized']:.4f} "
        f"(ratio {result['perplexity_ratio']:.4f})",
        "exact match": "not measured" if exact[0] is None else f"{exact[0]:.1%} -> {exact[1]:.1%}",
        "answers changed": f"{result['flips']} of {result['rows']} rows, {result['tokens']:,} tokens",
        "time (s)": f"{result['seconds_total']:.1f}",
    }
    lines = [f"{title:16} {value}" for title, value in rows.items()]
    for name, group in result["categories"].items():
        lines.append(
            f"  {name:20} {group['rows']:5} rows  KL {group['kl_mean']:.5f}  perplexity {group['perplexity_original']:.3f} -> "
            f"{group['perplexity_quantized']:.3f}  exact match {_shares(group)}"
        )
    for name, part in result["positions"].items():
        lines.append(f"  {name + ' positions':20} {part['tokens']:5} tokens  KL {part['kl_mean']:.5f}")
    worst = sorted(result["layers"], key=lambda row: row["sqnr_db"] if row["sqnr_db"] is not None else 1e9)[:5]
    lines += ["", "layers with the largest error of their own output:"]
    lines += [f"  {row['sqnr_db']:6.1f} dB  cosine {row['cosine']:.6f}  {row['name']}" for row in worst if row["sqnr_db"]]
    return "\n".join(lines)


def _shares(group: dict[str, Any]) -> str:
    one, two = group["exact_match_original"], group["exact_match_quantized"]
    return "not measured" if one is None else f"{one:.1%} -> {two:.1%}"
