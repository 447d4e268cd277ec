"""Pictures of samples, opened by Pillow: refused where they are too large or broken, else turned upright and made RGB."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

from quantui.calibration.sample import Sample, open_image_file
from quantui.errors import CalibrationError

PIXEL_LIMIT = 64_000_000
"""Pictures with more pixels are refused before they are decoded."""

BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, EOFError, OverflowError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
"""What Pillow raises of files that are no pictures, or broken ones; found by feeding it those."""


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


def picture_size(sample: Sample) -> tuple[int, int]:
    """Width and height after the turn that its EXIF asks for; nothing is decoded.

    Raises:
        CalibrationError: it is too large or no picture.
    """
    with _opened(sample) as picture:
        width, height = picture.size
        return (height, width) if picture.getexif().get(0x0112, 1) in (5, 6, 7, 8) else (width, height)


@contextmanager
def _opened(sample: Sample) -> Iterator[Image.Image]:
    assert sample.image is not None
    todo = "replace the picture or remove the row"
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(open_image_file(sample.image)) as picture,
        ):  # of Pillow about odd metadata
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
