"""The pass over the calibration data: one sample after another through a watched model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from quantui.errors import CalibrationError, ResultError
from quantui.stats.collect import Collector, NotFiniteError
from quantui.stats.hooks import watching

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Observation:
    """What a pass left behind.

    Attributes:
        collector: its sites.
        ids: token ids of every sample, skipped ones too.
        skipped: what was wrong with the samples that were left out.
    """

    collector: Collector
    ids: list[list[int]] = field(default_factory=list)
    skipped: list[NotFiniteError] = field(default_factory=list)


def observe(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    detail: bool = False,
    not_finite: Literal["stop", "skip"] = "stop",
    wheres: list[str] | None = None,
    told: Callable[[int, int], None] = lambda _done, _tokens: None,
    skipped: Callable[[NotFiniteError], None] = lambda _error: None,
) -> Observation:
    """Runs every sample once and gathers what it does to every layer.

    Padding is taken off before a sample runs, so that it is neither computed nor counted.

    Args:
        model: in evaluation mode, where its passes should run.
        batches: model inputs, input_ids (rows, tokens) among them; a row is a sample.
        detail: see Collector.
        not_finite: what happens when an activation is NaN or infinite: stop, or leave the sample out.
        wheres: where each sample came from.
        told: called after each sample with how many are done and their tokens.
        skipped: called at once for each sample that is left out.

    Raises:
        NotFiniteError: there is such an activation, and it should stop.
        CalibrationError: a batch of several samples holds more than tokens.
        ResultError: no sample is left.
    """
    import torch

    collector = Collector(detail=detail, decoder=decoder_of(model), wheres=wheres)
    made, tokens = Observation(collector), 0
    with torch.no_grad(), watching(model, collector):
        for number, sample in enumerate(row for batch in batches for row in single_rows(batch)):
            ids = sample["input_ids"]
            made.ids.append(ids[0].tolist())
            collector.begin(number, int(ids.shape[1]))
            try:
                model(**{key: value.to(model.device) for key, value in sample.items()}, use_cache=False)
            except NotFiniteError as error:
                collector.drop()
                if not_finite == "stop":
                    raise
                made.skipped.append(error)
                skipped(error)
                continue
            collector.commit()
            tokens += int(ids.shape[1])
            told(number + 1, tokens)
    if not collector.sites:
        raise ResultError("no sample is left to take statistics of", where="calibration", todo="check the data and the model")
    return made


def single_rows(batch: Mapping[str, Any]) -> Iterator[dict[str, Tensor]]:
    """A batch as samples of one row without their padding, on whichever side it is.

    Raises:
        CalibrationError: it has several rows and tensors that do not go by tokens, as pictures.
    """
    import torch

    ids = batch["input_ids"]
    mask = batch.get("attention_mask")
    if ids.shape[0] == 1 and (mask is None or bool(mask.all())):
        yield dict(batch)
        return
    others = [key for key, value in batch.items() if tuple(value.shape[:2]) != tuple(ids.shape)]
    if others and ids.shape[0] > 1:
        what = f"a batch of {ids.shape[0]} samples holds {', '.join(others)}, which cannot be told apart by sample"
        raise CalibrationError(what, where="calibration", todo="give such samples one at a time")
    for row in range(ids.shape[0]):
        real = torch.ones_like(ids[row], dtype=torch.bool) if mask is None else mask[row].bool()
        if not bool(real.any()):
            continue
        yield {key: value if key in others else value[row : row + 1, real] for key, value in batch.items()}


def decoder_of(model: Any) -> str:
    """Prefix of the modules of the text decoder; "" where the model is nothing else."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    name = next((name for name, module in model.named_modules() if module is decoder), "")
    vision = any("vision" in child.lower() or "visual" in child.lower() for child, _ in model.named_modules())
    return f"{name}." if vision and name else ""
