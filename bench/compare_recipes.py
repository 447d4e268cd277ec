"""What every shipped recipe does to the demo models: the figures of `quantui compare --json`, as docs/quality.md has them.

Run: python bench/compare_recipes.py [--limit 0] [--only NAME ...] [--write]

Every recipe is carried out in a child forked from a process that has imported the engine, and compared in another one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
os.environ.setdefault("TQDM_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from quantui.compare.figures import KEYS  # noqa: E402
from quantui.errors import QuantUIError  # noqa: E402
from quantui.jobs.preflight import prepare  # noqa: E402
from quantui.jobs.preflight_compare import prepare_compare  # noqa: E402
from quantui.workspace import ASSETS, RECIPES  # noqa: E402

DEMO = ASSETS / "demo"
PICTURES = {"internvl2-w8a8-m2"}
"""Recipes for image-text models: they are measured on the demo vision model, and their row says so."""
DOC = PROJECT / "docs" / "quality.md"
BEGIN, END = "<!-- begin: python bench/compare_recipes.py --write -->", "<!-- end of figures -->"


def main() -> None:
    """Prints the table, and with --write puts it into docs/quality.md."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    import llmcompressor  # noqa: F401  so that children need not
    import transformers  # noqa: F401

    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for demo in ("chat", "vision"):  # without evaluation.jsonl the job does not evaluate
            leave = shutil.ignore_patterns("evaluation*")
            shutil.copytree(DEMO / f"{demo}-data", Path(temporary) / f"{demo}-data", ignore=leave)
        for file in sorted(RECIPES.glob("*.yaml")):
            if options.only and file.stem not in options.only:
                continue
            demo = "vision" if file.stem in PICTURES else "chat"
            name = file.stem if demo == "chat" else f"{file.stem} (demo vision model)"
            rows.append(row(name, figures(file, demo, Path(temporary) / file.stem, options.limit)))
            print(rows[-1], flush=True)
            if options.write:
                write(rows)
    print("\n".join([*head(), *rows]))


def write(rows: list[str]) -> None:
    """Puts lines into the page; those of recipes that were not run now stay."""
    text = DOC.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    kept, _, after = rest.partition(END)
    lines = {line.split("|")[1].strip(): line for line in kept.splitlines()[3:] if line.startswith("|")}
    lines |= {line.split("|")[1].strip(): line for line in rows}
    table = "\n".join([*head(), *(lines[name] for name in sorted(lines))])
    DOC.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")


def figures(recipe: Path, demo: str, folder: Path, limit: int) -> dict[str, Any]:
    """The figures of one recipe on one of the demo models, or why there are none."""
    folder.mkdir()
    began = time.perf_counter()
    failed = in_child(lambda: quantized(recipe, demo, folder), folder / "quantize.txt")
    if failed is None:
        failed = in_child(lambda: compared(demo, folder, limit), folder / "compare.txt")
    if failed is not None:
        return {"failed": failed}
    found: dict[str, Any] = json.loads((folder / "figures.json").read_text())
    return found | {"seconds": time.perf_counter() - began}


def quantized(recipe: Path, demo: str, folder: Path) -> None:
    """Carries the recipe out."""
    from quantui.events import EventWriter
    from quantui.quantize.run import quantize

    out, calibration = str(folder / "out"), str(folder.parent / f"{demo}-data" / "calibration.yaml")
    spec = prepare(None, model=str(DEMO / demo), recipe=str(recipe), calibration=calibration, out=out, device="cpu")
    quantize(spec, EventWriter(folder / "events.jsonl"), folder)


def compared(demo: str, folder: Path, limit: int) -> None:
    """Compares what came of it."""
    from quantui.compare.run import compare
    from quantui.events import EventWriter

    model, out, data = DEMO / demo, str(folder / "out"), str(DEMO / f"{demo}-data" / "evaluation.jsonl")
    spec = prepare_compare(None, original=str(model), quantized=out, data=data, limit=limit, device="cpu")
    result = compare(spec, EventWriter(folder / "compare.jsonl"), folder)
    sizes = [sum(file.stat().st_size for file in place.glob("*.safetensors")) for place in (model, folder / "out")]
    kept = {key: result[key] for key in (*KEYS, "noise_floor")} | {"size": sizes[1] / sizes[0]}
    (folder / "figures.json").write_text(json.dumps(kept))


def in_child(work: Callable[[], None], log: Path) -> str | None:
    """Does something in a forked process; why it failed, if it did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work()
            code = 0
        except QuantUIError as error:
            log.with_suffix(".why").write_text(error.what)
        except Exception as error:  # noqa: BLE001  (the boundary of the child)
            traceback.print_exc()
            log.with_suffix(".why").write_text(f"{type(error).__name__}: {error}"[:120])
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if status == 0:
        return None
    why = log.with_suffix(".why")
    return why.read_text() if why.exists() else f"it ended with status {status}"


def head() -> list[str]:
    """The first lines of the table."""
    names = ["recipe", "size", *KEYS]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    if "failed" in found:
        return f"| {name} | {found['failed']} |" + " |" * len(KEYS)
    values = [f"{found[key]:.4g}" if isinstance(found[key], float) else str(found[key]) for key in KEYS]
    return "| " + " | ".join([name, f"{found['size']:.0%}", *values]) + " |"


if __name__ == "__main__":
    main()
