"""Statistics that a quantize job gathers while the engine calibrates, without a pass of their own.

Only in passes that show the float model. A layer-by-layer pass does so if its modifier waits for the pass to end, as rounding
to nearest does, or changes layers so that what they compute stays the same, as smoothing does. With GPTQ, later layers see what
the quantized ones before them make of the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantui.events import EventWriter, Log
from quantui.recipe.llmcompressor.write import modifiers
from quantui.recipe.schema import Recipe
from quantui.stats.collect import Collector, NotFiniteError
from quantui.stats.hooks import watching
from quantui.stats.observe import Observation, decoder_of

SHOWING = ("QuantizationModifier", "KVCacheModifier", "SmoothQuantModifier", "AWQModifier")
"""Modifiers in whose layer-by-layer pass every layer sees what it sees in the float model."""

WHOLE = (*SHOWING, "GPTQModifier")
"""The same of a pass through the whole model, after which they start."""

FOLDER = "stats"
"""Where in the run folder the table goes."""

SHARE, LEAST, SAMPLES = 8, 4, 16
"""The first samples are looked at: one of eight, but no fewer and no more than these. Ranges hardly grow after so many, and a
calibration, long or short, takes little longer."""


def why_not(recipe: Recipe, pipeline: str) -> str:
    """Why the engine's first calibration pass does not show the float model; "" where it does.

    Args:
        pipeline: "basic" runs the whole model for all modifiers at once, "independent" layer after layer for each modifier.
    """
    if not recipe.needs_calibration:
        return "no statistics were gathered: the recipe needs no calibration data, so that no sample passes through the model"
    names = list(modifiers(recipe))
    told, allowed = (names, WHOLE) if pipeline == "basic" else (names[:1], SHOWING)
    changing = next((name for name in told if name not in allowed), None)
    if changing is None:
        return ""
    return f"no statistics were gathered: {changing} changes layers before the data reaches those behind them"


class EngineCollector(Collector):
    """A collector that is told by the engine's own count which sample passes by, in whatever order layers and samples come.

    It looks at the first pass alone, where the engine makes one for every modifier.

    Args:
        samples: how many the engine is given.
        decoder: see Collector.
        allowed: modifiers whose pass shows the float model.

    Attributes:
        ids: token ids by sample.
        broken: what was not finite; nothing is gathered after that.
    """

    def __init__(self, samples: int, *, decoder: str, allowed: tuple[str, ...] = SHOWING) -> None:
        from llmcompressor.core import active_session
        from llmcompressor.modifiers.utils.hooks import HooksMixin

        super().__init__(decoder=decoder)
        self._allowed, self._session, self._hooks = allowed, active_session, HooksMixin
        self._first: Any = None
        self._last = min(max(samples // SHARE, LEAST), SAMPLES)
        self.ids: dict[int, list[int]] = {}
        self.broken: NotFiniteError | None = None

    def see(self, name: str, role: Any, x: Any, **options: Any) -> None:
        """Looks at a tensor, if it belongs to one of the first samples of a calibration pass, not to tracing or propagating."""
        if self.broken is not None or not self._is_calibrating(x):
            return
        number = self._number()
        if number != self.sample:
            self.commit()
            self.begin(number, len(self.ids.get(number, ())))
        try:
            super().see(name, role, x, **options)
        except NotFiniteError as error:
            self.broken = error

    def read_ids(self, _module: Any, args: Any, _output: Any) -> None:
        """Keeps the token ids that reach the embedding."""
        if args and self._is_calibrating(args[0]):
            self.ids.setdefault(self._number(), args[0].reshape(-1).tolist())

    def _is_calibrating(self, x: Any) -> bool:
        import torch

        if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_meta or self._hooks._HOOKS_DISABLED:
            return False
        if not 0 <= self._number() < self._last:
            return False
        running = self._session().lifecycle.recipe.modifiers
        if self._first is None and all(type(modifier).__name__ in self._allowed for modifier in running):
            self._first = running[0]
        return self._first is not None and running[0] is self._first

    def _number(self) -> int:
        return int(self._session().state.current_batch_idx)


@contextmanager
def gathering(
    model: Any, recipe: Recipe, samples: int, pipeline: str = "independent", *, wanted: bool
) -> Iterator[EngineCollector | None]:
    """Watches the model while the engine calibrates it; None where nobody wants it or it would not show the float model."""
    if not wanted or why_not(recipe, pipeline):
        yield None
        return
    collector = EngineCollector(samples, decoder=decoder_of(model), allowed=WHOLE if pipeline == "basic" else SHOWING)
    handle = model.get_input_embeddings().register_forward_hook(collector.read_ids)
    try:
        with watching(model, collector):
            yield collector
    finally:
        handle.remove()


def keep(
    collector: EngineCollector, model: Any, folder: Path, events: EventWriter, meta: dict[str, Any], words: Any
) -> dict[str, Any]:
    """Writes the table into the run folder.

    Args:
        model: the quantized model, for names and sizes; its weights are no longer the original ones, so they are not looked at.
        folder: the run folder.
        meta: what stats.json holds beside the structure.
        words: the tokenizer.

    Returns:
        What the job's result says of it: where the table is and what it cost, or why there is none.
    """
    if collector.broken is not None:
        return missing(f"no statistics are kept: {collector.broken.what}", events)
    collector.commit()
    if not collector.sites:
        return missing("no statistics were gathered: no sample reached a layer that is looked at", events)
    from quantui.stats.finish import finish

    ids = [collector.ids.get(number, []) for number in range(max(collector.ids, default=-1) + 1)]
    seconds, wheres = round(collector.seconds, 3), meta["samples"]
    about = {"source": "quantize", "detail": False, "samples": wheres[: len(ids)], "samples_given": len(wheres)}
    table = finish(model, Observation(collector, ids), None, meta | about, words)
    (folder / FOLDER).mkdir(exist_ok=True)
    table.save(folder / FOLDER)
    seen = f"{len(ids)} of {len(wheres)} samples"
    events.write(Log("info", f"statistics of {len(table.layers)} layers were gathered from {seen} in {seconds:.1f} s"))
    return {"stats": str(folder / FOLDER), "stats_seconds": seconds, "stats_samples": len(ids)}


def missing(why: str, events: EventWriter) -> dict[str, Any]:
    """What the job's result says where there is no table; the log says it too."""
    events.write(Log("info", why))
    return {"stats_note": why}
