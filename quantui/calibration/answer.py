"""A short-lived process beside the page: it asks transformers about a tokenizer or a picture, prints the answer and ends."""

from __future__ import annotations

import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from quantui.errors import QuantUIError


def main(what: str, folder: Path, *more: str) -> dict[str, Any]:
    """The answer; `words` = tokenizer and templates, `pictures` = ids and tiles of the samples in a JSON file.

    Raises:
        QuantUIError: the folder does not load, or a sample is refused.
    """
    from quantui.calibration.template import with_template
    from quantui.checkpoint.processor import load_processor

    processor = load_processor(folder, image_text=sees(folder))
    if what == "words":
        return words(processor)
    asked = json.loads(Path(more[0]).read_text(encoding="utf-8"))
    return pictures(with_template(processor, asked["template"]), asked["samples"])


def sees(folder: Path) -> bool:
    """Whether the model reads pictures, so that its processor needs torch."""
    from quantui.checkpoint.files import open_checkpoint
    from quantui.checkpoint.inspect import summary_of

    return (folder / "config.json").is_file() and summary_of(open_checkpoint(folder)).kind == "image-text"


def words(processor: Any) -> dict[str, Any]:
    """The tokenizer as transformers uses it.

    Raises:
        QuantUIError: it is no fast tokenizer.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise QuantUIError(f"its tokenizer {type(tokenizer).__name__} is written in Python and cannot be previewed")
    template = tokenizer.chat_template or ""
    own = getattr(processor, "chat_template", None) or template
    return {
        "core": tokenizer.backend_tokenizer.to_str(),
        "template": template if isinstance(template, str) else template.get("default", ""),
        "picture_template": own if isinstance(own, str) else own.get("default", ""),
        "special": {key: value for key, value in tokenizer.special_tokens_map.items() if isinstance(value, str | list)},
        "end": tokenizer.eos_token_id,
    }


def pictures(processor: Any, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Token ids, number of image tokens and tiles of samples with pictures."""
    from quantui.calibration.render import render
    from quantui.calibration.sample import Sample

    found: list[dict[str, Any]] = []
    for entry in samples:
        sample = Sample(entry["where"], tuple(entry["messages"]), image=Path(entry["image"]), complete=entry["complete"])
        try:
            inputs = render(sample, processor, 1 << 40)
        except QuantUIError as error:
            found.append({"problem": str(error)})
            continue
        ids = inputs["input_ids"][0].tolist()
        token = getattr(processor, "image_token_id", None)
        found.append({"ids": ids, "image_tokens": ids.count(token), "tiles": tiles(inputs.get("pixel_values"), processor)})
    return {"samples": found}


def tiles(values: Any, processor: Any) -> list[str]:
    """Pixel values (tiles, 3, height, width) as PNG in hexadecimal; nothing where they are laid out otherwise."""
    from PIL import Image

    if values is None or values.ndim != 4 or values.shape[1] != 3:
        return []
    settings = processor.image_processor
    mean, std = (np.reshape(getattr(settings, name), (3, 1, 1)) for name in ("image_mean", "image_std"))
    found = []
    for tile in values.float().numpy():
        pixels = np.clip(np.rint((tile * std + mean) * 255), 0, 255).astype(np.uint8)
        body = io.BytesIO()
        Image.fromarray(pixels.transpose(1, 2, 0)).save(body, "PNG")
        found.append(body.getvalue().hex())
    return found


def ask_pictures(folder: Path, samples: list[dict[str, Any]], template: str) -> list[dict[str, Any]]:
    """What `pictures` says, from a process of its own.

    Args:
        template: that chats go through; "" for none.

    Raises:
        CheckpointError: it could not say.
    """
    from quantui.calibration.words import ask

    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file:
        json.dump({"samples": samples, "template": template}, file)
        file.flush()
        found: list[dict[str, Any]] = ask("pictures", folder, file.name)["samples"]
    return found


if __name__ == "__main__":
    try:
        if sys.argv[1] == "words" and not sees(Path(sys.argv[2])):
            sys.modules["torch"] = None  # type: ignore[assignment]  # transformers does without, in a third of the time
        answer = main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
    except QuantUIError as error:
        answer = {"error": error.what}
    print(json.dumps(answer))
