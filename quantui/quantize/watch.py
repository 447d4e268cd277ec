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


def shows_originals(recipe: Recipe, pipeline: str) -> bool:
    """Whether the engine's first calibration pass shows the float model.

    Args:
        pipeline: "basic" runs the whole model for all modifiers at once, "independent" layer after layer for each modifier.
    """
    names = list(modifiers(recipe))
    told = names if pipeline == "basic" else names[:1]
    return recipe.needs_calibration and set(told) <= set(WHOLE if pipeline == "basic" else SHOWING)


class EngineCollector(Collector):
    """A collector that is told by the engine's own count which sample passes by, in whatever order layers and samples come.

    It looks at the first pass alone, where the engine makes one for every modifier.

    Args:
        decoder: see Collector.
        allowed: modifiers whose pass shows the float model.

    Attributes:
        ids: token ids by sample.
        broken: what was not finite; nothing is gathered after that.
    """

    def __init__(self, *, decoder: str, allowed: tuple[str, ...] = SHOWING) -> None:
        from llmcompressor.core import active_session
        from llmcompressor.modifiers.utils.hooks import HooksMixin

        super().__init__(decoder=decoder)
        self._allowed, self._session, self._hooks = allowed, active_session, HooksMixin
        self._first: Any = None
        self.ids: dict[int, list[int]] = {}
        self.broken: NotFiniteError | None = None

    def see(self, name: str, role: Any, x: Any, **options: Any) -> None:
        """Looks at a tensor, if it belongs to a calibration pass and not to tracing or to the pass that propagates."""
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

        if type(x) not in (torch.Tensor, torch.nn.Parameter) or x.is_meta or self._hooks._HOOKS_DISABLED or self._number() < 0:
            return False
        running = self._session().lifecycle.recipe.modifiers
        if self._first is None and all(type(modifier).__name__ in self._allowed for modifier in running):
            self._first = running[0]
        return self._first is not None and running[0] is self._first

    def _number(self) -> int:
        return int(self._session().state.current_batch_idx)


@contextmanager
def gathering(model: Any, recipe: Recipe, pipeline: str = "independent", *, wanted: bool) -> Iterator[EngineCollector | None]:
    """Watches the model while the engine calibrates it; None where nobody wants it or it would not show the float model."""
    if not wanted or not shows_originals(recipe, pipeline):
        yield None
        return
    collector = EngineCollector(decoder=decoder_of(model), allowed=WHOLE if pipeline == "basic" else SHOWING)
    handle = model.get_input_embeddings().register_forward_hook(collector.read_ids)
    try:
        with watching(model, collector):
            yield collector
    finally:
        handle.remove()


def keep(
    collector: EngineCollector | None, model: Any, folder: Path, events: EventWriter, meta: dict[str, Any], words: Any
) -> dict[str, Any]:
    """Writes the table into the run folder.

    Args:
        model: the quantized model, for names and sizes; its weights are no longer the original ones, so they are not looked at.
        folder: the run folder.
        meta: what stats.json holds beside the structure.
        words: the tokenizer.

    Returns:
        What the job's result says of it: {} where nothing was gathered.
    """
    if collector is None:
        return {}
    if collector.broken is not None:
        events.write(Log("warning", f"no statistics are kept: {collector.broken.what}"))
        return {}
    collector.commit()
    if not collector.sites:
        return {}
    from quantui.stats.finish import finish

    ids = [collector.ids.get(number, []) for number in range(max(collector.ids, default=-1) + 1)]
    seconds = round(collector.seconds, 3)
    table = finish(model, Observation(collector, ids), None, meta | {"source": "quantize", "detail": False}, words)
    (folder / FOLDER).mkdir(exist_ok=True)
    table.save(folder / FOLDER)
    events.write(Log("info", f"statistics of {len(table.layers)} layers were gathered in {seconds:.1f} s while calibrating"))
    return {"stats": str(folder / FOLDER), "stats_seconds": seconds}
