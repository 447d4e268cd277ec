"""A picture cut into the tiles a vision tower gets, without torch.

Source: transformers v5.17.0, models/got_ocr2/image_processing_pil_got_ocr2.py, which InternVL uses; a test compares pixels.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from quantui.calibration.words import Words, read_json

KNOWN = ("GotOcr2ImageProcessor", "GotOcr2ImageProcessorFast", "GotOcr2ImageProcessorPil")


@dataclass(frozen=True)
class Tiler:
    """How a model cuts pictures.

    Attributes:
        height, width: of a tile.
        fewest, most: tiles of a picture, the thumbnail not counted.
        crops: whether pictures are cut at all.
        resample: Pillow's number of the way to resize.
        tokens: image tokens a tile.
        start, context, end: the tokens around and of a picture; the template puts `context` once.
    """

    height: int
    width: int
    fewest: int
    most: int
    crops: bool
    resample: int
    tokens: int
    start: str
    context: str
    end: str

    def grid(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows: the arrangement nearest in shape; of two alike the larger, if the picture fills half of it."""
        if not (self.crops and self.most > 1):
            return (1, 1)
        arrangements = [
            (columns, rows)
            for columns in range(1, self.most + 1)
            for rows in range(1, self.most + 1)
            if self.fewest <= columns * rows <= self.most
        ]
        best, off = (1, 1), float("inf")
        for columns, rows in sorted(arrangements, key=lambda one: one[0] * one[1]):
            difference = abs(width / height - columns / rows)
            fills = width * height > 0.5 * self.height * self.width * columns * rows
            if difference < off or (difference == off and fills):
                best, off = (columns, rows), difference
        return best

    def count(self, width: int, height: int) -> int:
        """How many tiles a picture becomes, the thumbnail counted."""
        columns, rows = self.grid(width, height)
        return columns * rows + (columns * rows > 1)

    def cut(self, picture: Image.Image) -> list[Image.Image]:
        """The tiles row by row, then the thumbnail where there is more than one."""
        columns, rows = self.grid(*picture.size)
        whole = picture.resize((self.width * columns, self.height * rows), self.resample)
        found = [
            whole.crop((x * self.width, y * self.height, (x + 1) * self.width, (y + 1) * self.height))
            for y in range(rows)
            for x in range(columns)
        ]
        if len(found) > 1:
            found.append(picture.resize((self.width, self.height), self.resample))
        return found

    def text(self, text: str, tiles: int) -> str:
        """The text with the picture's place written out as its tokens."""
        return text.replace(self.context, f"{self.start}{self.context * self.tokens * tiles}{self.end}")


def load_tiler(folder: Path, words: Words) -> Tiler | None:
    """How this model cuts pictures; None where it does it in a way not known here.

    Raises:
        CheckpointError: a file cannot be read.
    """
    processor = read_json(folder / "processor_config.json")
    settings: dict[str, Any] = processor.get("image_processor") or read_json(folder / "preprocessor_config.json")
    names = [words.special.get(name) for name in ("start_image_token", "context_image_token", "end_image_token")]
    size = settings.get("size")
    if settings.get("image_processor_type") not in KNOWN or not isinstance(size, dict) or None in names:
        return None
    if not {"height", "width"} <= set(size) or not settings.get("do_resize", True):
        return None
    return Tiler(
        height=int(size["height"]),
        width=int(size["width"]),
        fewest=int(settings.get("min_patches", 1)),
        most=int(settings.get("max_patches", 12)),
        crops=bool(settings.get("crop_to_patches", False)),
        resample=int(settings.get("resample", Image.Resampling.BICUBIC)),
        tokens=int(processor.get("image_seq_length", 256)),
        start=str(names[0]),
        context=str(names[1]),
        end=str(names[2]),
    )


def png(picture: Image.Image, largest: int | None = None) -> bytes:
    """The picture as the bytes of a PNG file.

    Args:
        largest: longest side; a larger picture is made smaller.
    """
    if largest is not None and max(picture.size) > largest:
        picture = picture.copy()
        picture.thumbnail((largest, largest))
    body = io.BytesIO()
    picture.save(body, "PNG", compress_level=1)
    return body.getvalue()
