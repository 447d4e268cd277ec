"""The main job: a float model folder, a recipe and samples in, a compressed folder that has proved to open out."""

from __future__ import annotations

import gc
import hashlib
import importlib.metadata
import os
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quantui.calibration import schema as calibration_schema
from quantui.calibration.feed import Feed
from quantui.calibration.sources import Sample
from quantui.checkpoint.files import Checkpoint, open_checkpoint
from quantui.checkpoint.inspect import check_loadable, summary_of
from quantui.checkpoint.place import moved, peak_bytes, placed
from quantui.devices import has_float8, torch_device
from quantui.errors import DeviceError, EngineError, ResultError
from quantui.evaluation.measure import Evaluation, evaluate
from quantui.evaluation.questions import Question, read_questions
from quantui.events import Artifact, EventWriter, Log, Metric
from quantui.numerics.layerfiles import FOLDER
from quantui.quantize import fallback, modifiers, pipeline
from quantui.quantize.check import check_layers, check_scales, mark_unset_scales
from quantui.quantize.experts import as_opened, unstack
from quantui.quantize.listen import listen_to_bars, listen_to_logs
from quantui.quantize.mend import (
    dtypes_of,
    mend_autoround,
    mend_codes,
    mend_groups,
    mend_offloaded,
    mend_pinning,
    mend_precision,
    restore_dtypes,
    take_codes,
)
from quantui.quantize.outside import keep_outside
from quantui.quantize.plan import Plan, make_plan
from quantui.quantize.progressive import find_progressively
from quantui.quantize.save import folder_bytes, save
from quantui.quantize.sent import find_sent
from quantui.quantize.watch import gathering, keep, missing, why_not
from quantui.recipe import llmcompressor
from quantui.recipe.schema import Recipe
from quantui.spec import QuantizeSpec
from quantui.stages import Stages
from quantui.stats.finish import model_hash
from quantui.workspace import staged_folder, sweep_staging, write_json

LOGIT_TOLERANCE = 0.02
"""Largest difference of logits, as a share of the largest, that the re-opened folder may show against the model in memory."""

PACKAGES = ("quantui", "torch", "transformers", "llmcompressor", "compressed-tensors")


@dataclass(frozen=True)
class Inputs:
    """What a job works on, read and checked before anything heavy is loaded."""

    checkpoint: Checkpoint
    image_text: bool
    recipe: Recipe
    feed: Feed
    questions: list[Question]

    @property
    def samples(self) -> list[Sample]:
        """The calibration samples, in the order they are used."""
        return self.feed.samples


def quantize(spec: QuantizeSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out a quantize job; must run in a process of its own, since the engine keeps global state.

    Args:
        folder: the job's folder; the statistics that were gathered on the way go there.

    Returns:
        The result as it stands in result.json: sizes in bytes, times in seconds.

    Raises:
        InputError: the model, recipe, calibration or output cannot work.
        RunError: the engine failed, or the result is not what was asked for.
    """
    stages = Stages(events)
    with stages("start"):
        inputs = read_inputs(spec)
        sweep_staging(Path(spec.out))
        listen_to_bars(events, stages)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and ours do not mix; the engine asks for it
        events.write(Log("info", "importing torch, transformers and llm-compressor"))
        import llmcompressor as engine  # noqa: F401  (its import wipes log sinks, so ours come after)

        listen_to_logs(events)
        mark_unset_scales()
        device = torch_device(spec.device)  # before what asks whether there is one
        _check_float8(inputs.recipe, device)
        mend_pinning()
        mend_precision(device)
        mend_codes()
        mend_groups()
        mend_offloaded()
        if inputs.recipe.autoround is not None:
            mend_autoround()
        modifiers.register()
        pipeline.register()
        plan = _plan(spec, inputs)
    if inputs.recipe.fallback is not None:
        with stages("fallback"):
            fallen = fallback.carry_out(spec, inputs.recipe, events, stages, folder)
            inputs = replace(inputs, recipe=fallen.recipe)
            plan = _plan(spec, inputs)
            plan = replace(plan, notes=(fallen.note, *plan.notes))
    for note in plan.notes:
        events.write(Log("warning", note))
    with staged_folder(Path(spec.out)) as staging:
        job = _Job(spec, inputs, plan, events, stages, device, staging, folder)
        result = job.run()
        write_json(
            staging / "quantui.json", result | {"model": spec.model, "recipe": spec.recipe, "calibration": spec.calibration}
        )
    events.write(Artifact("quantized model", spec.out))
    return result


def read_inputs(spec: QuantizeSpec) -> Inputs:
    """Reads and checks everything that needs no torch.

    Raises:
        InputError: something in it cannot work.
    """
    checkpoint = open_checkpoint(Path(spec.model))
    check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
    recipe = llmcompressor.loads(spec.recipe, where=spec.recipe_path)
    roots = [Path(root) for root in spec.roots]
    calibration = None
    if spec.calibration is not None and spec.calibration_path is not None:
        path = Path(spec.calibration_path)
        calibration = calibration_schema.loads(spec.calibration, where=str(path), base=path.parent)
    questions = read_questions(Path(spec.evaluation), roots) if spec.evaluation else []
    return Inputs(checkpoint, summary_of(checkpoint).kind == "image-text", recipe, Feed(calibration, roots), questions)


def _check_float8(recipe: Recipe, device: Any) -> None:
    """Refuses what the engine would compute in float8 on a device that has none."""
    every = [args for group in recipe.groups for args in (group.weights, group.input_activations, group.output_activations)]
    floats = [args for args in (*every, recipe.kv_cache, recipe.value_cache) if args is not None and args.type == "float"]
    if any(args.num_bits == 8 or args.strategy == "tensor_group" for args in floats) and not has_float8(device):
        what = "the recipe quantizes to float8, or by scales of float8, and the device has none"
        raise DeviceError(what, where=str(device), todo="choose cpu, or integers in their place")


def _plan(spec: QuantizeSpec, inputs: Inputs) -> Plan:
    return make_plan(inputs.recipe, inputs.checkpoint, inputs.samples, trust_remote_code=spec.trust_remote_code)


class _Job:
    """The stages after the inputs are known, in their order."""

    def __init__(
        self, spec: QuantizeSpec, inputs: Inputs, plan: Plan, events: EventWriter, stages: Stages, device: Any, staging: Path,
        folder: Path,
    ) -> None:  # fmt: skip
        self.spec, self.inputs, self.plan = spec, inputs, plan
        self.events, self.stages, self.device, self.staging, self.folder = events, stages, device, staging, folder
        self.gathered: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """All stages; returns the result."""
        from quantui.checkpoint.load import load_model
        from quantui.checkpoint.processor import load_processor

        folder, trust = Path(self.spec.model), self.spec.trust_remote_code
        with self.stages("load"):
            words = bool(self.inputs.feed.needs_words or self.inputs.questions)
            self.processor = load_processor(folder, image_text=self.inputs.image_text, trust_remote_code=trust, needed=words)
            if self.processor is None:
                self.events.write(Log("warning", "the model has no tokenizer, so that none is written beside the result"))
            self.inputs.feed.settle(self.processor)
            for note in self.inputs.feed.notes:
                self.events.write(Log("warning", note))
            model = load_model(folder, image_text=self.inputs.image_text, trust_remote_code=trust)
        before = self._evaluate("evaluate_original", model)
        with self.stages("quantize"):
            self._oneshot(model)
            if outside := keep_outside(model, self.staging):
                self.events.write(Log("info", f"{outside} layers or caches stand in {FOLDER}, which exports are made from"))
        with self.stages("check"):
            scales = check_scales(model, signed=self.inputs.recipe.autoround is not None)
            check_layers(model, self.plan.linears, self.plan.attention)
            self.events.write(Log("info", f"{scales} scales are finite and positive; the layers are those of the forecast"))
            probe = self._probe(model)
            with as_opened(model, self.plan.stacked):
                expected = _logits(model, probe)
        with self.stages("save"):
            save(model, self.processor, folder, self.staging, self.inputs.recipe)
        peak, on_device = peak_memory_bytes(), peak_bytes(self.device)
        del model
        gc.collect()
        with self.stages("reopen"):
            model = load_model(self.staging, image_text=self.inputs.image_text, trust_remote_code=trust)
            online = self.inputs.recipe.has_online_rotations
            with placed(model, self.device):  # where the other was, since every kind of device rounds in its own way
                difference = compare_logits(expected, _logits(model, probe), exact=not online)
        after = self._evaluate("evaluate_result", model)
        return self._result(before, after, difference, peak) | {"peak_device_memory_bytes": on_device}

    def _evaluate(self, stage: str, model: Any) -> Evaluation | None:
        if not self.inputs.questions:
            return None
        with self.stages(stage), placed(model, self.device):
            found = evaluate(
                model, self.processor, self.inputs.questions, lambda done, total: self.stages.told(done, total, "questions")
            )
        self.events.write(Metric(f"{stage}/exact_match", found.exact_match))
        self.events.write(Metric(f"{stage}/perplexity", found.perplexity))
        return found

    def _oneshot(self, model: Any) -> None:
        from llmcompressor import oneshot

        loader = self.inputs.feed.loader(model.dtype) if self.inputs.recipe.needs_calibration else None
        if self.plan.pipeline == "basic":
            # the other pipelines bring one layer at a time there
            moved(model, self.device, todo="choose cpu, or leave layers outside of the text decoder in float")
        unstack(model)
        dtypes = dtypes_of(model)
        role = "processor" if self.inputs.image_text else "tokenizer"
        try:
            count = len(self.inputs.samples)
            with gathering(model, self.plan.recipe, count, self.plan.pipeline, wanted=self.spec.statistics) as collector:
                oneshot(
                    model=model,
                    recipe=llmcompressor.dumps(self.plan.recipe),
                    dataset=loader,
                    num_calibration_samples=max(len(self.inputs.samples), 1),
                    pipeline=pipeline.NAME if self.plan.pipeline == "basic" else self.plan.pipeline,
                    trust_remote_code_model=self.spec.trust_remote_code,
                    **{role: self.processor or object()},  # without one it would look for files
                )
        except (ValueError, KeyError, AssertionError, AttributeError, TypeError, NotImplementedError) as error:
            what = f"llm-compressor stopped: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
            raise EngineError(what, where="quantize", todo="the traceback is in log.txt of the job") from error
        restore_dtypes(model, dtypes)
        take_codes(model)
        find_progressively(model, loader or ())
        find_sent(model, loader or ())
        if collector is not None:
            words = getattr(self.processor, "tokenizer", self.processor)
            self.gathered = keep(collector, model, self.folder, self.events, self._about(), words)
        elif self.spec.statistics:
            self.gathered = missing(why_not(self.plan.recipe, self.plan.pipeline), self.events)

    def _about(self) -> dict[str, Any]:
        """What the table of gathered statistics says of model and samples."""
        calibration = self.spec.calibration or ""
        return {
            "model": self.spec.model,
            "model_hash": model_hash(Path(self.spec.model)),
            "calibration": self.spec.calibration_path,
            "calibration_hash": hashlib.sha256(calibration.encode()).hexdigest(),
            "samples": [sample.where for sample in self.inputs.samples],
        }

    def _probe(self, model: Any) -> dict[str, Any]:
        """Inputs to compare logits on: the first sample, or a few tokens where there are none."""
        import torch

        if self.inputs.samples:
            return self.inputs.feed.first(model.dtype)
        limit = min(64, int(model.config.get_text_config().vocab_size))
        return {"input_ids": torch.arange(1, limit).unsqueeze(0)}

    def _result(self, before: Evaluation | None, after: Evaluation | None, difference: float, peak: int) -> dict[str, Any]:
        seconds = self.stages.seconds
        result: dict[str, Any] = {
            "out": self.spec.out,
            "bytes_before": folder_bytes(Path(self.spec.model)),
            "bytes_after": folder_bytes(self.staging),
            "peak_memory_bytes": peak,
            "peak_memory_with_checks_bytes": peak_memory_bytes(),
            "seconds": seconds,
            "seconds_total": round(sum(seconds.values()), 3),
            "layers_quantized": len(self.plan.linears),
            "layers_left": len(self.plan.left),
            "kv_layers": len(self.plan.attention),
            **self.inputs.feed.facts(),
            **self.gathered,
            "exact_match_before": before and before.exact_match,
            "exact_match_after": after and after.exact_match,
            "perplexity_before": before and before.perplexity,
            "perplexity_after": after and after.perplexity,
            "evaluation_samples": before and before.samples,
            "reopen_max_logit_difference": difference,
            "notes": [*self.plan.notes, *self.inputs.feed.notes],
            "device": str(self.device),
            "versions": {name: _version(name) for name in PACKAGES},
        }
        if result["token_hash"]:
            self.events.write(Log("info", f"the calibration's token ids have the hash {result['token_hash']}"))
        for name in ("bytes_before", "bytes_after", "peak_memory_bytes"):
            self.events.write(Metric(name, float(result[name]), "B"))
        for name in ("layers_quantized", "layers_left", "kv_layers"):
            self.events.write(Metric(name, float(result[name]), "layers"))
        return result


def compare_logits(expected: Any, found: Any, *, exact: bool = True) -> float:
    """Largest difference of two logits tensors (1, tokens, vocabulary).

    Args:
        exact: False where rotations of run time are missing from the re-opened model, so that only NaN is an error.

    Raises:
        ResultError: the re-opened folder gives other or no finite numbers.
    """
    import torch

    difference = float((expected - found).abs().max())
    limit = LOGIT_TOLERANCE * float(expected.abs().max())
    if not torch.isfinite(found).all() or (exact and not difference <= limit):
        what = f"the saved folder gives other logits than the model in memory: off by {difference:.4g}, {limit:.4g} is allowed"
        raise ResultError(what, where="reopen", todo="nothing was kept; please report the recipe and the model's architecture")
    return difference


def peak_memory_bytes() -> int:
    """The largest resident memory this process has had so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _logits(model: Any, inputs: dict[str, Any]) -> Any:
    import torch

    with torch.no_grad():  # not inference_mode: an NPU's parameter takes no inference tensor's data, which the engine gives it
        placed = {key: value.to(model.device) for key, value in inputs.items()}
        return model(**placed).logits.to("cpu", torch.float32)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"


__all__: Sequence[str] = ("compare_logits", "peak_memory_bytes", "quantize", "read_inputs")
