"""The command line's recipe commands: import, check, list, diff and set. Nothing here needs torch or runs a job."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import Linear, linear_layers
from quantui.cli_options import AsJson, err
from quantui.errors import RecipeError
from quantui.recipe import llmcompressor
from quantui.recipe.edit import set_value
from quantui.recipe.importing import VOCABULARIES, import_text
from quantui.recipe.layers import LayerTable, Problem, differences, layer_table
from quantui.recipe.refusals import refusals
from quantui.recipe.schema import Recipe
from quantui.recipe.surprises import surprises
from quantui.recipe.targets import targets
from quantui.recipe.words import cache_words
from quantui.workspace import RECIPES, absolute, default_root

app = typer.Typer(help="Read, check and compare recipes.", no_args_is_help=True)

Model = Annotated[str, typer.Option("--model", help="Folder of the model.")]
TOLD = 50
"""Errors that are printed; thousands of entries that match nothing would bury the first."""
_ENDINGS = (".yaml", ".yml", ".json", ".sh", ".py", ".txt", ".md")


@app.command("import", context_settings={"ignore_unknown_options": True})  # a text may be "--w_bit 8 --a_bit 8"
def import_(
    text: Annotated[str, typer.Argument(metavar="TEXT_OR_FILE", help="What is pasted, a file of it, or - for stdin.")],
    vocabulary: Annotated[str, typer.Option("--from", help=f"auto, {', '.join(VOCABULARIES)}.")] = "auto",
) -> None:
    """Turn llm-compressor YAML, msModelSlim or lmdeploy commands into a recipe; what was not carried over goes to stderr."""
    made = import_text(_text(text), vocabulary)  # type: ignore[arg-type]  # import_text refuses others by name
    for note in made.notes:
        err.print(f"note: {note}", markup=False)
    for line in made.not_carried:
        err.print(f"{line.parameter} = {line.value}: {line.says}", markup=False)
    comment = f"imported from {made.vocabulary}"
    if made.request == "statistics":
        comment += "\nasks for statistics only: it quantizes nothing and cannot be run as a recipe"
    print(llmcompressor.dumps(made.recipe, comment=comment), end="")


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe file, or the name of a shipped recipe.")],
    model: Model,
    as_json: AsJson = False,
) -> None:
    """Show which layers of a model a recipe takes, what that saves, who can load the result, and all that is wrong."""
    recipe, notes = _load(file)
    layers = _layers(model)
    table = layer_table(recipe, layers)
    problems = [*_own(recipe, layers), *table.problems]
    held = targets(recipe, layers, table)
    errors = [problem for problem in problems if problem.severity == "error"]
    if as_json:
        rows = [asdict(row) for row in table.rows]
        body: dict[str, Any] = {"rules": table.taken_by, "untaken": table.untaken, "layers": rows, **_totals(table)}
        body |= {"kv_cache": cache_words(recipe.kv_cache), "targets": [asdict(target) for target in held]}
        body |= {"problems": [asdict(problem) for problem in problems], "notes": notes}
        print(json.dumps(body))
    else:
        for line in _shown(recipe, table):
            print(line)
        for target in held:
            where = f"{target.layer}: " if target.layer else ""
            print(f"{'can be loaded by' if target.holds else 'cannot be loaded by'} {target.name}: {where}{target.reason}")
        for note in notes:
            err.print(f"note: {note}", markup=False)
        for problem in problems:
            if problem.severity != "error":
                err.print(f"warning: {problem.what}", markup=False)
    for problem in errors[:TOLD]:
        print(f"error: {' '.join(problem.what.splitlines())}.", file=sys.stderr)
    if len(errors) > TOLD:
        print(f"error: and {len(errors) - TOLD} more; --json tells all of them.", file=sys.stderr)
    if errors:
        raise typer.Exit(RecipeError.exit_code)


@app.command("list")
def list_(
    workspace: Annotated[Path | None, typer.Option(help="Its recipes are listed too; ./workspace if it is not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped recipes and those of the workspace, with one line about each."""
    own = absolute(workspace or default_root()) / "recipes"
    found = [(path, _about(path)) for path in (*sorted(RECIPES.glob("*.yaml")), *sorted(own.glob("*.yaml")))]
    if as_json:
        rows = [
            {"name": path.stem, "path": str(path), "shipped": path.parent == RECIPES, "about": said} for path, said in found
        ]
        print(json.dumps({"recipes": rows}))
        return
    width = max((len(path.stem) for path, _ in found), default=0)
    for path, said in found:
        print(f"{path.stem:{width}}  {said}".rstrip())


@app.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A recipe file, or the name of a shipped recipe.")],
    other: Annotated[str, typer.Argument(metavar="B", help="The recipe to compare it with.")],
    model: Model,
    as_json: AsJson = False,
) -> None:
    """Say which layers of a model two recipes treat differently, and how."""
    layers = _layers(model)
    (first, _), (second, _) = _load(one), _load(other)
    before, after = layer_table(first, layers), layer_table(second, layers)
    changed = differences(before, after)
    rest = _fields(first, second)
    if as_json:
        rows = [{"layer": a.name, "before": a.scheme, "after": b.scheme} for a, b in changed]
        print(json.dumps({"changed": rows, "also": rest, "before": _totals(before), "after": _totals(after)}))
        return
    for a, b in changed:
        print(f"{a.name}: {a.scheme} -> {b.scheme}")
    for field, (was, now) in rest.items():
        print(f"{field}: {was} -> {now}")
    print(f"{len(changed)} of {len(layers)} layers change; {_size(before)} -> {_size(after)}")


@app.command("set")
def set_(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe file, or the name of a shipped recipe.")],
    values: Annotated[list[str], typer.Argument(metavar="FIELD=VALUE...", help="Fields are those of docs/recipes.md.")],
) -> None:
    """Print a recipe with other values of its fields; comments and the order of keys stay."""
    old, _ = _load(file)
    recipe = old
    for pair in values:
        name, equals, value = pair.partition("=")
        if not equals:
            raise RecipeError(f"{pair!r} sets nothing", where="recipe", todo="write it as FIELD=VALUE")
        recipe = set_value(recipe, name.strip(), value or None)
    print(llmcompressor.edited(_path(file).read_text(encoding="utf-8"), old, recipe), end="")


def _text(given: str) -> str:
    """What is pasted: the argument itself, the file it names, or stdin."""
    if given == "-":
        return sys.stdin.read()
    if "\n" in given or len(given) > 4096:
        return given
    path = Path(given).expanduser()
    looks = given.endswith(_ENDINGS) and not any(char.isspace() for char in given)
    if not looks and (" " in given or not os.path.isfile(path)):  # noqa: PTH113  (a name may be too long for a file)
        return given
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"the file cannot be read ({error.strerror})", where=given, todo="check its path") from error
    except UnicodeDecodeError as error:
        raise RecipeError("the file is not UTF-8 text", where=given, todo="save it as UTF-8") from error


def _load(given: str) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of a file or of a shipped recipe's name, and what was understood in it."""
    path = _path(given)
    recipe = llmcompressor.load(path)  # refuses what cannot be read, with the path
    return recipe, llmcompressor.read(path.read_text(encoding="utf-8"), str(path)).notes


def _path(given: str) -> Path:
    """A recipe file, or that of a shipped recipe's name."""
    shipped = RECIPES / f"{given}.yaml"
    return shipped if not Path(given).suffix and "/" not in given and shipped.is_file() else absolute(given)


def _layers(model: str) -> list[Linear]:
    return linear_layers(open_checkpoint(absolute(model)))


def _own(recipe: Recipe, layers: Sequence[Linear]) -> list[Problem]:
    """What is wrong with a recipe beside the layer table's problems and what surprises."""
    found = [Problem(f"{refusal.what}: {refusal.todo}", "", refusal.place) for refusal in refusals(recipe)]
    return found + [Problem(sentence, severity="warning") for sentence in surprises(recipe, layers)]


def _shown(recipe: Recipe, table: LayerTable) -> list[str]:
    targets_of = {target for group in recipe.groups for target in group.targets}
    lines = []
    for rule, count in table.taken_by.items():
        does = "takes" if rule in targets_of else "leaves out"
        lines.append(f"{rule} {does} {_layers_told(count)}")
    schemes: dict[str, int] = {}
    for row in table.rows:
        schemes[row.scheme] = schemes.get(row.scheme, 0) + 1
    lines += [f"{scheme}: {_layers_told(count)}" for scheme, count in schemes.items()]
    if table.untaken:
        shown = ", ".join(table.untaken[:3]) + (" ..." if len(table.untaken) > 3 else "")
        lines.append(f"taken by no target: {_layers_told(len(table.untaken))}: {shown}")
    lines.append(f"K/V cache: {cache_words(recipe.kv_cache)}")
    lines.append(f"Linear weights: {table.bytes_before / 1e6:.2f} MB -> {_size(table)}")
    return lines


def _layers_told(count: int) -> str:
    return f"{count} layer{'' if count == 1 else 's'}"


def _size(table: LayerTable) -> str:
    return f"{table.bytes_after / 1e6:.2f} MB, {table.bits_per_weight:.2f} bits per weight"


def _totals(table: LayerTable) -> dict[str, Any]:
    return {
        "bytes_before": table.bytes_before,
        "bytes_after": table.bytes_after,
        "bits_per_weight": round(table.bits_per_weight, 4),
        "layers_quantized": table.quantized,
        "layers_left": len(table.rows) - table.quantized,
    }


def _fields(first: Recipe, second: Recipe) -> dict[str, tuple[str, str]]:
    """What differs beside the layers' schemes: the K/V cache and the methods."""
    found = {}
    for field in Recipe.model_fields:
        was, now = getattr(first, field), getattr(second, field)
        if field not in ("groups", "ignore") and was != now:
            shown = cache_words if field.endswith("_cache") else _told
            found[field] = (shown(was), shown(now))
    return found


def _told(value: Any) -> str:
    if value is None or value == ():
        return "none"
    return str(value.model_dump(mode="json", exclude_none=True)) if hasattr(value, "model_dump") else str(value)


def _about(path: Path) -> str:
    """The first comment line of a recipe."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = file.readline().strip()
    except OSError:
        return ""
    return first.lstrip("# ") if first.startswith("#") else ""
