"""The arrows of docs/architecture.md: an import only ever points left, and the web process stays light."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "quantui"

COMMANDS = ("cli_calibration", "cli_compare", "cli_export", "cli_recipe", "cli_sensitivity", "cli_stats")
LAYERS = (
    ("errors",),
    ("events", "spec", "processes", "memory"),
    ("stages",),
    ("devices",),
    ("workspace", "vanished"),
    ("checkpoint",),
    ("recipe",),
    ("calibration", "numerics"),
    ("evaluation", "stats"),
    ("sensitivity",),
    ("quantize",),
    ("formats",),
    ("compare",),
    ("worker", "chat_worker"),
    ("forkserver",),
    ("jobs",),
    ("cli_options",),
    COMMANDS,
    ("cli", "ui"),
    ("__main__",),
)
"""Left to right; rooms of one layer do not know each other."""

RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
APART = ("worker", "chat_worker", "quantize")
"""Run in the worker only: jobs, ui and cli meet them through the files of a run folder."""

ONLY = {"gradio": ("ui",), "typer": ("cli", "cli_options", *COMMANDS)}
HEAVY = ("torch", "transformers", "compressed_tensors", "llmcompressor", "datasets")


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement, wherever in it; of expressions, which are most of a tree, there is nothing to say here."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        for node in getattr(tree, name, ()):
            yield node
            yield from statements(node)


def imports(file: Path) -> Iterator[tuple[str, int]]:
    """Every module a file imports, wherever in it, with the line."""
    for node in STATEMENTS[file]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno}: imports are written in full here"
            if node.module == "quantui":
                yield from ((f"quantui.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield (node.module or "", node.lineno)


def room_of(file: Path) -> str:
    """The room a file of the package is in: the folder, or the module itself."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")
gc.disable()  # CPython 3.11 gives a SystemError when garbage is collected while it parses (gh-106905)
STATEMENTS = {file: list(statements(ast.parse(file.read_text(encoding="utf-8")))) for file in FILES}
gc.enable()
EDGES = [(file, name, line) for file in FILES for name, line in imports(file)]


def test_every_room_has_a_place_in_the_order() -> None:
    assert {room_of(file) for file in FILES} <= set(RANK), "put the new room into LAYERS here and into docs/architecture.md"


def test_imports_point_left() -> None:
    wrong = []
    for file, name, line in EDGES:
        parts = name.split(".")
        if parts[0] != "quantui" or len(parts) == 1 or parts[1] not in RANK:
            continue  # another package, or a name that quantui/__init__.py itself defines
        here, there = room_of(file), parts[1]
        if here != there and (RANK[there] >= RANK[here] or (there in APART and RANK[here] >= RANK["jobs"])):
            wrong.append(f"{file.relative_to(ROOT)}:{line}: {here} imports {there}")
    assert not wrong, "\n".join(wrong)


def test_only_one_room_knows_each_interface_library() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {name}"
        for file, name, line in EDGES
        if (rooms := ONLY.get(name.split(".")[0])) and room_of(file) not in rooms
    ]
    assert not wrong, "\n".join(wrong)


def test_the_engine_is_not_loaded_by_the_command_line_and_the_head_of_a_worker() -> None:
    """Nor by the page: tests/ui/test_app.py."""
    code = "import sys, quantui.worker, quantui.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pydantic" in done.stdout.split() and not set(done.stdout.split()) & set(HEAVY)


def test_no_file_is_long() -> None:
    sizes = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert not {name: lines for name, lines in sizes.items() if lines > 500}


def test_no_function_is_long() -> None:
    wrong = []
    for file in FILES:
        for node in STATEMENTS[file]:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.end_lineno or 0) - node.lineno >= 60:
                wrong.append(f"{file.relative_to(ROOT)}:{node.lineno}: {node.name}")
    assert not wrong, "\n".join(wrong)
