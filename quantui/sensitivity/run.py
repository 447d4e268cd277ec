"""The sensitivity job: a model folder, samples and a recipe in, scores of every layer in every scheme out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quantui import memory
from quantui.calibration import schema as calibration_schema
from quantui.calibration.feed import Feed
from quantui.checkpoint.files import Checkpoint, open_checkpoint
from quantui.checkpoint.inspect import Linear, check_loadable, linear_layers, summary_of
from quantui.devices import torch_device
from quantui.errors import CheckpointError, RecipeError
from quantui.events import Artifact, EventWriter, Log, Metric
from quantui.recipe import llmcompressor
from quantui.recipe.llmcompressor.edited import edited
from quantui.recipe.schema import Recipe
from quantui.recipe.size import float_bytes
from quantui.recipe.words import cache_words
from quantui.sensitivity.apply import applied, cached, check_belongs
from quantui.sensitivity.auto import Probe, Search
from quantui.sensitivity.candidates import (
    Candidate,
    cache_name,
    cache_schemes,
    candidates,
    chosen_schemes,
    fits,
    scope_hash,
    scored_layers,
)
from quantui.sensitivity.scores import Scores, Sizes, load_scores
from quantui.sensitivity.select import fallback_order, units_of
from quantui.spec import SensitivitySpec
from quantui.stages import Part, Stages
from quantui.stats.finish import model_hash
from quantui.vanished import ran_out
from quantui.workspace import staged_folder, sweep_staging, write_json

PARTIAL = "partial.json"
"""In the run folder: the table so far, written anew as the pass goes on."""
MEASURED = "measured.json"
PACKAGES = ("quantui", "torch", "transformers", "compressed-tensors")
STREAM_SHARE = 0.5
"""Share of the memory from which on a model is streamed by the method that can."""
EVERY = 0.4
"""Seconds between two partial tables."""
WORST = 10
"""Layers that the result names."""


def score(spec: SensitivitySpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out a sensitivity job.

    Args:
        folder: the job's folder; the table so far is written there.

    Returns:
        The result as it stands in result.json: KL in nats a token, sizes in bytes, times in seconds.

    Raises:
        InputError: the model, recipe, calibration or output cannot work.
    """
    stages = Stages(events)
    with stages("start"):
        feed, recipe, checkpoint = _read(spec)
        sweep_staging(Path(spec.out))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        events.write(Log("info", "importing torch and transformers"))
        device = torch_device(spec.device)
    with staged_folder(Path(spec.out)) as staging:
        job = _Job(spec, events, stages, feed, recipe, checkpoint, folder)
        result = job.run(device, staging)
        result |= {"out": spec.out, "seconds": stages.seconds, "seconds_total": round(sum(stages.seconds.values()), 3)}
        write_json(staging / "quantui.json", result | {"model": spec.model, "recipe": spec.recipe})
    events.write(Artifact("sensitivity", spec.out))
    return result


def score_part(spec: SensitivitySpec, events: EventWriter, stages: Stages) -> Scores:
    """The scores of a job that is part of another, which they fill one stage of; `spec.out` is a folder of that one.

    Raises:
        InputError: the model, recipe or calibration cannot work.
    """
    feed, recipe, checkpoint = _read(spec)
    folder = Path(spec.out)
    folder.mkdir(exist_ok=True)
    _Job(spec, events, Part(stages), feed, recipe, checkpoint, folder).run(torch_device(spec.device), folder)
    return load_scores(folder)


def _read(spec: SensitivitySpec) -> tuple[Feed, Recipe, Checkpoint]:
    """What needs no torch."""
    checkpoint = open_checkpoint(Path(spec.model))
    check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
    recipe = llmcompressor.loads(spec.recipe, where=spec.recipe_path)
    where = Path(spec.calibration_path)
    calibration = calibration_schema.loads(spec.calibration, where=str(where), base=where.parent)
    if spec.samples is not None:
        calibration = calibration.model_copy(update={"samples": min(spec.samples, calibration.samples)})
    return Feed(calibration, [Path(root) for root in spec.roots]), recipe, checkpoint


class _Job:
    """The stages between reading the inputs and writing the table."""

    def __init__(
        self, spec: SensitivitySpec, events: EventWriter, stages: Stages, feed: Feed, recipe: Recipe, checkpoint: Checkpoint,
        folder: Path,
    ) -> None:  # fmt: skip
        self.spec, self.events, self.stages, self.feed = spec, events, stages, feed
        self.recipe, self.checkpoint, self.folder = recipe, checkpoint, folder
        names = ("recipe", *spec.schemes) if spec.method in ("measure", "auto") else spec.schemes
        self.known = load_scores(Path(spec.scores)).schemes if spec.scores else candidates(recipe, names)
        self.notes: list[str] = list(_notes(recipe))
        self.inputs: dict[str, Any] = {}
        self.caches = cache_schemes(recipe)
        self.attention: dict[str, str] = {}  # keys or values of a layer -> how they are cached
        self._written = 0.0

    def run(self, device: Any, staging: Path) -> dict[str, Any]:
        """Everything; returns the result."""
        outgrown = self._outgrows(device)
        if outgrown and self.spec.method in ("fisher", "path"):
            self._note(f"the model is larger than what {device} has free, so the layers are scored without gradients")
        local = self.spec.method == "local" and (self.spec.stream or self._is_too_large())
        if local or (outgrown and self.spec.method in ("fisher", "path", "local")):
            try:
                return self._streamed(device, staging)
            except CheckpointError as error:
                if self.spec.stream or self.spec.method != "local":
                    raise
                self.events.write(Log("warning", str(error)))  # it may fit all the same
        from quantui.sensitivity.batches import make_batches, on_device
        from quantui.sensitivity.divergence import Tail
        from quantui.sensitivity.load import load, tokens_of_batch
        from quantui.sensitivity.rounding import Ranges, Rounding, find_ranges, size_of

        with self.stages("load"):
            image_text = summary_of(self.checkpoint).kind == "image-text"
            loaded = load(Path(self.spec.model), self.feed, device, image_text=image_text, trust=self.spec.trust_remote_code)
            for note in self.feed.notes:
                self.events.write(Log("warning", note))
            model = loaded.model
            self.layers = self._scored(model)
            most = tokens_of_batch(model, self.layers, len(self.known))
            image_token = getattr(model.config, "image_token_id", None)
            made = make_batches(self.feed.loader(model.dtype), tokens=most, image_token=image_token)
            batches = [on_device(batch, device, model.dtype) for batch in made]
            self.noise = loaded.noise_floor(batches)
            tail = Tail(model, batches[0])
        ranges: Ranges | None = None
        with self.stages("ranges"):
            if self.caches or any(candidate.is_static for candidate in self.known):
                ranges = find_ranges(model, tail, batches, caches=bool(self.caches))
                schemes = dict(zip(("key", "value"), map(cache_words, self.caches or ()), strict=False))
                self.attention = {cache_name(name, role): schemes[role] for name, role in ranges.caches}
                self.inputs = ranges.outliers()
        rounding = Rounding(self.known, ranges, loaded.stored, size_of(model), self.caches)
        if self.spec.method == "measure":
            return self._measure(model, tail, batches, rounding, staging)
        if self.spec.method == "auto":
            return self._auto(model, tail, batches, rounding, staging, loaded.processor)
        with self.stages("score"):
            scores = self._score(model, tail, batches, rounding)
        with self.stages("save"):
            scores.save(staging)
        return self._result(scores)

    def _is_too_large(self) -> bool:
        """Whether the model, as it is computed with, takes more of the memory than leaves room for anything else."""
        return 4 * summary_of(self.checkpoint).parameters > STREAM_SHARE * memory.limit()

    def _outgrows(self, device: Any) -> bool:
        """Whether the model, as it is stored, takes more than an accelerator has free beside what a pass makes."""
        from quantui.checkpoint.place import ROOM, free_bytes

        return device.type != "cpu" and self.checkpoint.nbytes + ROOM > free_bytes(device)

    def _note(self, what: str) -> None:
        self.notes.append(what)
        self.events.write(Log("warning", what))

    def _streamed(self, device: Any, staging: Path) -> dict[str, Any]:
        """The method local with one decoder layer in memory at a time."""
        from quantui.checkpoint.processor import load_processor
        from quantui.sensitivity.batches import make_batches, on_device
        from quantui.sensitivity.streamed import Streamed, local_streamed

        with self.stages("load"):
            folder, trust = Path(self.spec.model), self.spec.trust_remote_code
            image_text = summary_of(self.checkpoint).kind == "image-text"
            streamed = Streamed(self.checkpoint, device, image_text=image_text, trust_remote_code=trust)
            self.feed.settle(load_processor(folder, image_text=image_text, trust_remote_code=trust))
            for note in self.feed.notes:
                self.events.write(Log("warning", note))
            self.layers, self.noise = self._scored(streamed.model), None
            made = make_batches(self.feed.loader(streamed.dtype))
            batches = [on_device(batch, device, streamed.dtype) for batch in made]
            self.events.write(Log("info", "one decoder layer is in memory at a time"))
        with self.stages("score"):
            began, frame = time.monotonic(), self._frame()
            told = self._told(len(streamed.blocks), frame.of_local, "decoder layers")
            found, inputs = local_streamed(streamed, batches, self.known, self._wanted(), told=told)
            scores = self._finished(frame.of_local(found), began)
            scores.meta["inputs"] = inputs
        with self.stages("save"):
            scores.save(staging)
        return self._result(scores)

    def _wanted(self) -> dict[str, tuple[int, ...]]:
        return {layer.name: tuple(i for i, one in enumerate(self.known) if fits(layer, one)) for layer in self.layers}

    def _frame(self) -> Any:
        from quantui.sensitivity.table import Frame

        return Frame(self.layers, self.known, sizes_of(self.checkpoint, self.layers), self._meta(), self.attention)

    def _scored(self, model: Any) -> list[Linear]:
        from quantui.sensitivity.sites import sites_of

        there = {site.name: place for place, site in enumerate(sites_of(model))}
        found = [layer for layer in scored_layers(self.recipe, linear_layers(self.checkpoint)) if layer.name in there]
        if not found:
            what = "the recipe's targets take no layer that could be scored"
            raise RecipeError(what, where=self.spec.recipe_path, todo="shorten ignore, or widen the targets")
        return sorted(found, key=lambda layer: there[layer.name])

    def _score(self, model: Any, tail: Any, batches: Any, rounding: Any) -> Scores:
        from quantui.sensitivity.exact import exact
        from quantui.sensitivity.fisher import fisher
        from quantui.sensitivity.local import local
        from quantui.sensitivity.path import path

        began, wanted, frame = time.monotonic(), self._wanted(), self._frame()
        method, total = self.spec.method, len(batches)
        if method in ("fisher", "exact"):
            wanted |= dict.fromkeys(self.attention, (len(self.known),))
        if method == "exact":
            told = self._told(total, lambda found: frame.of_divergences("exact", found))
            return self._finished(
                frame.of_divergences("exact", exact(model, tail, batches, rounding, wanted, told=told)), began
            )
        try:
            if method == "fisher":
                told = self._told(total, frame.of_products)
                found = fisher(model, tail, batches, rounding, wanted, draws=self.spec.draws, told=told)
                return self._finished(frame.of_products(found), began)
            if method == "path":
                told = self._told(total, lambda found: frame.of_divergences("path", found))
                return self._finished(
                    frame.of_divergences("path", path(model, tail, batches, rounding, wanted, told=told)), began
                )
        except (RuntimeError, NotImplementedError) as error:
            if ran_out(error):
                raise
            self._note(f"the model cannot be differentiated, so the layers are scored without gradients ({str(error)[:200]})")
        told = self._told(total, frame.of_local)
        return self._finished(frame.of_local(local(model, batches, rounding, wanted, told=told)), began)

    def _told(self, total: int, shown: Callable[[Any], Scores], what: str = "batches") -> Callable[[int, Any], None]:
        def told(done: int, found: Any) -> None:
            self.stages.told(done, total, what)
            if time.monotonic() - self._written > EVERY and done < total:
                self._written = time.monotonic()
                write_json(self.folder / PARTIAL, shown(found).as_json())

        return told

    def _finished(self, scores: Scores, began: float) -> Scores:
        scores.meta["score_seconds"] = round(time.monotonic() - began, 3)
        scores.meta["notes"] = self.notes
        return scores

    def _meta(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "model": spec.model,
            "model_hash": model_hash(Path(spec.model)),
            "calibration": spec.calibration_path,
            "calibration_hash": hashlib.sha256(spec.calibration.encode()).hexdigest(),
            "recipe": spec.recipe_path,
            "recipe_hash": scope_hash(self.recipe, self.known),
            "draws": spec.draws if spec.method == "fisher" else None,
            "noise_floor": self.noise,
            "sample_wheres": [sample.where for sample in self.feed.samples],
            "inputs": self.inputs,
            "notes": self.notes,
            "versions": {name: _version(name) for name in PACKAGES},
        }

    def _measure(self, model: Any, tail: Any, batches: Any, rounding: Any, staging: Path) -> dict[str, Any]:
        from quantui.sensitivity.exact import measure
        from quantui.sensitivity.scores import estimate

        names = [layer.name for layer in self.layers]
        schemes = chosen_schemes(self.recipe, names, self.known)
        place = {candidate.name: i for i, candidate in enumerate(self.known)}
        choice = {name: place[scheme] for name, scheme in schemes.items() if scheme in place}
        cached = dict.fromkeys(self.attention, len(self.known))
        with self.stages("score"):
            told: Callable[[int], None] = lambda done: self.stages.told(done, len(batches), "batches")  # noqa: E731
            found = measure(model, tail, batches, rounding, [choice | cached], told)
        sums = sum(_joined(rows) for rows in found.rows.values())
        mean, error = estimate(sums, found.tokens)
        scored = sum(stored(layer, self.known[choice[layer.name]] if layer.name in choice else None) for layer in self.layers)
        sizes = sizes_of(self.checkpoint, self.layers)
        with self.stages("save"):
            body = self._meta() | {"kl": float(mean[0]), "stderr": float(error[0]), "scored_bytes": scored}
            body |= {
                "bytes": sizes.total(scored),
                "bits_per_weight": sizes.bits(scored),
                "choice": schemes,
                "cached": self.attention,
            }
            write_json(staging / MEASURED, body)
        self.events.write(Metric("kl", body["kl"], "nats/token"))
        return {key: body[key] for key in ("kl", "stderr", "bytes", "bits_per_weight", "scored_bytes", "choice")} | {
            "method": "measure", "samples": len(found.samples), "tokens": sum(found.tokens),
        }  # fmt: skip

    def _auto(self, model: Any, tail: Any, batches: Any, rounding: Any, staging: Path, processor: Any) -> dict[str, Any]:
        from quantui.evaluation.measure import evaluate
        from quantui.evaluation.questions import read_questions
        from quantui.sensitivity.exact import measure, quantized

        spec, place = self.spec, {candidate.name: i for i, candidate in enumerate(self.known)}
        assert spec.scores is not None and spec.target is not None
        scores = load_scores(Path(spec.scores))
        check_belongs(scores, self.recipe, model_hash(Path(spec.model)))
        questions = read_questions(Path(spec.evaluation), [Path(root) for root in spec.roots]) if spec.evaluation else []
        start = chosen_schemes(self.recipe, scores.names, scores.schemes)
        inputs = [spec.calibration, str(spec.samples), json.dumps(self.attention), *(question.answer for question in questions)]
        out = Path(spec.out)
        kept = out.with_name(f".{out.name}.probes.json")
        search = Search(scores, start, spec.target, kept, inputs, cached(scores, self.recipe))

        def probe(choice: Mapping[str, str]) -> tuple[float, float | None]:
            numbers = {name: place[scheme] for name, scheme in choice.items() if scheme in place}
            numbers |= dict.fromkeys(self.attention, len(self.known))
            found = measure(model, tail, batches, rounding, [numbers])
            kl = float(sum(_joined(rows).sum() for rows in found.rows.values())) / sum(found.tokens)
            if spec.target is None or spec.target[0] == "kl":
                return kl, None
            with quantized(model, rounding, numbers):
                return kl, evaluate(model, processor, questions, lambda _done, _total: None).exact_match

        def told(made: Probe, left: int) -> None:
            self.stages.told(len(search.probes), len(search.probes) + left, "probes")
            right = "" if made.exact_match is None else f", exact match {made.exact_match:.1%}"
            self.events.write(Log("info", f"L{made.level}: KL {made.kl:.5f}, foretold {made.foretold:.5f}{right}"))

        with self.stages("score"):
            found = search.run(probe, told)
        with self.stages("save"):
            made = applied(self.recipe, scores, search.choice(found.level))
            (staging / "recipe.yaml").write_text(edited(spec.recipe, self.recipe, made), encoding="utf-8")
            probes = [asdict(search.probes[level]) for level in sorted(search.probes)]
            write_json(staging / "auto.json", self._meta() | {"target": spec.target, "probes": probes, "level": found.level})
        kept.unlink(missing_ok=True)
        return {"method": "auto", "probes": probes, "recipe": str(out / "recipe.yaml"), **asdict(found)}

    def _result(self, scores: Scores) -> dict[str, Any]:
        units = units_of(scores)
        own = self.known[0].name
        order = fallback_order(units, {unit.name: own for unit in units})[:WORST]
        known = {unit.name: unit for unit in units}
        return {
            "method": scores.method,
            "asked": self.spec.method,
            "samples": scores.meta["samples"],
            "tokens": scores.meta["tokens"],
            "layers": len(self.layers),
            "schemes": [candidate.name for candidate in self.known],
            "score_seconds": scores.meta["score_seconds"],
            "noise_floor": self.noise,
            "worst": [{"group": name, "scheme": own, "kl": known[name].option(own).kl} for name in order],
            "notes": self.notes,
            "versions": scores.meta["versions"],
        }


def sizes_of(checkpoint: Checkpoint, layers: list[Linear]) -> Sizes:
    """What a model's sizes are computed from."""
    linears = linear_layers(checkpoint)
    scored = sum(float_bytes(layer) for layer in layers)
    every = sum(float_bytes(layer) for layer in linears)
    return Sizes(checkpoint.nbytes - scored, every - scored, sum(layer.parameters for layer in linears))


def stored(layer: Linear, candidate: Candidate | None) -> int:
    """Bytes of a layer in a scheme."""
    from quantui.sensitivity.candidates import stored_bytes

    return stored_bytes(layer, candidate)


def _notes(recipe: Recipe) -> list[str]:
    """What the scores do not see of a recipe."""
    methods = ("gptq", "autoround", "hqq", "smoothquant", "awq", "outliers", "sparse")
    found = [field for field in methods if getattr(recipe, field) is not None]
    if recipe.engine_modifiers:
        found += [modifier.name for modifier in recipe.engine_modifiers]
    if not found:
        return []
    return [f"layers are scored as rounding to nearest makes them, without the recipe's {', '.join(found)}"]


def _joined(rows: Any) -> Any:
    import numpy as np

    return np.concatenate([one.numpy() for one in rows])


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"
