"""The command line's sensitivity: scoring layers, and choosing by the scores."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from quantui.cli_options import AsJson, Calibration, Device, KeptIn, Model, TrustRemoteCode, err
from quantui.errors import InputError
from quantui.jobs.preflight_sensitivity import prepare_sensitivity
from quantui.jobs.store import JobStore
from quantui.recipe import llmcompressor
from quantui.recipe.llmcompressor.edited import edited
from quantui.sensitivity import select as choosing
from quantui.sensitivity.apply import applied, check_belongs, forecast
from quantui.sensitivity.candidates import chosen_schemes
from quantui.sensitivity.reuse import same_inputs
from quantui.sensitivity.scores import METHODS, SCORES, Scores, load_scores
from quantui.spec import SensitivitySpec
from quantui.workspace import Workspace, absolute, default_root, write_text

Run = Callable[[JobStore, SensitivitySpec], dict[str, Any]]


def add_to(app: typer.Typer, run: Run) -> None:
    """Adds the commands `sensitivity`, `auto` and `select`.

    Args:
        run: submits a job and returns its result.
    """
    _add_sensitivity(app, run)
    _add_auto(app, run)
    app.command("select")(select)


def _add_sensitivity(app: typer.Typer, run: Run) -> None:
    @app.command()
    def sensitivity(
        model: Model,
        calibration: Calibration,
        recipe: Annotated[str, typer.Option(help="Recipe file; its schemes are tried, and layers it takes.")],
        out: Annotated[str, typer.Option(help="Folder to write; must not exist, unless it holds these very scores.")],
        method: Annotated[
            str,
            typer.Option(
                help="fisher: all layers in one pass with gradients. path: shares of the damage of all together. "
                "exact: one layer at a time. local: without gradients. measure: the recipe's own choice, for real."
            ),
        ] = "fisher",
        schemes: Annotated[
            str, typer.Option(help="Schemes to try, by commas: presets, groups of the recipe, or recipe for all of those.")
        ] = "",
        draws: Annotated[int, typer.Option(min=1, max=64, help="For fisher: labels drawn for every token.")] = 4,
        samples: Annotated[int | None, typer.Option(min=1, help="Use so many of the calibration's samples at most.")] = None,
        stream: Annotated[
            bool, typer.Option("--stream", help="For local: hold one decoder layer at a time, as for models that do not fit.")
        ] = False,
        device: Device = "auto",
        trust_remote_code: TrustRemoteCode = False,
        workspace: KeptIn = None,
        as_json: AsJson = False,
    ) -> None:
        """Score what every layer costs in every scheme, and which layers to keep in float."""
        names = [name.strip() for name in schemes.split(",") if name.strip()]
        result = reused(absolute(out), model, calibration, recipe, method, names, draws) if samples is None else None
        if result is None:
            spec = prepare_sensitivity(
                None,
                model=model,
                calibration=calibration,
                recipe=recipe,
                out=out,
                method=method,
                schemes=names,
                draws=draws,
                samples=samples,
                stream=stream,
                device=device,
                trust_remote_code=trust_remote_code,
            )
            result = run(JobStore(Workspace(workspace or default_root()).runs), spec)
        else:
            err.print("these scores are there already: same model, data, recipe and schemes")
        print(json.dumps(result) if as_json else _shown(result))


def _add_auto(app: typer.Typer, run: Run) -> None:
    @app.command()
    def auto(
        scores: Annotated[str, typer.Argument(metavar="SCORES", help="A folder of scores of this model and recipe.")],
        model: Model,
        calibration: Calibration,
        recipe: Annotated[str, typer.Option(help="Recipe file to start from.")],
        target: Annotated[str, typer.Option(help="What has to hold: exact_match=0.98, or kl=0.05 in nats a token.")],
        out: Annotated[str, typer.Option(help="Folder to write; a search that was stopped there goes on.")],
        evaluation: Annotated[str | None, typer.Option(help="Held-out questions, for a target of exact match.")] = None,
        samples: Annotated[int | None, typer.Option(min=1, help="Use so many of the calibration's samples at most.")] = None,
        device: Device = "auto",
        workspace: KeptIn = None,
        as_json: AsJson = False,
    ) -> None:
        """Search for the fewest layers in float that hold a target; every probe is measured."""
        spec = prepare_sensitivity(
            None,
            model=model,
            calibration=calibration,
            recipe=recipe,
            out=out,
            method="auto",
            scores=scores,
            target=target,
            evaluation=evaluation,
            samples=samples,
            device=device,
        )
        result = run(JobStore(Workspace(workspace or default_root()).runs), spec)
        print(json.dumps(result) if as_json else _auto_shown(result))


def select(
    scores: Annotated[str, typer.Argument(metavar="SCORES", help="A folder of scores, or its scores.json.")],
    recipe: Annotated[str, typer.Option(help="Recipe file to start from.")],
    out: Annotated[str, typer.Option(help="Recipe file to write.")],
    bits: Annotated[float | None, typer.Option(help="Average bits per weight over all Linears, at most.")] = None,
    size: Annotated[float | None, typer.Option(help="Size of the model in GB, at most.")] = None,
    max_kl: Annotated[
        float | None, typer.Option("--max-kl", help="KL in nats a token, at most; the smallest that keeps it.")
    ] = None,
    level: Annotated[
        str | None, typer.Option(help="L1, L2 ...: so many of the worst layers or groups fall back to float.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Take scores of another recipe all the same.")] = False,
    as_json: AsJson = False,
) -> None:
    """Choose by scores which layers take which scheme, within a budget or down to a fallback level."""
    given = [
        name
        for name, value in (("--bits", bits), ("--size", size), ("--max-kl", max_kl), ("--level", level))
        if value is not None
    ]
    if len(given) != 1:
        what = f"{' and '.join(given)} are given together" if given else "no budget is given"
        raise InputError(what, where="select", todo="give one of --bits, --size, --max-kl and --level")
    table, path = load_scores(absolute(scores)), absolute(recipe)
    start = llmcompressor.load(path)
    if not force:
        check_belongs(table, start)
    choice = chosen(table, chosen_schemes(start, table.names, table.schemes), bits=bits, size=size, max_kl=max_kl, level=level)
    made = applied(start, table, choice)
    text = edited(path.read_text(encoding="utf-8"), start, made)
    target = absolute(out)
    write_text(target, text)
    before, after = forecast(table, start), forecast(table, made)
    moved = {name: scheme for name, scheme in after.choice.items() if before.choice[name] != scheme}
    body = {
        "out": str(target),
        "kl_before": before.kl, "kl": after.kl, "bytes_before": before.bytes, "bytes": after.bytes,
        "bits_before": before.bits, "bits": after.bits, "changed": moved,
    }  # fmt: skip
    print(json.dumps(body) if as_json else _chosen_shown(body))


def chosen(
    table: Scores,
    now: dict[str, str],
    *,
    bits: float | None = None,
    size: float | None = None,
    max_kl: float | None = None,
    level: str | None = None,
) -> dict[str, str]:
    """Layer -> scheme for one of the budgets.

    Args:
        now: the recipe's own choice, from which a level falls back.

    Raises:
        InputError: the budget cannot be met; the nearest that can is told.
    """
    units = choosing.units_of(table)
    if level is not None:
        point = choosing.fall_back(units, choosing.by_unit(units, now), choosing.level_of(level))
    elif max_kl is not None:
        point = choosing.within_kl(units, max_kl)
    else:
        point = choosing.within_bytes(units, budget_bytes(table, bits=bits, size=size))
    return choosing.by_layer(units, point.choice)


def budget_bytes(table: Scores, *, bits: float | None, size: float | None) -> int:
    """What a budget leaves for the scored layers, in bytes."""
    if bits is not None:
        return int(bits * table.sizes.linear_weights / 8) - table.sizes.other_linear
    return int((size or 0) * 1e9) - table.sizes.other


def reused(
    out: Path, model: str, calibration: str, recipe: str, method: str, schemes: list[str], draws: int
) -> dict[str, Any] | None:
    """The result of an earlier job in that very folder, if it was asked the same of the same inputs."""
    if not (out / SCORES).is_file() or method not in METHODS:
        return None
    files = {"model": model, "calibration": calibration, "recipe": recipe}
    if not same_inputs(load_scores(out), **files, method=method, schemes=schemes, draws=draws):
        return None
    found: dict[str, Any] = json.loads((out / "quantui.json").read_text(encoding="utf-8"))
    return found | {"reused": True}


def _shown(result: dict[str, Any]) -> str:
    if result["method"] == "measure":
        return f"KL {result['kl']:.6f} ± {result['stderr']:.6f} nats a token; {result['bits_per_weight']:.3f} bits a weight"
    rows = {
        "method": result["method"] + ("" if result["method"] == result["asked"] else f" (instead of {result['asked']})"),
        "samples": f"{result['samples']}, {result['tokens']:,} tokens",
        "layers": f"{result['layers']} in {', '.join(result['schemes'])}",
        "time (s)": f"{result['seconds_total']:.1f}; {result['score_seconds']:.1f} for the scores",
        "written to": result["out"],
    }
    lines = [f"{title:12} {value}" for title, value in rows.items()]
    lines += ["", f"what costs most in {result['schemes'][0]}:"]
    lines += [f"  {one['kl']:12.6f}  {one['group']}" for one in result["worst"]]
    return "\n".join([*lines, *(f"note: {note}" for note in result["notes"])])


def _auto_shown(result: dict[str, Any]) -> str:
    lines = [f"L{result['level']} holds; written to {result['recipe']}", "probes:"]
    for one in result["probes"]:
        right = "" if one["exact_match"] is None else f"  exact match {one['exact_match']:.1%}"
        lines.append(
            f"  L{one['level']:<4} KL {one['kl']:.6f}  foretold {one['foretold']:.6f}  {one['bytes'] / 1e6:.3f} MB{right}"
        )
    return "\n".join(lines)


def _chosen_shown(body: dict[str, Any]) -> str:
    rows = {
        "KL": f"{body['kl_before']:.6f} -> {body['kl']:.6f} nats a token, foretold",
        "bits a weight": f"{body['bits_before']:.3f} -> {body['bits']:.3f}",
        "size (MB)": f"{body['bytes_before'] / 1e6:.3f} -> {body['bytes'] / 1e6:.3f}",
        "changed": f"{len(body['changed'])} layers",
        "written to": body["out"],
    }
    lines = [f"{title:14} {value}" for title, value in rows.items()]
    return "\n".join([*lines, *(f"  {scheme:32} {name}" for name, scheme in body["changed"].items())])
