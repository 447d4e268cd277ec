"""`quantui calibration`: what a calibration file gives a model to see, before anything runs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from quantui.calibration import schema
from quantui.calibration.advice import Advice, advise
from quantui.calibration.cost import Cost, forecast
from quantui.calibration.languages import LANGUAGES, language_shares
from quantui.calibration.preview import View, open_seer, see
from quantui.calibration.survey import Survey, gather, survey
from quantui.calibration.template import read_template
from quantui.checkpoint.files import open_checkpoint
from quantui.cli_options import AsJson
from quantui.evaluation.questions import read_questions
from quantui.workspace import absolute

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help="Look at calibration data as a model gets it.")

BAR = 40
"""Characters of the longest bar of the histogram."""


@app.callback()
def calibration() -> None:
    """Look at calibration data as a model gets it."""


@app.command()
def preview(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The calibration file.")],
    model: Annotated[str, typer.Option(help="Folder of the model whose tokenizer, template and processor are used.")],
    limit: Annotated[int, typer.Option(min=0, help="How many samples are shown in full.")] = 3,
    evaluation: Annotated[
        str, typer.Option(help="Data to compare languages with: a jsonl file, none, or auto = evaluation.jsonl beside FILE.")
    ] = "auto",
    as_json: AsJson = False,
) -> None:
    """Show the samples of a calibration file as the model gets them, and the whole set in numbers."""
    path = absolute(file)
    chosen = schema.load(path)
    folder = absolute(model)
    seer = open_seer(folder, read_template(chosen))
    gathered = gather(seer, chosen)
    views = see(seer, gathered.samples[:limit], chosen.max_tokens, pictures=False)
    found = survey(seer, gathered.samples, chosen, gathered.notes)
    said = advise(found, evaluation_languages=_evaluation_languages(evaluation, path))
    cost = forecast(open_checkpoint(folder), found.samples, found.total_tokens, found.longest)
    if as_json:
        print(json.dumps(_as_json(views, found, said, cost), ensure_ascii=False))
    else:
        _show(views, found, said, cost)


def _evaluation_languages(evaluation: str, beside: Path) -> Mapping[str, float]:
    if evaluation == "none":
        return {}
    path = beside.parent / "evaluation.jsonl" if evaluation == "auto" else absolute(evaluation)
    if evaluation == "auto" and not path.is_file():
        return {}
    return language_shares(question.full.plain for question in read_questions(path))


def _as_json(views: list[View], found: Survey, said: list[Advice], cost: Cost) -> dict[str, Any]:
    shown = []
    for view in views:
        body = dataclasses.asdict(view)
        for name in ("picture", "tiles"):
            del body[name]  # bytes; the page shows them
        shown.append(body)
    return {
        "samples": shown,
        "set": dataclasses.asdict(found),
        "warnings": [{"key": advice.key, "text": advice.text, **advice.values} for advice in said],
        "forecast": dataclasses.asdict(cost),
    }


def _show(views: list[View], found: Survey, said: list[Advice], cost: Cost) -> None:
    console = Console(highlight=False, soft_wrap=True)
    for view in views:
        picture = f", picture {view.size[0]}x{view.size[1]} = {view.image_tokens} image tokens" if view.size else ""
        cut = f", {len(view.ids) - view.kept} of them cut off" if view.kept < len(view.ids) else ""
        console.print(Text(f"#{view.index + 1} {view.where}: {len(view.ids)} tokens{cut}{picture}", style="bold"))
        console.print(Text(view.problem, style="red") if view.problem else _coloured(view))
        console.print()
    rows = {
        "samples": f"{found.samples} of {found.asked} asked for",
        "tokens": f"{found.total_tokens:,}, the longest sample {found.longest:,}",
        "cut": f"{found.cut} samples at {found.histogram.cut} tokens",
        "languages": _percent({LANGUAGES[name]: share for name, share in found.languages.items()}),
        "scripts": _percent(found.scripts),
        "vocabulary": f"{found.vocabulary_used:,} of {found.vocabulary_size:,} tokens occur",
        "duplicates": str(found.duplicates),
        "pictures": f"{found.pictures}, {found.tiles} tiles" if found.pictures else "none",
        "forecast": f"roughly {cost.seconds:.0f} s of calibration on this CPU, {cost.memory_bytes / 1e9:.1f} GB of memory",
        "token hash": found.token_hash or "known after the run only",
    }
    if len(found.sources) > 1:
        rows["sources"] = _percent({f"source {number + 1}": share for number, share in found.sources.items()})
    for title, value in rows.items():
        console.print(Text(f"{title:12} {value}"))
    _histogram(console, found)
    for note in found.notes:
        console.print(Text(f"note: {note}", style="dim"))
    for advice in said:
        console.print(Text(f"warning: {advice.text}", style="yellow"))


def _coloured(view: View) -> Text:
    """The text with its special tokens coloured and what is cut off struck through."""
    text = Text(view.text)
    for (begin, end), special in zip(view.spans, view.special, strict=True):
        if special:
            text.stylize("cyan", begin, end)
    if view.cut_at is not None:
        text.stylize("strike dim", view.cut_at)
    return text


def _histogram(console: Console, found: Survey) -> None:
    most = max([*found.histogram.counts, 1])
    edges = found.histogram.edges
    for begin, end, count in zip(edges, edges[1:], found.histogram.counts, strict=False):
        if begin == found.histogram.cut:
            console.print(Text(f"{'':14}--- cut at {begin} ---", style="red"))
        if count:
            console.print(Text(f"{begin:>6} to {end - 1:<6} {'█' * max(1, round(BAR * count / most))} {count}"))


def _percent(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items()) or "none"
