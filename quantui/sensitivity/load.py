"""The model that is scored: in float32 on a CPU, as it is stored elsewhere; how far its own dtype moves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantui.calibration.feed import Feed
from quantui.checkpoint.inspect import Linear
from quantui.devices import widest_float
from quantui.sensitivity.batches import TOKENS, Batch
from quantui.sensitivity.divergence import TILE

if TYPE_CHECKING:
    from torch import Tensor

LEAST_ROOM = 1 << 28
"""Bytes of activations, gradients and errors that a batch may take beside any model."""
ROOM_SHARE = 0.5
"""The same as a share of a large model."""
NOISE_TOKENS = 1024
"""Tokens that the noise floor is measured on."""


@dataclass
class Loaded:
    """A model to score.

    Attributes:
        model: in evaluation mode, where it runs.
        stored: the torch dtype its weights are stored in.
        processor: its tokenizer or processor.
    """

    model: Any
    stored: Any
    processor: Any

    def noise_floor(self, batches: Sequence[Batch]) -> float | None:
        """KL in nats a token between the model in its stored dtype and in float32; None where it runs in the stored one."""
        import torch

        model = self.model
        if model.dtype == self.stored:
            return None
        batch = batches[0]
        rows = max(NOISE_TOKENS // batch.real.shape[1], 1)
        if len(batch.samples) > 1:
            inputs = {key: value[:rows] for key, value in batch.inputs.items()}
            real = batch.real[:rows]
        else:
            inputs, real = batch.inputs, batch.real
        with torch.no_grad():
            plain = self._log_p(inputs, real)
            self._give(self.stored)
            try:
                halved = {k: v.to(self.stored) if v.is_floating_point() else v for k, v in inputs.items()}
                stored = self._log_p(halved, real)
            finally:
                self._give(torch.float32)
        return float((plain.exp() * (plain - stored)).sum(-1).mean())

    def _give(self, dtype: Any) -> None:
        """Weights in another dtype; buffers, as the frequencies of positions, stay as they are."""
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(dtype)

    def _log_p(self, inputs: dict[str, Any], real: Tensor) -> Tensor:
        import torch

        logits = self.model(**inputs, use_cache=False).logits
        kept = logits[real][: max(TILE // logits.shape[-1], 1)]
        return torch.log_softmax(kept.to(widest_float(kept.device)), -1)


def load(folder: Path, feed: Feed, device: Any, *, image_text: bool, trust: bool) -> Loaded:
    """The model on its device, and the samples settled with its tokenizer.

    Raises:
        InputError: it cannot be loaded, or no sample is left.
    """
    import torch

    from quantui.checkpoint.load import load_model
    from quantui.checkpoint.place import moved
    from quantui.checkpoint.processor import load_processor

    processor = load_processor(folder, image_text=image_text, trust_remote_code=trust)
    feed.settle(processor)
    model = load_model(folder, image_text=image_text, trust_remote_code=trust)
    stored = model.dtype
    if torch.device(device).type == "cpu" and stored in (torch.bfloat16, torch.float16):
        model = model.float()  # a CPU is slow in half precision, and rounds away what is to be measured
    todo = "score it by the method local, which takes one decoder layer at a time, or choose cpu"
    return Loaded(moved(model, torch.device(device), todo=todo), stored, processor)


def tokens_of_batch(model: Any, layers: Sequence[Linear], schemes: int) -> int:
    """Tokens of a batch whose errors and activations leave room."""
    width = sum(layer.out_features for layer in layers)
    size = 4 if str(model.dtype) == "torch.float32" else 2
    a_token = width * size * (schemes + 2)  # errors of each scheme, and what the backward pass keeps
    room = max(LEAST_ROOM, int(ROOM_SHARE * sum(parameter.nbytes for parameter in model.parameters())))
    return max(min(room // max(a_token, 1), TOKENS), 1)
