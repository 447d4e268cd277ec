"""One sample as the model gets it: through its own chat template and processor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quantui.calibration.pictures import open_picture
from quantui.calibration.sample import Sample
from quantui.calibration.template import chat_text, has_template, with_picture
from quantui.errors import CalibrationError

if TYPE_CHECKING:
    import torch


def render(sample: Sample, processor: Any, max_tokens: int, *, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """The model's inputs for one sample.

    Args:
        processor: a tokenizer, or for pictures a processor that holds one.
        max_tokens: text is cut to this many tokens; a picture's own tokens are never cut.
        dtype: of pixel values; None leaves them float32.

    Returns:
        input_ids and attention_mask (1, tokens) int64, and for a picture pixel_values (tiles, 3, height, width).

    Raises:
        CalibrationError: the template or processor refuses the sample, a picture cannot be read, or nothing is left of it.
    """
    import torch

    tokenizer = getattr(processor, "tokenizer", processor)
    if sample.tokens is not None:
        inputs = _stored_tokens(sample)
    elif sample.ids is not None:
        inputs = {"input_ids": torch.tensor([sample.ids], dtype=torch.long)}
    elif sample.image is not None:
        inputs = _picture(sample, processor, max_tokens)
    else:
        ids = text_ids(sample, tokenizer)[:max_tokens]
        inputs = {"input_ids": torch.tensor([ids], dtype=torch.long)}
    if inputs["input_ids"].numel() == 0:
        raise CalibrationError("nothing is left of the sample: it has no tokens", where=sample.where, todo="give it text")
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if dtype is not None and "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return inputs


def text_ids(sample: Sample, tokenizer: Any) -> list[int]:
    """All token ids of a sample without a picture, uncut."""
    if sample.ids is not None:
        return list(sample.ids)
    if sample.tokens is not None:
        return [int(token) for token in _stored_tokens(sample)["input_ids"][0].tolist()]
    if sample.text is not None:
        return list(tokenizer(sample.text)["input_ids"])
    text = chat_text(sample.messages, tokenizer, complete=sample.complete, where=sample.where)
    return list(tokenizer(text, add_special_tokens=not has_template(tokenizer))["input_ids"])


def _picture(sample: Sample, processor: Any, max_tokens: int) -> dict[str, Any]:
    if not hasattr(processor, "image_processor"):
        todo = "choose an image-text model, or calibrate this one with text"
        raise CalibrationError("the model reads no pictures, but the calibration holds some", where=sample.where, todo=todo)
    template = processor if getattr(processor, "chat_template", None) else processor.tokenizer
    text = chat_text(with_picture(sample.messages), template, complete=sample.complete, where=sample.where)
    picture = open_picture(sample)
    todo = "check that the chat template holds the image placeholder once for the picture, and the question none"
    try:
        inputs = dict(processor(text=[text], images=[picture], return_tensors="pt", add_special_tokens=False))
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, StopIteration) as error:
        raise CalibrationError(f"the model's processor refuses the sample ({error})", where=sample.where, todo=todo) from error
    image_token = getattr(processor, "image_token_id", None)
    if image_token is not None and not (inputs["input_ids"] == image_token).any():
        raise CalibrationError("the chat template leaves no place for the picture", where=sample.where, todo=todo)
    return _cut(inputs, processor, max_tokens, sample)


def _cut(inputs: dict[str, Any], processor: Any, max_tokens: int, sample: Sample) -> dict[str, Any]:
    """Inputs of at most `max_tokens` tokens, if that leaves every image token in place."""
    ids = inputs["input_ids"]
    if ids.shape[1] <= max_tokens:
        return inputs
    image_token = getattr(processor, "image_token_id", None)
    if image_token is not None and (ids[0, max_tokens:] == image_token).any():
        count = int((ids == image_token).sum())
        what = f"the picture alone takes {count} tokens, more than max_tokens {max_tokens} leaves room for"
        raise CalibrationError(what, where=sample.where, todo="raise max_tokens, or use smaller pictures")
    return {key: value[:, :max_tokens] if value.shape[:2] == ids.shape else value for key, value in inputs.items()}


def _stored_tokens(sample: Sample) -> dict[str, Any]:
    from safetensors import safe_open

    assert sample.tokens is not None
    path, row = sample.tokens
    with safe_open(str(path), framework="pt") as file:
        return {"input_ids": file.get_slice("input_ids")[row : row + 1]}
