"""The one line under each picker: what is picked, in the words every tab uses."""

from __future__ import annotations

from pathlib import Path

from quantui.calibration import schema as calibration_files
from quantui.checkpoint import inspect
from quantui.errors import CheckpointError, InputError
from quantui.recipe import llmcompressor
from quantui.recipe.schema import QuantArgs, QuantGroup, Recipe
from quantui.ui import numbers
from quantui.ui.i18n import Translator
from quantui.ui.markup import Markup, join, middle_cut, tag
from quantui.ui.sources import BACK, kind_of
from quantui.ui.widgets.facts import problem
from quantui.workspace import Workspace


def model_note(t: Translator, workspace: Workspace, path: str | None) -> Markup:
    """ "Llama, 1.3 M, bf16, 2.6 MB"."""
    if not path:
        return _line(t("missing.model_todo"))
    try:
        model = inspect.summarize(workspace.readable(path))
    except InputError as error:
        return problem(t, error)
    kind = t("rail.reads_pictures") if model.kind == "image-text" else None
    parts = [model.family, numbers.amount(model.parameters), model.dtype, numbers.size(model.bytes), kind]
    return _line(t("list.comma").join(part for part in parts if part), f"{model.architecture}\n{path}")


def model_problem(t: Translator, workspace: Workspace, path: str, error: InputError) -> Markup:
    """What is wrong with the model, and a button that converts it where that is the way out."""
    said = problem(t, error)
    try:
        kind = kind_of(workspace.readable(path)) if isinstance(error, CheckpointError) and path else None
    except InputError:
        kind = None
    if kind is None or kind.name == BACK:
        return said
    button = tag(
        "button", t("rail.convert"), type="button", cls="quiet", data_act="send", data_event="convert", data_tab="convert",
        data_path=path,
    )  # fmt: skip
    return join(said, button)


def calibration_note(t: Translator, workspace: Workspace, path: str | None) -> Markup:
    """ "256 samples of up to 512 tokens, shuffled"."""
    if not path:
        return _line(t("rail.no_calibration"))
    try:
        calibration = calibration_files.load(workspace.readable(path))
    except InputError as error:
        return problem(t, error)
    samples = t.count("count.samples", calibration.samples)
    parts = [t("rail.samples", samples=samples, tokens=numbers.whole(calibration.max_tokens))]
    if calibration.has_images:
        parts.append(t("rail.pictures"))
    if calibration.shuffle:
        parts.append(t("rail.shuffled"))
    return _line(t("list.comma").join(parts), path)


def recipe_note(t: Translator, workspace: Workspace, path: str | None) -> Markup:
    """ "fp8 weights and inputs, static, per tensor; fp8 KV cache"."""
    if not path:
        return _line(t("missing.recipe_todo"))
    try:
        recipe = llmcompressor.load(workspace.readable(path))
    except InputError as error:
        return problem(t, error)
    return _line(recipe_words(t, recipe), path)


def recipe_words(t: Translator, recipe: Recipe) -> str:
    """What a recipe does, in one line."""
    parts = [_group(t, group) for group in recipe.groups]
    if recipe.kv_cache:
        parts.append(t("recipe.kv", kind=_bits(recipe.kv_cache)))
    parts += [name for name, used in (("GPTQ", recipe.gptq), ("SmoothQuant", recipe.smoothquant)) if used]
    return t("list.semicolon").join(part for part in parts if part)


def out_note(workspace: Workspace, name: str | None, folder: Path | None = None) -> Markup:
    """Where the result will stand: in `folder`, or beside the other results."""
    path = (folder or workspace.quantized) / (name or "").strip()
    return tag("p", middle_cut(str(path.relative_to(workspace.root)), 40), title=str(path))


def _group(t: Translator, group: QuantGroup) -> str:
    """ "fp8 weights and inputs, per tensor", or each on its own where they differ."""
    weights, inputs = group.weights, group.input_activations
    if weights and inputs and _kind(t, weights) == _kind(t, inputs):
        return t("recipe.both", kind=_kind(t, weights))
    words = [t("recipe.weights", kind=_kind(t, weights))] if weights else []
    if inputs:
        words.append(t("recipe.inputs", kind=_kind(t, inputs)))
    return t("list.comma").join(words)


def _bits(args: QuantArgs) -> str:
    return f"{'fp' if args.type == 'float' else 'int'}{args.num_bits}"


def _kind(t: Translator, args: QuantArgs) -> str:
    """ "fp8 per-tensor", "int4 group-128", "int8 per-token dynamic"."""
    share = t(f"recipe.strategy.{args.strategy}", n=args.group_size) if args.strategy else ""
    return " ".join(part for part in (_bits(args), share, t("recipe.dynamic") if args.dynamic else "") if part)


def _line(text: str, hint: str | None = None) -> Markup:
    return tag("p", text, title=hint)
