"""A conversation as the inputs of both models: one template, one picture, cut where the context ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from quantui.calibration.render import render
from quantui.calibration.sample import Sample, StoredPicture
from quantui.errors import CalibrationError

LETTERS_A_TOKEN = 16
"""Letters of a message beyond this many a token of the context are not even tokenized."""
WHERE = "the conversation"


@dataclass(frozen=True)
class Prompt:
    """What both models get.

    Attributes:
        inputs: tensors by name, one row.
        tokens: how many tokens it has.
        cut: tokens that were left out at its front, because the context is full; -1 where so much text was cut unread that it
            cannot be told.
        room: tokens that an answer may have; 0 where the model sets no limit.
    """

    inputs: dict[str, Any]
    tokens: int
    cut: int
    room: int

    def extended(self, ids: Sequence[int]) -> dict[str, Any]:
        """The inputs with the beginning of an answer behind them."""
        if not ids:
            return self.inputs
        more = torch.tensor([list(ids)], dtype=torch.long, device=self.inputs["input_ids"].device)
        made = {**self.inputs, "input_ids": torch.cat([self.inputs["input_ids"], more], dim=1)}
        made["attention_mask"] = torch.ones_like(made["input_ids"])
        return made


def make_prompt(
    messages: Sequence[Mapping[str, Any]],
    processor: Any,
    *,
    picture: bytes | None = None,
    context: int = 0,
    wanted: int = 256,
    dtype: Any = None,
    device: Any = "cpu",
) -> Prompt:
    """Messages through the chat template, ready for an answer.

    Args:
        messages: {role, content} in their order, the last one the user's.
        picture: the file that goes with the first message of the user.
        context: tokens that prompt and answer may have together; 0 for no limit.
        wanted: tokens that the answer may have.

    Raises:
        CalibrationError: there are no messages, the template refuses them, the picture cannot be read or does not fit, or the
            model reads none.
    """
    if not messages:
        raise CalibrationError("there is nothing to answer", where=WHERE, todo="write a message first")
    shortened, was_long = _shortened(messages, context)
    image = None if picture is None else StoredPicture([{"file": {"bytes": picture}}], 0, "file", "the picture")
    if image is not None and not hasattr(processor, "image_processor"):
        what = "this model reads no pictures"
        raise CalibrationError(what, where=WHERE, todo="take the picture out, or choose an image-text model")
    sample = Sample(WHERE, messages=shortened, image=image, complete=False)
    inputs = {name: value.to(device) for name, value in render(sample, processor, 1 << 30, dtype=dtype).items()}
    length = int(inputs["input_ids"].shape[1])
    most = context - min(wanted, max(context // 4, 1)) if context else length
    cut = max(length - most, 0)
    if cut and image is not None:
        what = f"the picture and the conversation take {length} tokens, more than the {most} there is room for"
        raise CalibrationError(what, where=WHERE, todo="begin a new conversation, or use a smaller picture")
    if cut:
        ids = inputs["input_ids"]
        inputs["input_ids"] = torch.cat([ids[:, :1], ids[:, cut + 1 :]], dim=1)  # the first token opens every text
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    kept = int(inputs["input_ids"].shape[1])
    return Prompt(inputs, kept, -1 if was_long else cut, context - kept if context else 0)


def _shortened(messages: Sequence[Mapping[str, Any]], context: int) -> tuple[tuple[dict[str, Any], ...], bool]:
    """The messages with the front of texts taken off that can never fit, and whether there was one."""
    most = context * LETTERS_A_TOKEN
    made = []
    was_long = False
    for message in messages:
        text = str(message["content"]).encode("utf-8", "replace").decode()  # half a surrogate pair is no text
        long = bool(most) and len(text) > most
        was_long = was_long or long
        made.append({"role": str(message["role"]), "content": text[-most:] if long else text})
    return tuple(made), was_long
