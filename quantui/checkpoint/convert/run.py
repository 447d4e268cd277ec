"""A conversion as a job: plan, check, copy, read again, make the side files, compare logits."""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from quantui.checkpoint.convert import sidefiles
from quantui.checkpoint.convert.config import architecture
from quantui.checkpoint.convert.native import check_heads, check_native, native_class
from quantui.checkpoint.convert.plan import RECORD, Move, Plan, refuse
from quantui.checkpoint.convert.prepare import SIDE_KINDS, plan_of
from quantui.checkpoint.convert.stream import Source
from quantui.checkpoint.files import open_checkpoint
from quantui.checkpoint.write import WRITERS, Chunk, Entry, Span, lay_out, write_shards
from quantui.errors import CheckpointError, OutputError, ResultError
from quantui.events import Artifact, EventWriter, Log, Metric, Progress
from quantui.spec import ConvertSpec
from quantui.stages import Stages
from quantui.workspace import staged_folder, sweep_staging, write_json

TELL_SECONDS = 0.2
"""How often progress is told at most."""


def convert(spec: ConvertSpec, events: EventWriter, folder: Path) -> dict[str, Any]:
    """Carries out a convert job.

    Args:
        folder: the job's folder; nothing is written there but by the caller.

    Returns:
        The result as it stands in result.json: sizes in bytes, times in seconds.

    Raises:
        InputError: the source or target cannot work; every problem of the source is named at once.
        ResultError: the written folder is not the model that was read.
    """
    stages = Stages(events)
    with stages("start"):
        sweep_staging(Path(spec.out))
        plan = plan_of(spec)
        refuse(plan)
        events.write(Log("info", f"{plan.kind.source}: {len(plan.moves)} tensors to write, {len(plan.dropped)} to drop"))
        events.write(Log("info", "importing torch and transformers"))
        native_class(plan)
    with stages("check"):
        plan = check_heads(check_native(plan))
        refuse(plan)
    for note in plan.notes:
        events.write(Log("warning", note))
    with _disk_errors(spec), staged_folder(Path(spec.out)) as staging:
        result = _Conversion(spec, plan, events, stages, staging).run()
    events.write(Artifact("converted model", spec.out))
    return result


@contextmanager
def _disk_errors(spec: ConvertSpec) -> Iterator[None]:
    """Says what a file system could not do.

    Raises:
        CheckpointError: a file of the source could not be read.
        OutputError: the result could not be written.
    """
    try:
        yield
    except OSError as error:
        if str(error.filename or "").startswith(spec.model + os.sep):
            what, todo = f"it cannot be read ({error.strerror})", "check its permissions, and that nothing moves it meanwhile"
            raise CheckpointError(what, where=str(error.filename), todo=todo) from error
        what = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"it cannot be written ({error.strerror})"
        raise OutputError(what, where=spec.out, todo="free some space, or choose another disk") from error


class _Conversion:
    """The stages after the plan has held, in their order."""

    def __init__(self, spec: ConvertSpec, plan: Plan, events: EventWriter, stages: Stages, staging: Path) -> None:
        self.spec, self.plan, self.events, self.stages, self.staging = spec, plan, events, stages, staging
        self.moves = {move.target.name: move for move in plan.moves}
        self.digests: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """All stages; returns the result."""
        with Source(self.plan.source) as source:
            with self.stages("copy"):
                self._copy(source)
            with self.stages("reread"):
                self._read_again(source)
                sources = self._source_digests(source)
        with self.stages("files"):
            notes = self._write_files(sources)
        compared = None
        if self.spec.verify:
            with self.stages("verify"):
                compared = self._compare()
        return self._result(notes, compared)

    def _copy(self, source: Source) -> None:
        told = self._teller()

        def pieces(entry: Entry) -> Iterator[Chunk | Span]:
            for piece in source.pieces(self.moves[entry.name]):
                yield piece
                told(piece.length if isinstance(piece, Span) else len(piece))

        origins = {name: source.origin(move) for name, move in self.moves.items()}
        shards = lay_out([move.target for move in self.plan.moves], self.spec.max_shard_bytes, origins)
        write_shards(self.staging, shards, pieces)
        self._told_all()

    def _read_again(self, source: Source) -> None:
        """Every tensor as it stands in the new files against its source, read once more too.

        Raises:
            ResultError: one of them differs.
        """
        write_json(self.staging / "config.json", self.plan.config)  # which makes the folder a checkpoint
        written = open_checkpoint(self.staging)
        if set(written.tensors) != set(self.moves):
            raise ResultError("the new files hold other tensors than planned", todo="nothing was kept; please report this")
        told = self._teller()
        with Source(written) as target, ThreadPoolExecutor(WRITERS) as readers:

            def read(move: Move) -> tuple[str, str, str]:
                return move.target.name, target.digest(move.target.name, told), _digest(source, move)

            for name, found, expected in readers.map(read, self.plan.moves):
                if found != expected:
                    what = f"{name} reads back with checksum {found} where {expected} was copied"
                    todo = "nothing was kept; check the disk, and that nothing changes the source meanwhile"
                    raise ResultError(what, where=written.tensors[name].shard.name, todo=todo)
                self.digests[name] = found
        self._told_all()

    def _source_digests(self, source: Source) -> dict[str, str]:
        """Checksums of all source tensors; one that moves whole has been hashed already."""
        known = {}
        for name, move in self.moves.items():
            tensor = self.plan.source.tensors[move.parts[0].tensor]
            if len(move.parts) == 1 and tensor.nbytes == move.target.nbytes and tensor.dtype == move.target.dtype:
                known[tensor.name] = self.digests[name]
        return {name: known.get(name) or source.digest(name) for name in self.plan.source.tensors}

    def _write_files(self, sources: dict[str, str]) -> list[str]:
        plan, place = self.plan, self.plan.source.folder
        processor = Path(self.spec.processor_from) if self.spec.processor_from else None
        if plan.kind.name == "internvl-back":
            notes = sidefiles.write_github(place, plan.source.config, self.staging, plan.config, processor_from=processor)
        else:
            kind = SIDE_KINDS.get(plan.kind.name, plan.kind.name)
            notes = sidefiles.write_native(
                place, plan.source.config, self.staging, plan.config, kind=kind, processor_from=processor
            )
        for note in notes:
            self.events.write(Log("warning", note))
        write_json(self.staging / RECORD, self._record(sources))
        return [*plan.notes, *notes]

    def _record(self, sources: dict[str, str]) -> dict[str, Any]:
        source = self.plan.source
        return {
            "kind": self.plan.kind.name,
            "source": source.folder.name,
            "source_config": source.config,
            "source_files": {s.name: s.stat().st_size for s in sorted({t.shard for t in source.tensors.values()})},
            "checksum": "xxh3_128",
            "source_tensors": sources,
            "moves": [_described(move, self.digests[move.target.name]) for move in self.plan.moves],
            "dropped": self.plan.dropped,
            "aliases": self.plan.aliases,
            "versions": versions(),
        }

    def _compare(self) -> Any:
        from quantui.checkpoint.convert.verify import compare

        compared = compare(self.plan, self.staging)
        if compared is None:
            text = "logits were not compared: nothing here runs the source model; every tensor was read again instead"
            self.events.write(Log("warning", text))
        else:
            text = f"logits of both sides differ by {compared.difference:.3g} at most; the largest is {compared.largest:.3g}"
            self.events.write(Log("info", text))
            self.events.write(Metric("logit_difference", compared.difference))
        return compared

    def _result(self, notes: list[str], compared: Any) -> dict[str, Any]:
        plan, seconds = self.plan, self.stages.seconds
        shards = sorted(self.staging.glob("*.safetensors"))
        return {
            "out": self.spec.out,
            "conversion": plan.kind.name,
            "architecture": architecture(plan.config),
            "bytes_before": plan.source.nbytes,
            "bytes_after": sum(shard.stat().st_size for shard in shards),
            "shards": len(shards),
            "tensors": len(plan.moves),
            "tensors_reread": len(self.digests),
            "dropped": plan.dropped,
            "seconds": seconds,
            "seconds_total": round(sum(seconds.values()), 3),
            "logit_difference": compared.difference if compared else None,
            "logit_largest": compared.largest if compared else None,
            "verified_tokens": compared.tokens if compared else None,
            "notes": notes,
            "versions": versions(),
        }

    def _told_all(self) -> None:
        self.events.write(Progress(self.stages.current, self.plan.nbytes, self.plan.nbytes, "B", seconds_left=0.0))

    def _teller(self) -> Callable[[int], None]:
        """Counts bytes of this stage, and says so from time to time."""
        total, done, last, lock = max(self.plan.nbytes, 1), 0, 0.0, threading.Lock()

        def told(size: int) -> None:
            nonlocal done, last
            with lock:
                done += size
                if time.monotonic() - last > TELL_SECONDS:
                    last = time.monotonic()
                    self.stages.told(done, total, "B")

        return told


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what took part."""
    found = {}
    for name in ("quantui", "torch", "transformers", "safetensors"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "source"
    return found


def _digest(source: Source, move: Move) -> str:
    hashed = xxhash.xxh3_128()
    for chunk in source.stream(move):
        hashed.update(chunk)
    return hashed.hexdigest()


def _described(move: Move, digest: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "to": move.target.name,
        "dtype": move.target.dtype,
        "shape": list(move.target.shape),
        "from": [list(rows) for rows in move.parts],
        "checksum": digest,
    }
    return body | {"scale": move.scale} if move.scale else body
