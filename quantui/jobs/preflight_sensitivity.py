"""Whether a sensitivity job can work, settled before it is submitted. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from quantui.calibration import schema as calibration_schema
from quantui.calibration.cost import CPU_SHARE, DEVICE_FLOPS, cpu_flops
from quantui.calibration.count import count_tokens
from quantui.calibration.pictures import check_picture
from quantui.calibration.sources import read_samples
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import check_loadable, linear_layers, summary_of
from quantui.devices import resolve_name
from quantui.errors import CalibrationError, CheckpointError, InputError, OutputError, RecipeError
from quantui.evaluation.questions import read_questions
from quantui.recipe import llmcompressor
from quantui.recipe.text import LONGEST
from quantui.sensitivity.auto import parse_target
from quantui.sensitivity.candidates import candidates, scored_layers
from quantui.sensitivity.scores import load_scores
from quantui.spec import SensitivitySpec
from quantui.workspace import Workspace, absolute, check_new_folder

METHODS: tuple[str, ...] = get_args(SensitivitySpec.model_fields["method"].annotation)


def prepare_sensitivity(
    workspace: Workspace | None,
    *,
    model: str,
    calibration: str,
    recipe: str,
    out: str,
    method: str = "fisher",
    schemes: Sequence[str] = (),
    draws: int = 4,
    samples: int | None = None,
    recipe_text: str | None = None,
    scores: str | None = None,
    target: str | None = None,
    evaluation: str | None = None,
    stream: bool = False,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> SensitivitySpec:
    """A sensitivity job that can work, as far as can be told without loading the model.

    Args:
        workspace: whose roots hold for every path; None lets any path pass, as on the command line.
        recipe: path of the recipe file; where its text is given, only what it is called.
        recipe_text: the recipe as it is being edited.
        scores: for the method auto: a folder of scores.
        target: for the method auto: "exact_match=0.98" or "kl=0.05".
        evaluation: for the method auto by exact match: a jsonl file of held-out questions.
        stream: for the method local: one decoder layer in memory at a time.

    Raises:
        InputError: of the kind of what is wrong.
    """
    _check_asked(model, calibration, recipe_text is not None or bool(recipe.strip()), out, method, draws, stream)
    source = workspace.readable(model) if workspace else absolute(model)
    data = workspace.readable(calibration) if workspace else absolute(calibration)
    text, path = _recipe(workspace, recipe, recipe_text)
    folder = check_new_folder(workspace.writable(out) if workspace else absolute(out))
    spec = SensitivitySpec(
        name=f"{source.name} · {method}",
        model=str(source),
        recipe=text,
        recipe_path=path,
        calibration=calibration_schema.read_text(data, longest=LONGEST),
        calibration_path=str(data),
        out=str(folder),
        method=method,  # type: ignore[arg-type]
        schemes=tuple(schemes),
        draws=draws,
        samples=samples,
        scores=_scores(workspace, scores, method),
        target=parse_target(target or "") if method == "auto" else None,
        evaluation=_evaluation(workspace, evaluation, target) if method == "auto" else None,
        stream=stream,
        device=resolve_name(device),
        trust_remote_code=trust_remote_code,
        roots=tuple(str(root) for root in workspace.readable_roots) if workspace else (),
    )
    _check(spec)
    return spec


def _check_asked(model: str, calibration: str, has_recipe: bool, out: str, method: str, draws: int, stream: bool) -> None:
    """Refuses what is missing or cannot be."""
    for value, kind, what in ((model, CheckpointError, "model"), (calibration, CalibrationError, "calibration file")):
        if not value.strip():
            raise kind(f"no {what} is chosen", todo=f"choose a {what}")
    if not has_recipe:
        raise RecipeError("no recipe is chosen", todo="choose a recipe file")
    if not out.strip():
        raise OutputError("no output folder is given", todo="name the folder the scores go to")
    if method not in METHODS:
        raise InputError(f"the method {method!r} is unknown", where="--method", todo=f"choose {', '.join(METHODS[:4])}")
    if stream and method != "local":
        what = f"the method {method} needs the whole model in memory"
        raise InputError(what, where="--stream", todo="give --method local, or leave --stream out")
    if not 1 <= draws <= 64:
        raise InputError(f"{draws} draws cannot be", where="--draws", todo="give 1 to 64")


def _scores(workspace: Workspace | None, scores: str | None, method: str) -> str | None:
    if method != "auto":
        return None
    if not scores:
        raise InputError(
            "no scores are given", where="--scores", todo="score the layers first: `python -m quantui sensitivity`"
        )
    folder = workspace.readable(scores) if workspace else absolute(scores)
    load_scores(folder)
    return str(folder)


def _evaluation(workspace: Workspace | None, evaluation: str | None, target: str | None) -> str | None:
    if parse_target(target or "")[0] == "kl":
        return None
    if not evaluation:
        what = "a target of exact match needs held-out questions"
        raise CalibrationError(what, where="--evaluation", todo="name a jsonl file, or give --target kl=0.05")
    path = workspace.readable(evaluation) if workspace else absolute(evaluation)
    read_questions(path)
    return str(path)


def _recipe(workspace: Workspace | None, recipe: str, text: str | None) -> tuple[str, str]:
    if text is not None:
        return text, recipe or "recipe"
    path = workspace.readable(recipe) if workspace else absolute(recipe)
    if not path.is_file():
        what = "this is a folder, not a recipe file" if path.is_dir() else "there is no such recipe file"
        raise RecipeError(what, where=str(path), todo="check the path of the recipe")
    llmcompressor.load(path)
    return path.read_text(encoding="utf-8"), str(path)


def _check(spec: SensitivitySpec) -> None:
    checkpoint = open_checkpoint(Path(spec.model))
    check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
    recipe = llmcompressor.loads(spec.recipe, where=spec.recipe_path)
    candidates(recipe, spec.schemes)
    if not scored_layers(recipe, linear_layers(checkpoint)):
        what = "the recipe's targets take no layer that could be scored"
        raise RecipeError(what, where=spec.recipe_path, todo="shorten ignore, or widen the targets")
    path = Path(spec.calibration_path)
    chosen = calibration_schema.loads(spec.calibration, where=str(path), base=path.parent)
    samples = read_samples(chosen, [Path(root) for root in spec.roots])
    pictures = [sample for sample in samples if sample.image]
    if pictures and summary_of(checkpoint).kind == "text":
        what = "here is a picture, but the model reads only text"
        raise CalibrationError(what, where=pictures[0].where, todo="choose an image-text model, or data without pictures")
    for sample in pictures:
        check_picture(sample)


START_SECONDS = 8.0
"""What importing torch and transformers takes, and loading a small model; an order of magnitude."""
PROBES, ANSWER_TOKENS = 6, 24
"""How often a search runs the held-out questions, and how many tokens an answer takes; orders of magnitude."""
BACKWARD = 1.3
"""A backward pass to activations against a forward pass, as bench/sensitivity.py measures it."""


def seconds_of(spec: SensitivitySpec) -> float:
    """How long the job will take, an order of magnitude, from start to end."""
    checkpoint = open_checkpoint(Path(spec.model))
    path = Path(spec.calibration_path)
    chosen = calibration_schema.loads(spec.calibration, where=str(path), base=path.parent)
    if spec.samples is not None:
        chosen = chosen.model_copy(update={"samples": min(spec.samples, chosen.samples)})
    recipe = llmcompressor.loads(spec.recipe, where=spec.recipe_path)
    known = len(candidates(recipe, spec.schemes))
    layers = len(scored_layers(recipe, linear_layers(checkpoint)))
    roots = [Path(root) for root in spec.roots]
    tokens, _ = count_tokens(checkpoint, read_samples(chosen, roots), chosen, roots)
    passes = {
        "fisher": 2.0 + spec.draws * BACKWARD + known,
        "path": 2.0 + known * 2 * (2 + BACKWARD),
        "exact": 2.0 + layers * known * 0.6,
        "local": 2.0 + known,
        "measure": 3.0,
        "auto": 30.0,
    }[spec.method]
    if spec.evaluation is not None:
        tokens += PROBES * len(read_questions(Path(spec.evaluation))) * ANSWER_TOKENS // int(passes)
    flops = DEVICE_FLOPS.get(spec.device.partition(":")[0]) or cpu_flops() * CPU_SHARE
    return START_SECONDS + passes * 2 * summary_of(checkpoint).parameters * tokens / flops
