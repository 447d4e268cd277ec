"""What can be known of a job before it is submitted: whether it can work, and what it will cost. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantui.calibration import schema as calibration_schema
from quantui.calibration.cost import memory
from quantui.calibration.count import count_tokens
from quantui.calibration.pictures import check_picture
from quantui.calibration.schema import Calibration
from quantui.calibration.sources import Sample, read_samples
from quantui.checkpoint.files import Checkpoint, open_checkpoint
from quantui.checkpoint.inspect import check_loadable, linear_layers, needs_remote_code, summary_of
from quantui.devices import describe, resolve_name
from quantui.errors import CalibrationError, CheckpointError, OutputError, RecipeError
from quantui.evaluation.questions import read_questions
from quantui.recipe import llmcompressor
from quantui.recipe.match import Match, is_module_class, match
from quantui.recipe.methods import Fallback
from quantui.recipe.refusals import check
from quantui.recipe.schema import Recipe
from quantui.recipe.text import LONGEST
from quantui.spec import QuantizeSpec
from quantui.workspace import Workspace, absolute, check_new_folder, free_bytes

EVALUATION_FILE = "evaluation.jsonl"


@dataclass(frozen=True)
class Forecast:
    """What a job will do and need; sizes in bytes.

    Attributes:
        layers_quantized: Linears the recipe takes.
        layers_left: Linears that stay float.
        fallback: which of those it takes go back to float, found by the job and not counted here; None where none do.
        kv_layers: attention layers whose K/V cache is quantized.
        bytes_before: size of the weight files now.
        bytes_after: size of the result.
        bits_per_weight: of the result, over all parameters.
        calibration_samples: how many are used.
        calibration_tokens: how many they come to.
        calibration_tokens_exact: False when that is an estimate.
        memory_bytes: what the worker will need at its peak, roughly.
        free_memory_bytes: what is free on the machine or accelerator.
        free_disk_bytes: what is free where the result goes.
    """

    layers_quantized: int
    layers_left: int
    fallback: Fallback | None
    kv_layers: int
    bytes_before: int
    bytes_after: int
    bits_per_weight: float
    calibration_samples: int
    calibration_tokens: int
    calibration_tokens_exact: bool
    memory_bytes: int
    free_memory_bytes: int
    free_disk_bytes: int


@dataclass(frozen=True)
class _Facts:
    checkpoint: Checkpoint
    recipe: Recipe
    found: Match
    samples: list[Sample]
    calibration: Calibration | None


def prepare(
    workspace: Workspace | None,
    *,
    model: str,
    recipe: str,
    calibration: str | None,
    out: str,
    device: str = "auto",
    trust_remote_code: bool = False,
    evaluation: str | None = "auto",
    statistics: bool = True,
) -> QuantizeSpec:
    """A job that can work, as far as can be told without loading the model.

    Args:
        workspace: whose roots hold for every path; None lets any path pass, as on the command line.
        calibration: path of a calibration file, or None for a recipe that needs none.
        evaluation: path of held-out questions; "auto" takes evaluation.jsonl beside the calibration file, "none" or None
            leaves the evaluation out.
        statistics: see QuantizeSpec.

    Raises:
        InputError: of the kind of what is wrong.
    """
    if not model:
        raise CheckpointError("no model is chosen", todo="choose a model folder")
    if not recipe:
        raise RecipeError("no recipe is chosen", todo="choose a recipe file")
    model_path, recipe_path = _readable(workspace, model), _readable(workspace, recipe)
    calibration_path = _readable(workspace, calibration) if calibration else None
    if not recipe_path.is_file():
        what = "this is a folder, not a recipe file" if recipe_path.is_dir() else "there is no such recipe file"
        raise RecipeError(what, where=str(recipe_path), todo="check the path of the recipe")
    parsed = llmcompressor.load(recipe_path)
    spec = QuantizeSpec(
        name=f"{model_path.name} · {recipe_path.stem}",
        model=str(model_path),
        recipe=recipe_path.read_text(encoding="utf-8"),
        recipe_path=str(recipe_path),
        calibration=calibration_schema.read_text(calibration_path, longest=LONGEST) if calibration_path else None,
        calibration_path=str(calibration_path) if calibration_path else None,
        evaluation=_evaluation(workspace, evaluation, calibration_path),
        out=str(_output(workspace, out)),
        device=resolve_name(device),
        trust_remote_code=trust_remote_code,
        fallback=parsed.fallback is not None,
        statistics=statistics,
        roots=tuple(str(root) for root in workspace.readable_roots) if workspace else (),
    )
    facts = _examine(spec)
    most = facts.checkpoint.nbytes if spec.fallback else _bytes_after(facts)  # how much stays in float is not known yet
    needed = int(most * 1.01) + 2**20
    free = free_bytes(Path(spec.out).parent)
    if free < needed:
        what = f"the result needs {needed / 1e6:,.1f} MB and the disk has {free / 1e6:,.1f} MB free"
        raise OutputError(what, where=spec.out, todo="free some space, or choose another disk")
    return spec


def forecast(spec: QuantizeSpec) -> Forecast:
    """What the job will do and need.

    Raises:
        InputError: something changed since `prepare` and it can no longer work.
    """
    facts = _examine(spec)
    summary = summary_of(facts.checkpoint)
    after = _bytes_after(facts)
    tokens, exact, longest = 0, True, 64
    if facts.calibration is not None:
        roots = [Path(root) for root in spec.roots]
        tokens, exact = count_tokens(facts.checkpoint, facts.samples, facts.calibration, roots)
        longest = min(facts.calibration.max_tokens, tokens)
    device = next((info for info in describe() if info.name == spec.device), describe()[-1])
    return Forecast(
        layers_quantized=len(facts.found.taken),
        layers_left=len(facts.found.left),
        fallback=facts.recipe.fallback,
        kv_layers=summary.blocks if facts.recipe.kv_cache is not None else 0,
        bytes_before=facts.checkpoint.nbytes,
        bytes_after=after,
        bits_per_weight=after * 8 / max(summary.parameters, 1),
        calibration_samples=len(facts.samples),
        calibration_tokens=tokens,
        calibration_tokens_exact=exact,
        memory_bytes=memory(facts.checkpoint, tokens, longest),
        free_memory_bytes=device.free_bytes,
        free_disk_bytes=free_bytes(Path(spec.out).parent),
    )


def _examine(spec: QuantizeSpec) -> _Facts:
    checkpoint = open_checkpoint(Path(spec.model))
    check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
    recipe = llmcompressor.loads(spec.recipe, where=spec.recipe_path)
    check(recipe, spec.recipe_path)
    layers = linear_layers(checkpoint)
    if needs_remote_code(checkpoint.config):
        found = Match(
            taken={}, left=tuple(layer.name for layer in layers), bytes_before=0, bytes_after=0
        )  # its names are its own
    else:
        found = match(recipe, layers)
        if not found.taken and recipe.kv_cache is None and not _names_classes(recipe):
            what = "every layer the recipe targets is ignored, so nothing would be quantized"
            raise RecipeError(what, where=spec.recipe_path, todo="shorten ignore")
        level = recipe.fallback.level if recipe.fallback else None
        if level and level >= len(found.taken) > 0:
            what = f"a fallback of L{level} leaves none of the {len(found.taken)} quantized layers"
            raise RecipeError(what, where=spec.recipe_path, todo="lower the level")
    roots = [Path(root) for root in spec.roots]
    samples, calibration = _samples(spec, roots)
    if recipe.needs_calibration and not samples:
        what = "the recipe has static scales or a method that looks at data, but no calibration file is given"
        raise CalibrationError(
            what, where=spec.recipe_path, todo="choose a calibration file, or a recipe with dynamic activations"
        )
    questions = read_questions(Path(spec.evaluation), roots) if spec.evaluation else []
    pictures = [sample for sample in (*samples, *(question.full for question in questions)) if sample.image]
    if pictures and summary_of(checkpoint).kind == "text":
        what = "here is a picture, but the model reads only text"
        raise CalibrationError(what, where=pictures[0].where, todo="choose an image-text model, or data without pictures")
    for sample in pictures:
        check_picture(sample)
    return _Facts(checkpoint, recipe, found, samples, calibration)


def _samples(spec: QuantizeSpec, roots: Sequence[Path]) -> tuple[list[Sample], Calibration | None]:
    if spec.calibration is None or spec.calibration_path is None:
        return [], None
    path = Path(spec.calibration_path)
    calibration = calibration_schema.loads(spec.calibration, where=str(path), base=path.parent)
    return read_samples(calibration, roots), calibration


def _bytes_after(facts: _Facts) -> int:
    kv_scales = 4 * 2 * 2 if facts.recipe.kv_cache is not None else 0
    return facts.checkpoint.nbytes - facts.found.bytes_before + facts.found.bytes_after + kv_scales


def _names_classes(recipe: Recipe) -> bool:
    """Whether a target is a class of modules that headers cannot show, so that it may take some after all."""
    return any(is_module_class(target) for group in recipe.groups for target in group.targets)


def _readable(workspace: Workspace | None, path: str) -> Path:
    return workspace.readable(path) if workspace else absolute(path)


def _output(workspace: Workspace | None, out: str) -> Path:
    if not out.strip():
        raise OutputError("no output folder is given", todo="name the folder the result goes to")
    return check_new_folder(workspace.writable(out) if workspace else absolute(out))


def _evaluation(workspace: Workspace | None, evaluation: str | None, calibration: Path | None) -> str | None:
    if evaluation in (None, "none"):
        return None
    if evaluation == "auto":
        beside = calibration.parent / EVALUATION_FILE if calibration else None
        return str(beside) if beside and beside.is_file() else None
    path = _readable(workspace, str(evaluation))
    if not path.is_file():
        raise CalibrationError("there is no such evaluation file", where=str(path), todo="check the path, or leave it out")
    return str(path)
