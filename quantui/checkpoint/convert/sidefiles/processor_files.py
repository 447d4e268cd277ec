"""What InternVL's processor needs beside the tokenizer, from the config of the GitHub layout and its preprocessor_config.json.

The original code makes its pictures in example scripts and reads nothing of this from files: a tile is `force_image_size`
wide, a picture becomes `min_dynamic_patch` to `max_dynamic_patch` tiles and, with `use_thumbnail`, one more of the whole.

Sources: configuration_internvl_chat.py (defaults) and modeling_internvl_chat.py (num_image_token) of OpenGVLab/InternVL2_5-8B;
build_transform and dynamic_preprocess in its README; image_processing_got_ocr2.py, processing_internvl.py and
video_processing_internvl.py of huggingface/transformers@v5.17.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quantui.checkpoint.convert.sidefiles.json_files import read_side, write_side
from quantui.errors import CheckpointError

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
"""Of ImageNet, per channel. Source: IMAGENET_MEAN and IMAGENET_STD in README.md of OpenGVLab/InternVL2_5-8B."""

START, END, IMAGE, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
ATTRIBUTES = {"start_image_token": START, "end_image_token": END, "context_image_token": IMAGE, "video_token": VIDEO}
"""Names by which InternVLProcessor asks its tokenizer. `<video>` is only a mark in the text that the processor replaces; the
published -hf checkpoints add it behind the vocabulary too, so no row of the embedding belongs to it."""

BICUBIC = 3
"""Pillow's number for it."""


@dataclass(frozen=True)
class Pictures:
    """How pictures are made.

    Attributes:
        size: width and height of a tile in pixels.
        tokens: image tokens of one tile.
        tiles: whether a picture is cut into several.
        fewest, most: how many, without the thumbnail.
        mean, std: per channel, of values from 0 to 1.
    """

    size: int
    tokens: int
    tiles: bool
    fewest: int
    most: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def pictures_of(source: Path, config: dict[str, Any]) -> Pictures:
    """What the GitHub layout says about pictures.

    Raises:
        CheckpointError: a size is missing or makes no sense.
    """
    raw = config.get("vision_config")
    vision: dict[str, Any] = raw if isinstance(raw, dict) else {}
    size = _side(config.get("force_image_size") or vision.get("image_size") or 448)
    patch = _side(vision.get("patch_size") or 14)
    ratio = config.get("downsample_ratio", 0.5)
    fewest, most = config.get("min_dynamic_patch", 1), config.get("max_dynamic_patch", 6)
    sane = size > 0 < patch <= size and isinstance(ratio, int | float) and 0 < ratio <= 1
    if not sane or type(fewest) is not int or type(most) is not int or not 1 <= fewest <= most:
        what = "its sizes of pictures make no sense (force_image_size, patch_size, downsample_ratio, min_ or max_dynamic_patch)"
        raise CheckpointError(what, where=str(source / "config.json"), todo="restore the original config.json")
    old = read_side(source, "preprocessor_config.json")
    return Pictures(
        size=size,
        tokens=int((size // patch) ** 2 * ratio**2),
        tiles=config.get("dynamic_image_size", True) is not False,
        fewest=fewest,
        most=most,
        mean=_channels(old.get("image_mean"), MEAN),
        std=_channels(old.get("image_std"), STD),
    )


def picture_notes(config: dict[str, Any], pictures: Pictures) -> list[str]:
    """What of the original's handling of pictures the native processor cannot do."""
    notes = []
    if pictures.tiles and pictures.most > 1 and config.get("use_thumbnail", True) is False:
        notes.append(
            "The original adds no small copy of the whole picture to its tiles (use_thumbnail is false), and the native "
            "processor always does: pictures of several tiles get one tile more."
        )
    if config.get("pad2square"):
        notes.append(
            "The original pads pictures to squares (pad2square is true), and the native processor stretches them: pictures "
            "that are not square look different to the model."
        )
    return notes


def write_processor(target: Path, pictures: Pictures) -> None:
    """Writes preprocessor_config.json, video_preprocessor_config.json and processor_config.json.

    The last holds the other two as well: transformers 5 reads it alone, older versions and other programs read the first two.
    """
    image = {**_common(pictures), "image_processor_type": "GotOcr2ImageProcessor"}
    image |= {"crop_to_patches": pictures.tiles, "min_patches": pictures.fewest, "max_patches": pictures.most}
    video = {**_common(pictures), "video_processor_type": "InternVLVideoProcessor"}
    owner = {"processor_class": "InternVLProcessor"}
    write_side(target, "preprocessor_config.json", image | owner)
    write_side(target, "video_preprocessor_config.json", video | owner)
    body = {"image_processor": image, "image_seq_length": pictures.tokens, "video_processor": video}
    write_side(target, "processor_config.json", body | owner)


def native_pictures(folder: Path, config: dict[str, Any]) -> Pictures | None:
    """What a native folder's processor files say; None without any.

    Args:
        config: config.json of a native InternVL, for what the files leave out; may be empty.
    """
    processor = read_side(folder, "processor_config.json")
    inner = processor.get("image_processor")
    image = inner if isinstance(inner, dict) else read_side(folder, "preprocessor_config.json")
    if not image:
        return None
    tokens = processor.get("image_seq_length", config.get("image_seq_length", 256))
    return Pictures(
        size=_side(image.get("size")),
        tokens=tokens if type(tokens) is int else -1,
        tiles=image.get("crop_to_patches", True) is not False,
        fewest=_side(image.get("min_patches", 1)),
        most=_side(image.get("max_patches", 12)),
        mean=_channels(image.get("image_mean"), MEAN),
        std=_channels(image.get("image_std"), STD),
    )


def write_github_preprocessor(target: Path, pictures: Pictures) -> None:
    """Writes preprocessor_config.json in the form that lies beside the GitHub layout."""
    body = {
        "crop_size": pictures.size,
        "do_center_crop": True,
        "do_normalize": True,
        "do_resize": True,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": list(pictures.mean),
        "image_std": list(pictures.std),
        "resample": BICUBIC,
        "size": pictures.size,
    }
    write_side(target, "preprocessor_config.json", body)


def _common(pictures: Pictures) -> dict[str, Any]:
    return {
        "size": {"height": pictures.size, "width": pictures.size},
        "image_mean": list(pictures.mean),
        "image_std": list(pictures.std),
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
    }


def _side(value: Any) -> int:
    """A length that may be given as a number, a pair or {"height": ..., "width": ...}; 0 for anything else."""
    if isinstance(value, dict):
        value = value.get("height")
    if isinstance(value, list) and value:
        value = value[0]
    return value if type(value) is int else 0


def _channels(value: Any, default: list[float]) -> tuple[float, ...]:
    three = isinstance(value, list) and len(value) == 3 and all(type(number) in (int, float) for number in value)
    return tuple(float(number) for number in (value if three else default))
