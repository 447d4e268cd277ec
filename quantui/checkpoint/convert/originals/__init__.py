"""The logits of a checkpoint in its original layout: what a conversion is proved against.

The authors' own model files do not run on today's libraries and are never executed here, so this folder computes the same sums
again, from the original tensor names. It shares no code with the conversion it checks. Importing it does not load torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quantui.checkpoint.convert.originals.known import kind_of, why_not
from quantui.errors import CheckpointError

if TYPE_CHECKING:
    import torch

__all__ = ["can_run", "logits", "why_not"]


def can_run(config: dict[str, Any]) -> bool:
    """Whether `logits` knows the architecture of this config.json, with the options it sets."""
    return not why_not(config)


def logits(
    config: dict[str, Any],
    read: Callable[[str], torch.Tensor],
    input_ids: torch.Tensor,
    pixel_values: torch.Tensor | None = None,
    image_token_id: int | None = None,
) -> torch.Tensor:
    """The next-token logits of the original model, one layer in memory at a time.

    Args:
        config: config.json of the original checkpoint.
        read: gives a tensor by its original name; it is asked for one whenever that is needed and keeps none alive.
        input_ids: (batch, length) int64 token ids without padding.
        pixel_values: (tiles, 3, height, width) normalized pictures, for InternVL only.
        image_token_id: the token that stands for a piece of a picture; needed together with pixel_values.

    Returns:
        (batch, length, vocabulary) float32.

    Raises:
        CheckpointError: the architecture, or an option it sets, is not known here; or the pictures do not fit the ids.
    """
    import torch

    from quantui.checkpoint.convert.originals import chatglm, internvl, language

    if reason := why_not(config):
        raise CheckpointError(reason, todo="convert it without comparing logits")
    with torch.inference_mode():
        if (kind := kind_of(config)) == "internvl_chat":
            return internvl.logits(config, read, input_ids, pixel_values, image_token_id)
        if pixel_values is not None:
            raise CheckpointError(f"{kind} takes no pictures", todo="leave out pixel_values")
        return (chatglm if kind == "chatglm" else language).logits(config, read, input_ids)
