"""What each method loses: divergence of the quantized demo chat model from the float one, on chats it was not calibrated with.

Every recipe goes through the whole job, and the saved folder is opened again. The figure is the mean over all tokens of
KL(float || quantized) in nats. Goals: every method at or below plain min-max of its scheme, and what is shipped for a flow
that engineers come with at or below the best other method of its scheme.

    python bench/quality.py [--samples 32] [--held-out 100] [--only W8A8] [--write]

With --write the table goes to docs/quality.md, line by line.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(PROJECT))
os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}

from quantui.events import EventWriter  # noqa: E402
from quantui.recipe import llmcompressor  # noqa: E402
from quantui.recipe.importing import import_text  # noqa: E402
from quantui.recipe.schema import (  # noqa: E402
    AutoRound,
    Awq,
    Gptq,
    Hqq,
    OutlierSuppression,
    QuantArgs,
    QuantGroup,
    Recipe,
    Sparse,
)
from quantui.spec import QuantizeSpec  # noqa: E402
from quantui.workspace import RECIPES  # noqa: E402

MODEL = PROJECT / "assets" / "demo" / "chat"
DATA = PROJECT / "assets" / "demo" / "chat-data"
PAGE = PROJECT / "docs" / "quality.md"
BEGIN, END = "<!-- begin: python bench/quality.py --write -->", "<!-- end -->"
BASE = "min-max"
TOLERANCE = 1.0


class Case(NamedTuple):
    """One line of the table."""

    scheme: str
    method: str
    recipe: Recipe
    flow: str = ""
    """Whose default it is, where it is one."""


def group(weights: QuantArgs, inputs: QuantArgs | None = None) -> tuple[QuantGroup, ...]:
    """One group of all Linears."""
    return (QuantGroup(name="group_0", weights=weights, input_activations=inputs),)


def made(groups: tuple[QuantGroup, ...], *more: str, **fields: Any) -> Recipe:
    """A recipe that leaves the head, and more where that is said, in float."""
    return Recipe(groups=groups, ignore=("lm_head", *more), **fields)


def static(observer: str) -> QuantArgs:
    """int8 inputs by tensor, asymmetric."""
    return QuantArgs(symmetric=False, strategy="tensor", observer=observer)


def cases() -> list[Case]:
    """Every method under every scheme it is for."""
    int8 = QuantArgs(strategy="channel")
    int4 = QuantArgs(num_bits=4, strategy="group", group_size=32, symmetric=False)
    token = QuantArgs(strategy="token", dynamic=True)
    whole, scripts, few = group(int8, static("static_minmax")), "W8A8 static, no down_proj", "re:.*down_proj"
    found = [Case(scripts, BASE, made(whole, few))]
    methods: tuple[Any, ...] = ("m1", "m2", "m4", "m5", "m6")
    found += [Case(scripts, method, made(whole, few, outliers=OutlierSuppression(method=method))) for method in methods]
    found += [
        Case(scripts, "m3 (AWQ)", made(whole, few, awq=Awq(duo_scaling=False))),
        Case("W8A8 static", BASE, made(whole)),
        Case("W8A8 static", "m4", made(whole, outliers=OutlierSuppression(method="m4"))),
        Case("W8A8 static", "m6", made(whole, outliers=OutlierSuppression(method="m6"))),
        Case("W8A8 static", "histogram ranges", made(group(int8, static("histogram")))),
    ]
    found += [
        Case("W4A16 group 32", BASE, made(group(int4))),
        Case("W4A16 group 32", "HQQ", made(group(int4), hqq=Hqq())),
        Case("W4A16 group 32", "GPTQ", made(group(int4), gptq=Gptq())),
        Case("W4A16 group 32", "AWQ", made(group(int4), awq=Awq())),
        Case("W4A16 group 32", "MSE", made(group(int4.model_copy(update={"observer": "mse"})))),
        Case("W4A16 group 32", "AWQ as lmdeploy", made(group(int4), outliers=OutlierSuppression(method="lmdeploy"))),
    ]
    found.append(Case("W4A16 group 32", "AutoRound", made(group(int4), autoround=AutoRound())))
    coarse = int4.model_copy(update={"group_size": 128})
    found += [
        Case("W4A16 group 128", BASE, made(group(coarse))),
        Case("W4A16 group 128", "HQQ", made(group(coarse), hqq=Hqq())),
        Case("W4A16 group 128", "GPTQ", made(group(coarse), gptq=Gptq())),
        Case("W4A16 group 128", "AWQ as lmdeploy", made(group(coarse), outliers=OutlierSuppression(method="lmdeploy"))),
    ]
    fine, rows = (QuantArgs(num_bits=4, strategy="group", group_size=32), QuantArgs(num_bits=4, strategy="channel"))
    two_stage = fine.model_copy(update={"observer": "msmodelslim", "observer_kwargs": {"stages": 2}})
    by_row = group(rows, static("static_minmax"))
    found += [
        Case("W8A8 dynamic", BASE, made(group(int8, token))),
        Case("W8A8 dynamic", "GPTQ", made(group(int8, token), gptq=Gptq())),
        Case("W4A8 dynamic", BASE, made(group(fine, token))),
        Case("W4A8 dynamic", "two stages", made(group(two_stage, token))),
        Case("W4A8 static", BASE, made(by_row)),
        Case("W4A8 static", "sparse, 10 % at 8 bits", made(by_row, sparse=Sparse(fraction=0.1))),
    ]
    return [*found, *defaults()]


def defaults() -> list[Case]:
    """What is shipped or imported for the flows that engineers come with, and what stands beside it."""
    int8, float8 = QuantArgs(strategy="channel"), QuantArgs(type="float", strategy="channel")
    text = import_text("python3 quant_internlm2.py --w_bit 8 --a_bit 8 --act_method 3 --anti_method m2").recipe
    rows = import_text("python3 quant_chatglm2.py --w_bit 4 --a_bit 16").recipe
    by_row = QuantArgs(num_bits=4, strategy="channel")
    pictures = shipped("internvl2-w8a8-m2").model_copy(update={"ignore": ("re:.*lm_head", "re:.*down_proj$")})  # its text part
    return [
        Case("W8A8 static, no down_proj", "internvl2-w8a8-m2", pictures, "InternVL2 W8A8"),
        Case("W8A8 static, no down_proj", "m2, act_method 3", text),
        Case("W8A8 static, no down_proj", "int8-w8a8-m4", shipped("int8-w8a8-m4"), "InternLM2 and ChatGLM2 W8A8"),
        Case("W4A16 group 128", "int4-w4a16-awq-g128", shipped("int4-w4a16-awq-g128"), "lmdeploy auto_awq"),
        Case("W8A16", BASE, made(group(int8))),
        Case("W8A16", "GPTQ", made(group(int8), gptq=Gptq())),
        Case("W8A16", "int8-w8a16", shipped("int8-w8a16")),
        Case("W8A16", "int8-w8a16-gptq", shipped("int8-w8a16-gptq"), "InternLM2 and ChatGLM2 W8A16"),
        Case("W4A16 by channel", BASE, made(group(by_row))),
        Case("W4A16 by channel", "GPTQ", made(group(by_row), gptq=Gptq())),
        Case("W4A16 by channel", "as msModelSlim", rows),
        Case("W4A16 by channel", "int4-w4a16-gptq-channel", shipped("int4-w4a16-gptq-channel"), "ChatGLM2 W4A16"),
        Case("FP8 dynamic", BASE, made(group(float8, QuantArgs(type="float", strategy="token", dynamic=True)))),
        Case("FP8 dynamic", "fp8-dynamic", shipped("fp8-dynamic")),
    ]


def shipped(name: str) -> Recipe:
    """A recipe of the folder `recipes`."""
    return llmcompressor.loads((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))


def main() -> None:
    """Prints one line a case, and what misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32, help="chats to calibrate with")
    parser.add_argument("--held-out", type=int, default=100, help="chats to compare on")
    parser.add_argument("--only", default="", help="schemes or methods with this in their name; min-max is always there")
    parser.add_argument("--resume", type=Path, help="a JSON file that results are kept in and taken from")
    parser.add_argument("--write", action="store_true", help="write the table to docs/quality.md")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)  # children are forked, and threads do not survive that
    from quantui.quantize import modifiers, run  # noqa: F401

    modifiers.register()  # imports all that the children need
    chosen = [case for case in cases() if options.only in f"{case.scheme} {case.method}" or case.method == BASE]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        expected = root / "expected.pt"
        fork(lambda: torch.save(answers(MODEL, options.held_out), expected), root / "log.txt")
        rows, known = [], read(options.resume)
        for number, case in enumerate(chosen):
            began = time.monotonic()
            key = f"{case.scheme}: {case.method}"
            loss = known[key] if key in known else measured(case, root / str(number), expected, options)
            if options.resume and loss is not None:
                options.resume.write_text(json.dumps(known := known | {key: loss}))
            rows.append((case, loss))
            shown = "failed" if loss is None else f"{loss:.3e}"
            print(f"{case.scheme:24} {case.method:24} {shown:>10}  {time.monotonic() - began:6.1f} s", flush=True)
            if options.write:
                write(table(rows), options)
    print("\n".join(table(rows)))


def read(file: Path | None) -> dict[str, float]:
    """Results of a run that was interrupted."""
    return dict(json.loads(file.read_text())) if file is not None and file.exists() else {}


def measured(case: Case, folder: Path, expected: Path, options: argparse.Namespace) -> float | None:
    """The divergence of one case, or None where the job failed; its log stays until the end of the run."""
    folder.mkdir()

    def work() -> None:
        import torch

        from quantui.quantize.run import quantize

        calibration = (DATA / "calibration.yaml").read_text().replace("samples: 256", f"samples: {options.samples}")
        spec = QuantizeSpec(
            statistics=False,
            name="bench",
            model=str(MODEL),
            recipe=llmcompressor.dumps(case.recipe),
            recipe_path="recipe.yaml",
            calibration=calibration,
            calibration_path=str(DATA / "calibration.yaml"),
            evaluation=None,
            out=str(folder / "out"),
            device="cpu",
        )
        quantize(spec, EventWriter(folder / "events.jsonl"), folder)
        truth, found = torch.load(expected), answers(folder / "out", options.held_out)
        total = sum(
            float(torch.nn.functional.kl_div(b, a, log_target=True, reduction="sum")) for a, b in zip(truth, found, strict=True)
        )
        (folder / "loss.json").write_text(json.dumps(total / sum(map(len, truth))))

    fork(work, folder / "log.txt")
    file = folder / "loss.json"
    if not file.exists():
        print((folder / "log.txt").read_text()[-2000:], file=sys.stderr)
        return None
    return float(json.loads(file.read_text()))


def answers(folder: Path, count: int) -> list[Any]:
    """Log-probabilities (tokens, vocabulary) of the first held-out chats."""
    import torch

    from quantui.checkpoint.load import load_model
    from quantui.checkpoint.processor import load_processor

    model, words = load_model(folder, image_text=False), load_processor(MODEL, image_text=False)
    found = []
    with torch.inference_mode():
        for line in (DATA / "evaluation.jsonl").read_text().splitlines()[:count]:
            text = words.apply_chat_template(json.loads(line)["messages"], tokenize=False)
            ids = words(text, return_tensors="pt", add_special_tokens=False).input_ids
            found.append(model(input_ids=ids).logits[0].float().log_softmax(-1))
    return found


def fork(work: Any, log: Path) -> None:
    """Runs something in a child of this process, which has imported what takes long; the engine keeps global state."""
    child = os.fork()
    if child == 0:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = 1
        try:
            work()
            code = 0
        finally:
            if code:
                import traceback

                traceback.print_exc()
                sys.stderr.flush()
            os._exit(code)
    os.waitpid(child, 0)


def table(rows: list[tuple[Case, float | None]]) -> list[str]:
    """The rows as Markdown, each with its ratio to plain min-max of the scheme."""
    plain = {case.scheme: loss for case, loss in rows if case.method == BASE}
    lines = ["| scheme | method | KL, nats a token | of min-max |", "|---|---|---|---|"]
    missed = []
    for case, loss in rows:
        base = plain.get(case.scheme)
        ratio = loss / base if loss is not None and base else None
        lines.append(
            f"| {case.scheme} | {case.method} | {'failed' if loss is None else f'{loss:.2e}'} | "
            f"{'' if ratio is None else f'{ratio:.2f}'} |"
        )
        if ratio is None or ratio > TOLERANCE:
            missed.append(f"{case.method} of {case.scheme}")
    lines += ["", "At or below min-max: " + ("all." if not missed else f"all but {', '.join(missed)}."), ""]
    return [*lines, *flows(rows)]


def flows(rows: list[tuple[Case, float | None]]) -> list[str]:
    """One sentence for each flow: its default against the best other method of the scheme."""
    made = []
    for case, loss in rows:
        others = [(other, case_of.method) for case_of, other in rows if case_of.scheme == case.scheme and not case_of.flow]
        measured = [(other, method) for other, method in others if other is not None]
        if case.flow and loss is not None and measured:
            least, method = min(measured)
            made.append(
                f"- {case.flow}: {case.method} loses {loss / least:.2f} of {method}, the best other method of its scheme."
            )
    return made


def write(lines: list[str], options: argparse.Namespace) -> None:
    """Puts the table between its marks in docs/quality.md."""
    import datetime

    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    data = f"{options.samples} chats to calibrate and {options.held_out} to compare"
    said = f"Measured {datetime.date.today().isoformat()} on a CPU with {data}."
    PAGE.write_text("\n".join((head, "", said, "", *lines, "", tail)), encoding="utf-8")


if __name__ == "__main__":
    main()
