"""One HTML file that keeps the evidence: what was done, what it costs, where it hurts. Opens offline; no torch.

Every text of a model, a recipe or a person is escaped by the template, and characters that turn or hide text are shown.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import platform
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui import memory
from quantui.calibration.pictures import open_picture
from quantui.calibration.sample import Sample
from quantui.compare import votes
from quantui.compare.folders import model_folder
from quantui.compare.report_plots import HEIGHT, WIDTH, plot
from quantui.errors import CalibrationError, CheckpointError, InputError
from quantui.recipe import llmcompressor
from quantui.recipe.schema import Recipe
from quantui.recipe.words import FLOAT
from quantui.sensitivity.candidates import cache_schemes, chosen_schemes
from quantui.sensitivity.scores import SCORES, load_scores
from quantui.stats.cache_size import cache_bytes, cache_shape
from quantui.workspace import ASSETS

LANGUAGES = ("en", "zh-CN")
FOLDER = ASSETS / "report"
ROWS = "rows.jsonl"
SHOWN = 12
"""Prompts that are shown with their tokens."""
LEVELS = (0.001, 0.01, 0.05, 0.2, 1.0, 3.0)
"""KL in nats from which a token has the next colour, as in the page."""
VOTE_LIMIT = 50
LETTERS, TOKENS = 2000, 600
"""Of a text, and of an answer's tokens, that are shown at most; the rest is counted."""
PIXELS = 320
"""Longest side of a picture in the report."""
CONTEXT = 2048
BATCHES = (1, 8, 48)
"""Tokens of a sequence, and sequences at once, for which the K/V cache is told."""

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Entry:
    """One quantized model of a report.

    Attributes:
        name: what it is called there.
        folder: of the quantized model.
        made: what its quantui.json says of how it was made; {} where there is none.
        measured: the result of its newest comparison; None where there is none.
        rows: the worst rows of that.
        votes: of people who talked to it.
        hardware: what this machine is.
        damage: layer -> KL of it in the recipe's scheme, nats a token, in the order of the model; {} where it was not scored.
        kept: layers that the recipe keeps in float; their damage is what the first scheme that was tried would do.
        caches: (sequences, bytes of their K/V cache in 16 bits, and as the recipe has it) for CONTEXT tokens each.
    """

    name: str
    folder: Path
    made: dict[str, Any]
    measured: dict[str, Any] | None
    rows: list[dict[str, Any]]
    votes: list[dict[str, Any]]
    hardware: str
    damage: dict[str, float]
    kept: frozenset[str]
    caches: list[tuple[int, int, int]]


def write_report(runs: Sequence[Path], out: Path, *, lang: str = "en") -> None:
    """Writes the report of one run or several beside one another.

    Args:
        runs: folders of runs that quantized or compared, or of quantized models.
        out: the HTML file.
        lang: one of LANGUAGES.

    Raises:
        CheckpointError: one of them has nothing to report.
        InputError: the language is unknown, or there is no run.
    """
    text = render([collect(run) for run in runs], lang=lang)
    staging = out.with_name(f".{out.name}.partial-{os.getpid()}")
    staging.write_text(text, encoding="utf-8", errors="backslashreplace")
    staging.replace(out)


def collect(run: Path) -> Entry:
    """What there is to say of a run.

    Args:
        run: folder of a run that quantized or compared, or of a quantized model; comparisons of it are looked for in the same
            workspace.

    Raises:
        CheckpointError: it is none of these.
    """
    spec, result = _json(run / "spec.json"), _json(run / "result.json")
    compared: Path | None
    if spec.get("kind") == "compare":
        if not result:
            raise CheckpointError("this comparison has not ended well", where=str(run), todo="choose another run")
        folder, compared = Path(spec["quantized"]), run
    else:
        folder = model_folder(run)
        runs = run.parent if spec else folder.parent.parent / "runs"
        compared = latest(runs, folder)
        result = _json(compared / "result.json") if compared else {}
    made = _json(folder / "quantui.json")
    if not made and not result:
        what = "there is nothing to report of this folder: it was not made here, and no comparison of it was run"
        raise CheckpointError(what, where=str(run), todo="run `quantui compare` on it first")
    root = compared.parent.parent if compared else folder.parent.parent
    rows = _rows(compared) if compared else []
    recipe = _recipe(made)
    damage, kept = _damage(root, str(made.get("model") or result.get("original") or ""), recipe)
    cast = votes.read(root, str(folder))
    return Entry(folder.name, folder, made, result or None, rows, cast, hardware(), damage, kept, _caches(folder, recipe))


def _recipe(made: dict[str, Any]) -> Recipe | None:
    try:
        return llmcompressor.loads(made["recipe"], where="recipe")
    except (InputError, KeyError):
        return None


def _damage(root: Path, model: str, recipe: Recipe | None) -> tuple[dict[str, float], frozenset[str]]:
    """What the newest scores of the model say of each layer in the recipe's scheme, and which of them it keeps in float."""
    for file in sorted(root.glob(f"sensitivity/*/{SCORES}"), key=lambda file: -file.stat().st_mtime):
        try:
            scores = load_scores(file)
        except InputError:
            continue
        if scores.meta.get("model") == model and scores.method != "local":
            first = scores.schemes[0].name
            choice = chosen_schemes(recipe, scores.names, scores.schemes) if recipe else dict.fromkeys(scores.names, first)
            kept = frozenset(name for name in scores.names if choice[name] == FLOAT)
            found = {name: scores.by_layer.get((name, first if name in kept else choice[name])) for name in scores.names}
            if any(row and row.kl > 0 for row in found.values()):
                return {name: row.kl for name, row in found.items() if row}, kept
    return {}, frozenset()


def _caches(folder: Path, recipe: Recipe | None) -> list[tuple[int, int, int]]:
    try:
        shape = cache_shape(_json(folder / "config.json"))
    except CheckpointError:
        return []
    kinds = cache_schemes(recipe) if recipe else None
    bits = [args.num_bits for args in kinds] if kinds else [16, 16]
    counts = [(batch, [cache_bytes(shape, batch, CONTEXT, each) for each in (16, *bits)]) for batch in BATCHES]
    return [(batch, plain, (keys + values) // 2) for batch, (plain, keys, values) in counts]


def latest(runs: Path, quantized: Path) -> Path | None:
    """The newest comparison of a quantized folder that ended well."""
    for run in sorted(runs.glob("*/spec.json"), reverse=True):
        spec = _json(run)
        if spec.get("kind") == "compare" and spec.get("quantized") == str(quantized) and (run.parent / "result.json").exists():
            return run.parent
    return None


def hardware() -> str:
    """This machine in one line."""
    return f"{platform.machine()}, {os.cpu_count() or 1} cores, {memory.limit() / 1e9:.0f} GB, {platform.system()}"


def render(entries: Sequence[Entry], *, lang: str = "en") -> str:
    """The report as HTML.

    Raises:
        InputError: the language is unknown, or there is nothing in it.
    """
    import jinja2
    from markupsafe import Markup

    if lang not in LANGUAGES:
        raise InputError(f"language {lang!r} is unknown", where="report", todo=f"choose {' or '.join(LANGUAGES)}")
    if not entries:
        raise InputError("no run is given", where="report", todo="name one or more runs")
    words = json.loads((FOLDER / f"words.{lang}.json").read_text(encoding="utf-8"))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(shown=lambda text: Markup(html.escape(shown(str(text)))), level=level, bar=_bar, nats=_nats)
    environment.filters.update(size=_size, percent=_percent, short=_short, picture=_picture)
    template = environment.from_string((FOLDER / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        entries=entries,
        t=words,
        lang=lang,
        css=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        when=time.strftime("%Y-%m-%d %H:%M"),
        shown_rows=SHOWN,
        levels=LEVELS,
        vote_limit=VOTE_LIMIT,
        letters=LETTERS,
        most_tokens=TOKENS,
        plot=plot,
        drawing=(WIDTH, HEIGHT),
        context=CONTEXT,
    )


def shown(text: str) -> str:
    """A text whose control characters and turning marks can be seen and do nothing."""
    text = _CONTROL.sub(lambda found: chr(0x2421 if found[0] == "\x7f" else 0x2400 + ord(found[0])), text)
    return _TURNING.sub(lambda found: f"⟦U+{ord(found[0]):04X}⟧", text)


def level(kl: float) -> int:
    """Which colour a distance has, 0 to 6."""
    return sum(kl >= limit for limit in LEVELS)


def _rows(run: Path) -> list[dict[str, Any]]:
    """The worst rows: those that are kept with their tokens."""
    found: list[dict[str, Any]] = []
    with (run / ROWS).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            if "forced" not in row or len(found) == SHOWN:
                break
            found.append(row)
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}


def _picture(path: str | None) -> str | None:
    """A picture as a small data URI; None where there is none, or it is gone."""
    if not path:
        return None
    try:
        small = open_picture(Sample("report", image=Path(path)))
    except CalibrationError:
        return None
    small.thumbnail((PIXELS, PIXELS))
    packed = io.BytesIO()
    small.save(packed, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"


def _nats(value: float) -> str:
    """A distance under a token, as short as it can be."""
    return "0" if value < 5e-5 else f"{value:.0e}".replace("e-0", "e-") if value < 1e-3 else f"{value:.2g}"


def _size(number: float | None) -> str:
    if number is None:
        return "–"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 999.5:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} TB"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f} %"


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _bar(value: float, largest: float) -> float:
    """Length of a bar in percent."""
    return max(0.0, min(100.0, 100 * value / largest)) if largest > 0 else 0.0
