"""Samples as batches of one, made when they are asked for; never all of them at once, never mapped into a table."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantui.calibration.render import render
from quantui.calibration.sample import Sample
from quantui.calibration.token_hash import TokenHash

if TYPE_CHECKING:
    import torch
    from torch.utils.data import DataLoader


def make_loader(
    samples: list[Sample],
    processor: Any,
    max_tokens: int,
    *,
    dtype: torch.dtype | None = None,
    seen: Callable[[int, int], None] = lambda _index, _tokens: None,
    hashed: TokenHash | None = None,
) -> DataLoader[Any]:
    """A DataLoader of exactly these samples in this order, one a batch.

    Args:
        dtype: of pixel values.
        seen: called with a sample's index and token count each time it is rendered.
        hashed: is given the token ids each time.

    Returns:
        Batches as `render` makes them; iterating raises what it raises.
    """
    from torch.utils.data import DataLoader

    class Rendered:
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            inputs = render(samples[index], processor, max_tokens, dtype=dtype)
            seen(index, int(inputs["input_ids"].shape[1]))
            if hashed is not None:
                hashed.add(index, inputs["input_ids"][0].tolist())
            return inputs

    return DataLoader(Rendered(), batch_size=1, shuffle=False, collate_fn=lambda batch: batch[0])
