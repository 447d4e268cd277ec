"""Tiny Llama and InternVL folders with real tokenizers, and calibration data for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
IMAGE_TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def tokenizer(**special: str) -> Any:
    """A byte-level BPE tokenizer with a chat template; ids 0 to 2 are pad, start and end of a turn."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator([f"the quick brown fox {i} plus {i + 1}" for i in range(200)], trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token="<|im_start|>",
        model_max_length=4096,
        extra_special_tokens=special or None,
    )
    made.chat_template = TEMPLATE
    return made


def save_llama(folder: Path, *, layers: int = 2, tied: bool = False, seed: int = 0) -> Path:
    """A random Llama of 64 hidden channels, 4 heads on 2 K/V heads, in bf16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    words = tokenizer()
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        max_position_embeddings=1024,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_internvl(folder: Path, *, seed: int = 0) -> Path:
    """A random native InternVL: 2 vision layers, 2 Qwen2 layers, 4 image tokens a tile of 56x56, in bf16."""
    import torch
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, Qwen2Config
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    torch.manual_seed(seed)
    words = tokenizer(**IMAGE_TOKENS)
    text = Qwen2Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    vision = InternVLVisionConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        image_size=[56, 56],
        patch_size=[14, 14],
    )
    image_id = words.convert_tokens_to_ids("<IMG_CONTEXT>")
    config = InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=image_id, image_seq_length=4, downsample_ratio=0.5
    )
    InternVLForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)
    words.save_pretrained(folder)
    GotOcr2ImageProcessorPil(size={"height": 56, "width": 56}, min_patches=1, max_patches=4).save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "InternVLProcessor", "image_seq_length": 4}))
    return folder


def write_chats(folder: Path, rows: int = 8) -> Path:
    """calibration.jsonl, calibration.yaml and evaluation.jsonl of small sums; returns calibration.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    chats = [
        {"messages": [{"role": "user", "content": f"the fox {i} plus {i}?"}, {"role": "assistant", "content": f"fox {2 * i}"}]}
        for i in range(rows)
    ]
    lines = "".join(json.dumps(chat) + "\n" for chat in chats)
    (folder / "calibration.jsonl").write_text(lines)
    (folder / "evaluation.jsonl").write_text(lines)
    file = folder / "calibration.yaml"
    file.write_text("sources:\n  - kind: jsonl\n    path: calibration.jsonl\nsamples: 6\nmax_tokens: 64\n")
    return file


def write_pictures(folder: Path, count: int = 4) -> Path:
    """Random pictures of 80x100 with questions; returns calibration.yaml."""
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 255, (80, 100, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows.append({"image": f"images/{i}.png", "question": "the quick fox?", "answer": f"fox {i}"})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "calibration.jsonl").write_text(lines)
    (folder / "evaluation.jsonl").write_text(lines)
    file = folder / "calibration.yaml"
    file.write_text("sources:\n  - kind: images\n    path: images\n    questions: calibration.jsonl\nsamples: 4\n")
    return file
