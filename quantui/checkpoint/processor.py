"""Tokenizers and processors of a model folder, with and without torchvision."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles import has_tokenizer
from quantui.errors import CheckpointError


def load_processor(folder: Path, *, image_text: bool, trust_remote_code: bool = False, needed: bool = True) -> Any:
    """The processor of an image-text model, or the tokenizer of a text model.

    Stock processors are used wherever they load. Where torchvision is missing, an InternVL folder gets an image-only
    processor whose pictures go through PIL and give the same tokens.

    Args:
        needed: False where a text model is only given token ids: None comes back then if the folder has no tokenizer.

    Raises:
        CheckpointError: neither loads.
    """
    if not (needed or image_text or has_tokenizer(folder)):
        return None
    from transformers import AutoProcessor, AutoTokenizer

    try:
        if not image_text:
            return AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        if importlib.util.find_spec("torchvision") is None and _is_internvl(folder):
            return _image_only_class().from_pretrained(folder)
        processor = AutoProcessor.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        part = "processor" if image_text else "tokenizer"
        what = f"its {part} does not load ({' '.join(str(error).split())[:200]})"
        raise CheckpointError(
            what, where=str(folder), todo=f"copy the {part} files of the original model into the folder"
        ) from error
    if not hasattr(processor, "image_processor"):
        what = "its processor loads as a plain tokenizer, so pictures cannot be read"
        raise CheckpointError(what, where=str(folder), todo="install torchvision, or calibrate with text")
    return processor


def _is_internvl(folder: Path) -> bool:
    from quantui.checkpoint.files import read_config

    return read_config(folder).get("model_type") == "internvl"


def _image_only_class() -> Any:
    """InternVLProcessor less its video part; transformers finds a processor's parts by the signature of __init__."""
    from transformers import InternVLProcessor
    from transformers.processing_utils import ProcessorMixin

    class ImageOnlyInternVLProcessor(InternVLProcessor):  # type: ignore[misc]
        def __init__(
            self,
            image_processor: Any = None,
            tokenizer: Any = None,
            image_seq_length: int = 256,
            chat_template: str | None = None,
            **kwargs: Any,
        ) -> None:
            ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)
            self.image_seq_length = image_seq_length
            for name in ("start_image_token", "end_image_token", "start_image_token_id", "end_image_token_id"):
                setattr(self, name, getattr(tokenizer, name))
            self.image_token = tokenizer.context_image_token
            self.image_token_id = tokenizer.context_image_token_id
            self.video_token = tokenizer.video_token
            tokens = f"(?P<image>{re.escape(self.image_token)})|(?P<video>{re.escape(self.video_token)})"
            self.multimodal_pattern = re.compile(tokens)

    return ImageOnlyInternVLProcessor
