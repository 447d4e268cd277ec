"""Statistics that a quantize job gathers while the engine calibrates, without a pass of their own.

Only where the engine's passes show the original activations: a recipe that rounds to nearest with scales from data, and nothing
else. Others change weights layer by layer, so that what later layers see is no longer the float model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from quantui.events import EventWriter, Log
from quantui.recipe.schema import Recipe
from quantui.stats.collect import Collector, NotFiniteError
from quantui.stats.hooks import watching
from quantui.stats.observe import Observation, decoder_of

CHANGING = ("gptq", "autoround", "hqq", "smoothquant", "awq", "outliers", "sparse", "fallback", "engine_modifiers")
"""Fields of a recipe that change weights or activations during calibration."""

FOLDER = "stats"
"""Where in the run folder the table goes."""


def shows_originals(recipe: Recipe) -> bool:
    """Whether the engine's calibration runs the float model, once, on all samples."""
    return recipe.needs_calibration and not any(getattr(recipe, name, None) for name in CHANGING)


class EngineCollector(Collector):
    """A collector that is told by the engine's own count which sample passes by, in whatever order layers and samples come.

    Attributes:
        ids: token ids by sample.
        broken: what was not finite; nothing is gathered after that.
    """

    def __init__(self, *, decoder: str) -> None:
        super().__init__(decoder=decoder)
        self.ids: dict[int, list[int]] = {}
        self.broken: NotFiniteError | None = None

    def see(self, name: str, role: Any, x: Any, **options: Any) -> None:
        """Looks at a tensor, if it belongs to a calibration pass and not to tracing or to the pass that propagates."""
        if self.broken is not None or not _is_calibrating(x):
            return
        number = _sample()
        if number != self.sample:
            self.commit()
            self.begin(number, len(self.ids.get(number, ())))
        try:
            super().see(name, role, x, **options)
        except NotFiniteError as error:
            self.broken = error

    def read_ids(self, _module: Any, args: Any, _output: Any) -> None:
        """Keeps the token ids that reach the embedding."""
        if args and _is_calibrating(args[0]):
            self.ids.setdefault(_sample(), args[0].reshape(-1).tolist())


@contextmanager
def gathering(model: Any, recipe: Recipe, *, wanted: bool) -> Iterator[EngineCollector | None]:
    """Watches the model while the engine calibrates it; None where nobody wants it or it would not show the float model."""
    if not wanted or not shows_originals(recipe):
        yield None
        return
    collector = EngineCollector(decoder=decoder_of(model))
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


def _is_calibrating(x: Any) -> bool:
    import torch
    from llmcompressor.modifiers.utils.hooks import HooksMixin

    return type(x) in (torch.Tensor, torch.nn.Parameter) and not x.is_meta and _sample() >= 0 and not HooksMixin._HOOKS_DISABLED


def _sample() -> int:
    from llmcompressor.core import active_session

    return int(active_session().state.current_batch_idx)
