"""The statistics job: a model folder and samples in, a table of what calibration saw out."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from quantui.calibration import schema as calibration_schema
from quantui.calibration.feed import Feed
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.inspect import check_loadable, summary_of
from quantui.checkpoint.place import peak_bytes, placed
from quantui.devices import torch_device
from quantui.events import Artifact, EventWriter, Log, Metric
from quantui.spec import StatsSpec
from quantui.stages import Stages
from quantui.stats.collect import NotFiniteError
from quantui.stats.overview import offenders
from quantui.stats.table import TENSORS, StatsTable
from quantui.workspace import staged_folder, sweep_staging, write_json

PACKAGES = ("quantui", "torch", "transformers")
SHOWN = 10
"""Channels that stand out which the result names."""


def collect(spec: StatsSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out a statistics job.

    Args:
        folder: the job's folder; nothing is written there but by the caller.

    Returns:
        The result as it stands in result.json: sizes in bytes, times in seconds.

    Raises:
        InputError: the model, calibration or output cannot work.
        RunError: an activation is not finite, or no sample is left.
    """
    stages = Stages(events)
    with stages("start"):
        checkpoint = open_checkpoint(Path(spec.model))
        check_loadable(checkpoint, trust_remote_code=spec.trust_remote_code)
        where = Path(spec.calibration_path)
        calibration = calibration_schema.loads(spec.calibration, where=str(where), base=where.parent)
        feed = Feed(calibration, [Path(root) for root in spec.roots])
        sweep_staging(Path(spec.out))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        events.write(Log("info", "importing torch and transformers"))
        device = torch_device(spec.device)
    with staged_folder(Path(spec.out)) as staging:
        job = _Job(spec, events, stages, feed, image_text=summary_of(checkpoint).kind == "image-text")
        table, result = job.run(device)
        with stages("save"):
            table.save(staging)
            if spec.lmdeploy:
                from quantui.stats.lmdeploy import export

                export(table, staging)
        result |= {"bytes": (staging / TENSORS).stat().st_size, "seconds": stages.seconds}
        result["seconds_total"] = round(sum(stages.seconds.values()), 3)
        write_json(staging / "quantui.json", result | {"model": spec.model, "calibration": spec.calibration})
    events.write(Artifact("statistics", spec.out))
    return result


class _Job:
    """The stages between reading the inputs and writing the table."""

    def __init__(self, spec: StatsSpec, events: EventWriter, stages: Stages, feed: Feed, *, image_text: bool) -> None:
        self.spec, self.events, self.stages, self.feed, self.image_text = spec, events, stages, feed, image_text

    def run(self, device: Any) -> tuple[StatsTable, dict[str, Any]]:
        """Everything; returns the table and the result."""
        from quantui.checkpoint.load import load_model
        from quantui.checkpoint.processor import load_processor
        from quantui.stats.finish import finish, model_hash
        from quantui.stats.observe import observe
        from quantui.stats.weights import look_at_weights

        spec, folder = self.spec, Path(self.spec.model)
        with self.stages("load"):
            needed, trust = self.feed.needs_words, spec.trust_remote_code
            processor = load_processor(folder, image_text=self.image_text, trust_remote_code=trust, needed=needed)
            self.feed.settle(processor)
            for note in self.feed.notes:
                self.events.write(Log("warning", note))
            model = load_model(folder, image_text=self.image_text, trust_remote_code=spec.trust_remote_code)
        wheres = [sample.where for sample in self.feed.samples]
        weights = None
        with placed(model, device):
            with self.stages("observe"):
                began = time.perf_counter()
                made = observe(
                    model,
                    self.feed.loader(model.dtype),
                    detail=spec.detail,
                    not_finite=spec.not_finite,
                    wheres=wheres,
                    told=lambda done, _tokens: self.stages.told(done, len(wheres), "samples"),
                    skipped=self._left_out,
                )
                share = made.collector.seconds / max(time.perf_counter() - began, 1e-9)
                self.events.write(Metric("statistics_share", share))
                self.events.write(
                    Log("info", f"looking at activations took {share:.0%} of the pass; the model itself the rest")
                )
            if spec.weights:
                with self.stages("weights"):
                    weights = look_at_weights(model, lambda done, total: self.stages.told(done, total, "layers"))
        meta = {
            "model": spec.model,
            "architecture": type(model).__name__,
            "model_hash": model_hash(folder),
            "calibration": spec.calibration_path,
            "calibration_hash": hashlib.sha256(spec.calibration.encode()).hexdigest(),
            "samples": wheres,
            "detail": spec.detail,
            "source": "quantui stats",
            "versions": {name: _version(name) for name in PACKAGES},
        }
        counts = {"samples": len(made.ids) - len(made.skipped), "skipped": len(made.skipped)}
        counts["tokens"] = sum(map(len, made.ids)) - sum(len(made.ids[error.sample]) for error in made.skipped)
        table = finish(model, made, weights, meta, getattr(processor, "tokenizer", processor))
        return table, self._result(table, counts, share) | {"peak_device_memory_bytes": peak_bytes(device)}

    def _left_out(self, error: NotFiniteError) -> None:
        self.events.write(Log("warning", f"sample left out: {error.where}: {error.what}"))

    def _result(self, table: StatsTable, counts: dict[str, int], share: float) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return {
            "out": self.spec.out,
            **counts,
            "layers": len(table.layers),
            "kv_layers": len(table.attention),
            "statistics_share": round(share, 4),
            "peak_memory_bytes": peak,
            "offenders": [vars(one) | {"layers": list(one.layers)} for one in offenders(table, limit=SHOWN)],
            "versions": table.meta["versions"],
        }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "source"
