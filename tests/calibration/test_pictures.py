"""Pictures as files hold them: turned, in other colours, too large, broken, or none."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from quantui.calibration import pictures
from quantui.calibration.pictures import open_picture
from quantui.calibration.sources import Sample
from quantui.errors import CalibrationError

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
RED, BLUE = (255, 0, 0), (0, 0, 255)


def opened(file: Path) -> Image.Image:
    """The picture in this file as the model gets it."""
    return open_picture(Sample("row", image=file))


def refused(file: Path) -> CalibrationError:
    """The error that opening this picture raises; it names the file."""
    with pytest.raises(CalibrationError) as caught:
        opened(file)
    assert caught.value.where == str(file) and "remove the row" in caught.value.todo
    return caught.value


def split(mode: str = "RGB") -> Image.Image:
    """A picture of 20x12 that is red on its left half and blue on its right."""
    picture = Image.new("RGB", (20, 12), RED)
    picture.paste(BLUE, (10, 0, 20, 12))
    return picture.convert(mode)


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.gif"])
def test_pictures_come_as_they_are(tmp_path: Path, name: str) -> None:
    picture = split()
    picture.save(tmp_path / name)
    found = opened(tmp_path / name)
    assert found.mode == "RGB" and found.size == (20, 12)
    assert np.array_equal(np.asarray(found), np.asarray(picture))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    split(mode).save(tmp_path / "a.png")
    found = opened(tmp_path / "a.png")
    assert found.mode == "RGB" and found.size == (20, 12)
    left, right = found.getpixel((2, 5)), found.getpixel((17, 5))
    assert (left, right) == ((RED, BLUE) if mode in ("P", "RGBA") else ((76,) * 3, (29,) * 3))


def test_ink_becomes_light(tmp_path: Path) -> None:
    split("CMYK").save(tmp_path / "a.jpg", quality=95)
    found = opened(tmp_path / "a.jpg")
    left = found.getpixel((2, 5))
    assert found.mode == "RGB" and isinstance(left, tuple) and left[0] > 200 and left[2] < 60


def test_a_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    split("P").save(tmp_path / "a.png", transparency=bytes([0] + [128] * 200))
    assert {opened(tmp_path / "a.png").getpixel(place) for place in ((2, 5), (17, 5))} == {RED, BLUE}


def test_grey_of_sixteen_bits_keeps_its_shades(tmp_path: Path) -> None:
    shades = (np.arange(16, dtype=np.uint16) * 4096).reshape(4, 4)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(shades).save(tmp_path / name)
        assert np.array_equal(np.asarray(opened(tmp_path / name))[..., 0], shades >> 8)


def test_of_moving_pictures_the_first_is_taken(tmp_path: Path) -> None:
    split().save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", (20, 12), "green")], duration=5, loop=0)
    assert opened(tmp_path / "a.gif").getpixel((2, 5)) == RED


@pytest.mark.parametrize(
    ("orientation", "size", "red"),
    [(1, (20, 12), (2, 5)), (3, (20, 12), (17, 5)), (6, (12, 20), (5, 2)), (8, (12, 20), (5, 17))],
)
def test_pictures_are_turned_as_the_camera_was(
    tmp_path: Path, orientation: int, size: tuple[int, int], red: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    split().save(tmp_path / "a.png", exif=exif)
    found = opened(tmp_path / "a.png")
    assert found.size == size and found.getpixel(red) == RED


def test_text_in_the_place_of_a_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    assert "cannot identify image file" in refused(tmp_path / "a.png").what
    (tmp_path / "a.png").write_bytes(b"")
    assert "cannot identify" in refused(tmp_path / "a.png").what


def test_a_picture_that_is_gone_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(tmp_path / "gone.png").what
    assert "Is a directory" in refused(tmp_path).what


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP"])
def test_a_picture_cut_short_is_refused(tmp_path: Path, kind: str) -> None:
    body = io.BytesIO()
    Image.fromarray(PIXELS).save(body, kind)
    for share in (0.3, 0.6, 0.9):
        (tmp_path / "a").write_bytes(body.getvalue()[: int(len(body.getvalue()) * share)])
        assert "cannot be read" in refused(tmp_path / "a").what


def header_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(8001, 8000), (12_000, 8_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
def test_a_small_file_that_claims_to_be_huge_is_refused_before_it_is_unpacked(tmp_path: Path, width: int, height: int) -> None:
    (tmp_path / "a.png").write_bytes(header_of(width, height))
    error = refused(tmp_path / "a.png")
    assert "more than 64 million" in error.what or "decompression bomb" in error.what


def test_the_limit_is_on_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split().save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "PIXEL_LIMIT", 240)
    assert opened(tmp_path / "a.png").size == (20, 12)
    monkeypatch.setattr(pictures, "PIXEL_LIMIT", 239)
    assert "20x12 pixels" in refused(tmp_path / "a.png").what


def with_metadata(kind: str) -> bytes:
    """A picture with an EXIF block."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 40
    body = io.BytesIO()
    Image.fromarray(PIXELS).save(body, kind, **({"exif": exif} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}))
    return body.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
@given(places=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6), length=st.integers(20, 2000))
def test_no_damage_raises_anything_but_a_calibration_error(
    tmp_path_factory: pytest.TempPathFactory, kind: str, places: list[tuple[int, int]], length: int
) -> None:
    body = bytearray(with_metadata(kind)[:length])
    for place, value in places:
        body[place % len(body)] = value
    file = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    file.write_bytes(body)
    try:
        assert opened(file).mode == "RGB"
    except CalibrationError as error:
        assert error.where == str(file)
