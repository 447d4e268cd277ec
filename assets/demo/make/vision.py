"""The `vision` model: a small InternVL with a Qwen2 text part, trained to say which shapes a picture shows."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    GenerationConfig,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.processing_utils import ProcessorMixin

from .outliers import Site
from .pictures import COLOURS, LARGE, QUESTION, SHAPES, SMALL, TILE, WIDE, Picture, pictures
from .tokenizer import train_bpe
from .training import IGNORED, Schedule, padded

IMAGE_TOKENS = 4  # a tile: (56 / 14) ** 2 patches, four of them in one token
PAD, BEGIN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
# The form of the OpenGVLab/InternVL3-*-hf templates.
CHAT_TEMPLATE = """{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for content in message['content'] -%}
{%- if content['type'] == 'image' -%}{{- '<IMG_CONTEXT>\\n' -}}
{%- elif content['type'] == 'video' -%}{{- '<video>\\n' -}}
{%- elif content['type'] == 'text' -%}{{- content['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
IMAGE_PROCESSOR: dict[str, Any] = {
    "size": {"height": TILE, "width": TILE},
    "crop_to_patches": True,
    "min_patches": 1,
    "max_patches": 4,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
}
PICTURES_A_STEP = 32
OUTLIERS: tuple[Site, ...] = (
    Site(0, "down", 32),
    Site(3, "down", 32),
    *(Site(layer, place, 8) for layer in range(4) for place in ("attention", "mlp")),
)
SCHEDULE = Schedule(steps=2500, rate=1e-3)


class ImageOnlyProcessor(InternVLProcessor):
    """InternVLProcessor without its video half, which needs torchvision; text and images are handled the same."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        image_seq_length: int = 256,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As InternVLProcessor's, less `video_processor`."""
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template, **kwargs)
        self.image_seq_length = image_seq_length
        for name in ("start_image_token", "end_image_token", "start_image_token_id", "end_image_token_id"):
            setattr(self, name, getattr(tokenizer, name))
        self.image_token = tokenizer.context_image_token
        self.image_token_id = tokenizer.context_image_token_id
        self.video_token = tokenizer.video_token
        image, video = re.escape(self.image_token), re.escape(self.video_token)
        self.multimodal_pattern = re.compile(f"(?P<image>{image})|(?P<video>{video})")


def learn_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer: every word of the toy world becomes one token."""
    shapes = [f"a {colour} {form} and a {colour} {form}" for colour in COLOURS for form in SHAPES]
    texts = [QUESTION, "user\n", "assistant\n", "system\n", *shapes] * 10
    special = (PAD, BEGIN, END, *IMAGE_NAMES.values())
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(texts, 384, special),
        pad_token=PAD,
        bos_token=BEGIN,
        eos_token=END,
        extra_special_tokens=IMAGE_NAMES,
        model_max_length=2048,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def processor_for(tokenizer: PreTrainedTokenizerFast) -> ImageOnlyProcessor:
    """The processor of pictures and text."""
    images = GotOcr2ImageProcessorPil(**IMAGE_PROCESSOR)
    return ImageOnlyProcessor(images, tokenizer, image_seq_length=IMAGE_TOKENS, chat_template=CHAT_TEMPLATE)


def load_processor(folder: Path) -> ImageOnlyProcessor:
    """The processor of a saved model folder."""
    loaded = ImageOnlyProcessor.from_pretrained(folder)
    assert isinstance(loaded, ImageOnlyProcessor)
    return loaded


def build(tokenizer: PreTrainedTokenizerFast) -> InternVLForConditionalGeneration:
    """An untrained model with the biases and layer scales of a real InternVL."""
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    seen = InternVLVisionConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=384,
        attention_bias=True,
        image_size=[TILE, TILE],
        patch_size=[14, 14],
        layer_scale_init_value=1.0,
    )
    said = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        **ids,
    )
    config = InternVLConfig(
        vision_config=seen,
        text_config=said,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_NAMES["context_image_token"]),
        image_seq_length=IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    model = InternVLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(do_sample=False, **ids)
    return model


def prompt(processor: ImageOnlyProcessor, question: str = QUESTION) -> str:
    """The text in front of the answer, with one place for the picture."""
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def batch_of(processor: ImageOnlyProcessor, scenes: list[Picture]) -> dict[str, Tensor]:
    """A training batch of pictures of one size; loss on the answers only."""
    asked = prompt(processor)
    inputs = processor(text=[asked] * len(scenes), images=[[scene.draw()] for scene in scenes], return_tensors="pt")
    rows = []
    for ids, scene in zip(inputs["input_ids"].tolist(), scenes, strict=True):
        answer = processor.tokenizer.encode(scene.answer + END, add_special_tokens=False)
        rows.append((ids + answer, [IGNORED] * len(ids) + answer))
    return {**padded(rows, processor.tokenizer.pad_token_id), "pixel_values": inputs["pixel_values"]}


def steps(processor: ImageOnlyProcessor) -> Iterator[list[dict[str, Tensor]]]:
    """Steps of 32 pictures of one tile; every fifth step has 8 larger ones instead."""
    rng = random.Random(3)
    streams = {size: pictures(rng, held_out=False, size=size) for size in (SMALL, WIDE, LARGE)}
    while True:
        size = rng.choice((SMALL,) * 8 + (WIDE, LARGE))
        count = PICTURES_A_STEP if size == SMALL else PICTURES_A_STEP // 4
        yield [batch_of(processor, [next(streams[size]) for _ in range(count)])]


@torch.inference_mode()
def exact_match(
    model: Any, processor: ImageOnlyProcessor, images: list[Image.Image], expected: list[str], batch: int = 50
) -> float:
    """The share of pictures the model describes word for word, greedily."""
    said: list[str] = []
    for image in range(0, len(images), batch):
        part = images[image : image + batch]
        asked = [prompt(processor)] * len(part)
        inputs = processor(text=asked, images=[[one] for one in part], return_tensors="pt", padding=True)
        inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
        out = model.generate(**inputs, do_sample=False, max_new_tokens=24)
        said += processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return sum(text.strip() == answer for text, answer in zip(said, expected, strict=True)) / len(images)
