"""Benchmarks of lm-evaluation-harness, run on both models of a pair; an optional package.

Source: lm_eval 0.4.13, `evaluator.simple_evaluate` and `models.huggingface.HFLM`, which takes a loaded model.
"""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantui.compare.benchmarks import columns, table
from quantui.compare.folders import check_pair
from quantui.devices import torch_device
from quantui.errors import EngineError, InputError
from quantui.events import EventWriter, Log, Metric
from quantui.spec import HarnessSpec
from quantui.stages import Stages
from quantui.vanished import ran_out

BATCH = 8
"""Requests run together, where rows of a batch do not change one another."""
SIDES = ("original", "quantized")


def run(spec: HarnessSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out the benchmarks of a job.

    Args:
        folder: the job's; nothing is written there but by the caller.

    Returns:
        `rows`: task, metric, and what either model reached, with their difference and standard errors; `columns`: what a table
        calls the two.

    Raises:
        InputError: a model or a task cannot be used.
        EngineError: the harness stopped.
    """
    stages = Stages(events)
    with stages("start"):
        original, quantized = Path(spec.model), Path(spec.quantized)
        check_pair(original, quantized)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        events.write(Log("info", "importing torch, transformers and lm_eval"))
        device = torch_device(spec.device)
        manager = tasks_of(spec)
    with stages("load"):
        from quantui.compare.pair import open_pair

        pair = open_pair(original, quantized, device=device, trust_remote_code=spec.trust_remote_code)
    found = {}
    for side in SIDES:
        with stages(side):
            found[side] = _results(pair, side, spec, manager)
    rows = table(found["original"], found["quantized"])
    for row in rows:
        events.write(Metric(f"{row['task']}/{row['metric']}/diff", float(row["diff"])))
    return {
        "rows": rows,
        "columns": columns([site.words for site in pair.sites.values()], str(pair.models["original"].dtype)),
        "original": spec.model,
        "quantized": spec.quantized,
        "seconds": stages.seconds,
        "seconds_total": round(sum(stages.seconds.values()), 3),
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "lm_eval")},
    }


def tasks_of(spec: HarnessSpec) -> Any:
    """The harness's index of tasks, those of the job's own folder among them.

    Raises:
        InputError: it does not know one that the job names.
    """
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=spec.tasks_folder or None)
    unknown = [name for name in spec.tasks if name not in manager.all_tasks]
    if unknown:
        todo = "see `lm-eval ls tasks`, or name the folder of your own with --tasks-folder"
        raise InputError(f"the harness knows no task {', '.join(unknown)}", where="--tasks", todo=todo)
    return manager


def _results(pair: Any, side: str, spec: HarnessSpec, manager: Any) -> dict[str, dict[str, Any]]:
    """Task -> metric -> value for one model."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    size = 1 if pair.mixes_rows else BATCH
    model = pair.models[side]
    try:
        with _cached(model, lambda: pair.cache(side)):
            made = simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=pair.tokenizer, backend="causal", batch_size=size),
                tasks=list(spec.tasks),
                limit=spec.limit or None,
                task_manager=manager,
                log_samples=False,
                apply_chat_template=spec.chat,
            )
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ImportError) as error:
        if ran_out(error):
            raise
        what = f"lm-evaluation-harness stopped: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
        todo = "check that the task's data lie on this machine; the traceback is in log.txt of the job"
        raise EngineError(what, where=side, todo=todo) from error
    results: dict[str, dict[str, Any]] = made["results"]
    return results


@contextmanager
def _cached(model: Any, fresh: Callable[[], Any]) -> Iterator[None]:
    """Every pass of the model begins with a cache of ours, which rounds keys and values, in place of an empty one."""
    from quantui.compare.cache import RoundingCache

    def offer(_module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        own = kwargs.get("past_key_values")
        if own is None or (not isinstance(own, RoundingCache) and own.get_seq_length() == 0):
            kwargs = kwargs | {"past_key_values": fresh()}
        return args, kwargs

    hook = model.register_forward_pre_hook(offer, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()
