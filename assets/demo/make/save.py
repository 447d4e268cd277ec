"""Writes checkpoint folders: bf16 weights, configs, tokenizer and, for pictures, what rebuilds the stock processor."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .github_layout import write_json


def save_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write model and tokenizer afresh; the weights must be bf16 already."""
    assert model.dtype == torch.bfloat16, "round before putting outliers in, or the rescaling is not exact"
    shutil.rmtree(folder, ignore_errors=True)
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    name_tokenizer_class(folder)
    for file in folder.iterdir():
        file.chmod(0o644)


def name_tokenizer_class(folder: Path, **more: Any) -> None:
    """Name the class that transformers 4 and 5 both know; 5 alone writes `TokenizersBackend`."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**config, "tokenizer_class": "PreTrainedTokenizerFast", **more})


def save_processor(folder: Path, images: dict[str, Any], image_tokens: int) -> None:
    """Write the processor's configs as the stock InternVLProcessor reads them, its video part included, as plain data.

    The combined file is for transformers 5, the two others for earlier versions and for programs that read them on their own.
    """
    shared = {
        **images,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": 3,
        "rescale_factor": 1 / 255,
    }
    image = {**shared, "image_processor_type": "GotOcr2ImageProcessor"}
    tiling = ("crop_to_patches", "min_patches", "max_patches")
    video = {k: v for k, v in shared.items() if k not in tiling} | {"video_processor_type": "InternVLVideoProcessor"}
    name = {"processor_class": "InternVLProcessor"}
    both = {"image_processor": image, "image_seq_length": image_tokens, "video_processor": video}
    write_json(folder / "processor_config.json", both | name)
    write_json(folder / "preprocessor_config.json", image | name)
    write_json(folder / "video_preprocessor_config.json", video | name)
    name_tokenizer_class(folder, **name)
