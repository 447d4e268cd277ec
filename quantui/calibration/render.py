"""One sample as the model gets it: through its own chat template and processor."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from PIL import Image

from quantui.calibration.sources import Sample
from quantui.errors import CalibrationError

if TYPE_CHECKING:
    import torch

PIXEL_LIMIT = 64_000_000
"""Pictures with more pixels are refused before they are decoded."""

BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises of files that are no pictures, or broken ones; found by feeding it those."""


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
    elif sample.image is not None:
        inputs = _picture(sample, processor, max_tokens)
    else:
        ids = _text_ids(sample, tokenizer)[:max_tokens]
        inputs = {"input_ids": torch.tensor([ids], dtype=torch.long)}
    if inputs["input_ids"].numel() == 0:
        raise CalibrationError("nothing is left of the sample: it has no tokens", where=sample.where, todo="give it text")
    inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
    if dtype is not None and "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(dtype)
    return inputs


def chat_text(messages: tuple[dict[str, Any], ...], tokenizer: Any, *, complete: bool, where: str) -> str:
    """Messages through the model's chat template; a model without one gets "role: content" lines.

    Raises:
        CalibrationError: the template refuses them.
    """
    import jinja2

    if not getattr(tokenizer, "chat_template", None):
        lines = [f"{m['role']}: {_plain(m['content'])}" for m in messages]
        return "\n".join(lines) + ("" if complete else "\nassistant:")
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=not complete))
    except (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError) as error:
        todo = "reorder its roles, or remove the sample"
        raise CalibrationError(f"the model's chat template refuses the messages ({error})", where=where, todo=todo) from error


def open_picture(sample: Sample) -> Image.Image:
    """The sample's picture as RGB, decoded whole and turned as its EXIF says.

    Raises:
        CalibrationError: it is too large, truncated or no picture.
    """
    from PIL import ImageOps

    with _opened(sample) as picture:
        return _eight_bits(ImageOps.exif_transpose(picture)).convert("RGB")


def check_picture(sample: Sample) -> None:
    """Looks at the header of the sample's picture only.

    Raises:
        CalibrationError: it is too large or no picture.
    """
    with _opened(sample):
        pass


@contextmanager
def _opened(sample: Sample) -> Iterator[Image.Image]:
    assert sample.image is not None
    todo = "replace the picture or remove the row"
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(sample.image) as picture:  # of Pillow about odd metadata
            if picture.width * picture.height > PIXEL_LIMIT:
                what = f"the picture has {picture.width}x{picture.height} pixels, more than {PIXEL_LIMIT // 10**6} million"
                raise CalibrationError(what, where=str(sample.image), todo=todo)
            yield picture
    except BROKEN as error:
        raise CalibrationError(f"the picture cannot be read ({error})", where=str(sample.image), todo=todo) from error


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits as one of 8, where `convert` would turn everything over 255 white; others as they are."""
    import numpy as np

    if not picture.mode.startswith("I"):
        return picture
    pixels = np.asarray(picture)
    return Image.fromarray((pixels >> 8 if pixels.max(initial=0) > 255 else pixels).astype(np.uint8))


def _text_ids(sample: Sample, tokenizer: Any) -> list[int]:
    if sample.text is not None:
        return list(tokenizer(sample.text)["input_ids"])
    text = chat_text(sample.messages, tokenizer, complete=sample.complete, where=sample.where)
    has_template = bool(getattr(tokenizer, "chat_template", None))
    return list(tokenizer(text, add_special_tokens=not has_template)["input_ids"])


def _picture(sample: Sample, processor: Any, max_tokens: int) -> dict[str, Any]:
    if not hasattr(processor, "image_processor"):
        todo = "choose an image-text model, or calibrate this one with text"
        raise CalibrationError("the model reads no pictures, but the calibration holds some", where=sample.where, todo=todo)
    first = sample.messages[0]
    content = [{"type": "image"}, {"type": "text", "text": first["content"]}]
    messages = (
        {**first, "content": content},
        *({**m, "content": [{"type": "text", "text": m["content"]}]} for m in sample.messages[1:]),
    )
    template = processor if getattr(processor, "chat_template", None) else processor.tokenizer
    text = chat_text(messages, template, complete=sample.complete, where=sample.where)
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


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content if isinstance(part, dict))
