"""What each method loses: divergence of the quantized demo chat model from the float one, on chats it was not calibrated with.

Every recipe goes through the whole job, and the saved folder is opened again. The figure is the mean over all tokens of
KL(float || quantized) in nats. Goals: every method at or below plain min-max of its scheme, and what is shipped for a flow
that engineers come with at or below the best other method of its scheme.

Which channels share a group is chance, and with one draw a method's ratio to min-max may be 9 % off its average. So schemes by
groups, and what is shipped for a flow beside its rival, are measured on the model as it is stored and with its channels in
other orders, which compute the same.

    python bench/quality.py [--samples 32] [--held-out 400] [--orders 4] [--only W8A8] [--write]

With --write the table goes to docs/quality.md, line by line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
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

Losses = list[float] | None
"""Divergences of a case, of each order of channels; None where a job failed."""


class Case(NamedTuple):
    """One line of the table."""

    scheme: str
    method: str
    recipe: Recipe
    flow: str = ""
    """Whose default it is, where it is one."""

    @property
    def by_groups(self) -> bool:
        """Whether some input channels share a scale and others do not."""
        return any(group.weights is not None and group.weights.strategy == "group" for group in self.recipe.groups)


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
    parser.add_argument("--held-out", type=int, default=400, help="chats to compare on")
    parser.add_argument("--orders", type=int, default=4, help="orders of channels that schemes by groups are measured in")
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
        models = [in_order(number, root / f"model-{number}") for number in range(options.orders)]
        truths = [root / f"truth-{number}.pt" for number in range(options.orders)]
        for pair in zip(models, truths, strict=True):
            fork(lambda pair=pair: torch.save(answers(pair[0], options.held_out), pair[1]), root / "log.txt")
        known = read(options.resume)

        def losses_of(case: Case, orders: int) -> Losses:
            key = f"{case.scheme}: {case.method}" + (f", {orders} orders" if orders > 1 and not case.by_groups else "")
            if key not in known:
                pairs = list(zip(models, truths, strict=True))[:orders]
                work = root / key.replace("/", " ")
                found = [measured(case, work.with_name(f"{work.name} {of}"), *pair, options) for of, pair in enumerate(pairs)]
                if None in found:
                    return None
                known[key] = [loss for loss in found if loss is not None]
                if options.resume:
                    options.resume.write_text(json.dumps(known))
            return known[key]

        rows: list[tuple[Case, Losses]] = []
        for case in chosen:
            began = time.monotonic()
            losses = losses_of(case, options.orders if case.by_groups else 1)
            rows.append((case, losses))
            shown = "failed" if losses is None else f"{statistics.mean(losses):.3e}"
            print(f"{case.scheme:24} {case.method:24} {shown:>10}  {time.monotonic() - began:6.1f} s", flush=True)
            if options.write:
                write(table(rows), options)
        again = [(case, losses_of(case, options.orders)) for duel in duels(rows) for case in duel]
    lines = table(rows, again)
    if options.write:
        write(lines, options)
    print("\n".join(lines))


def in_order(seed: int, folder: Path) -> Path:
    """The model with its channels shuffled, which computes the same; with a seed of 0 the model as it is stored.

    Shuffled are the channels between decoder layers, those within each MLP and those of the values within each head.
    """
    if seed == 0:
        return MODEL
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(MODEL, folder)
    tensors, config = load_file(MODEL / "model.safetensors"), json.loads((MODEL / "config.json").read_text())
    generator = torch.Generator().manual_seed(seed)
    size, wide, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    outer, rows = torch.randperm(size, generator=generator), ("o_proj.weight", "down_proj.weight", "norm.weight")
    for name, tensor in tensors.items():
        tensors[name] = tensor[outer] if name.endswith(rows) else tensor[:, outer]
    for number in range(config["num_hidden_layers"]):
        inner, values = torch.randperm(wide, generator=generator), torch.randperm(head, generator=generator)
        layer = f"model.layers.{number}"
        for name in ("gate_proj", "up_proj"):
            tensors[f"{layer}.mlp.{name}.weight"] = tensors[f"{layer}.mlp.{name}.weight"][inner]
        down, v, o = (f"{layer}.{name}_proj.weight" for name in ("mlp.down", "self_attn.v", "self_attn.o"))
        tensors[down] = tensors[down][:, inner]
        tensors[v] = tensors[v].unflatten(0, (-1, head))[:, values].flatten(0, 1)
        tensors[o] = tensors[o].unflatten(1, (-1, head))[:, :, values].flatten(1)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"}
    )
    return folder


def read(file: Path | None) -> dict[str, list[float]]:
    """Results of a run that was interrupted."""
    return dict(json.loads(file.read_text())) if file is not None and file.exists() else {}


def measured(case: Case, folder: Path, model: Path, expected: Path, options: argparse.Namespace) -> float | None:
    """The divergence of one case from a model's answers, or None where the job failed; its log stays until the run ends."""
    folder.mkdir()

    def work() -> None:
        import torch

        from quantui.quantize.run import quantize

        calibration = (DATA / "calibration.yaml").read_text().replace("samples: 256", f"samples: {options.samples}")
        spec = QuantizeSpec(
            statistics=False,
            name="bench",
            model=str(model),
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
    """Log-probabilities (tokens, vocabulary) of the first held-out chats, those of one length computed at once."""
    import torch

    from quantui.checkpoint.load import load_model
    from quantui.checkpoint.processor import load_processor

    model, words = load_model(folder, image_text=False), load_processor(MODEL, image_text=False)
    chats = [json.loads(line)["messages"] for line in (DATA / "evaluation.jsonl").read_text().splitlines()[:count]]
    texts = [words.apply_chat_template(chat, tokenize=False) for chat in chats]
    ids = [words(text, add_special_tokens=False).input_ids for text in texts]
    found: dict[int, Any] = {}
    with torch.inference_mode():
        for length in {len(row) for row in ids}:
            places = [place for place, row in enumerate(ids) if len(row) == length]
            logits = model(input_ids=torch.tensor([ids[place] for place in places])).logits
            found |= zip(places, logits.float().log_softmax(-1), strict=True)
    return [found[place] for place in range(len(ids))]


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


def table(rows: list[tuple[Case, Losses]], again: list[tuple[Case, Losses]] | None = None) -> list[str]:
    """The rows as Markdown, each with its ratio to plain min-max of the scheme; `again` are those of flows, in every order."""
    plain = {case.scheme: losses for case, losses in rows if case.method == BASE}
    lines = ["| scheme | method | KL, nats a token | of min-max | by order of channels |", "|---|---|---|---|---|"]
    missed = []
    for case, losses in rows:
        base = plain.get(case.scheme)
        ratio = statistics.mean(losses) / statistics.mean(base) if losses and base else None
        apart = [one / other for one, other in zip(losses, base, strict=True)] if losses and base else []
        cells = (
            "failed" if losses is None else f"{statistics.mean(losses):.2e}",
            "" if ratio is None else f"{ratio:.2f}",
            ", ".join(f"{part:.2f}" for part in apart) if len(apart) > 1 and case.method != BASE else "",
        )
        lines.append(" | ".join((f"| {case.scheme} | {case.method}", *cells)) + " |")
        if ratio is None or ratio > TOLERANCE:
            missed.append(f"{case.method} of {case.scheme}")
    lines += ["", "At or below min-max: " + ("all." if not missed else f"all but {', '.join(missed)}."), ""]
    return [*lines, *flows(again or rows)]


def duels(rows: list[tuple[Case, Losses]]) -> list[tuple[Case, Case]]:
    """Each flow's default with the best other method of its scheme, which are so near that all orders are needed."""
    found = []
    for case, losses in rows:
        others = [(statistics.mean(other), of) for of, other in rows if of.scheme == case.scheme and not of.flow and other]
        if case.flow and losses and others:
            found.append((case, min(others, key=lambda pair: pair[0])[1]))
    return found


def flows(rows: list[tuple[Case, Losses]]) -> list[str]:
    """One sentence for each flow: its default against the best other method of the scheme."""
    made, loss = [], {id(case): statistics.mean(losses) for case, losses in rows if losses}
    for case, other in duels(rows):
        ratio = loss[id(case)] / loss[id(other)]
        made.append(f"- {case.flow}: {case.method} loses {ratio:.2f} of {other.method}, the best other method of its scheme.")
    return made


def write(lines: list[str], options: argparse.Namespace) -> None:
    """Puts the table between its marks in docs/quality.md."""
    import datetime

    text = PAGE.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    data = f"{options.samples} chats to calibrate and {options.held_out} to compare, by groups over {options.orders} orders"
    said = f"Measured {datetime.date.today().isoformat()} on a CPU with {data}."
    PAGE.write_text("\n".join((head, "", said, "", *lines, "", tail)), encoding="utf-8")


if __name__ == "__main__":
    main()
