"""Pictures of coloured shapes and what they show."""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image, ImageDraw

QUESTION = "What does the image show?"
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 30),
    "purple": (150, 40, 170),
    "black": (20, 20, 20),
}
BACKGROUNDS = ((255, 255, 255), (235, 235, 225), (215, 225, 235))
TILE = 56  # pixels
SMALL, WIDE, LARGE = (TILE, TILE), (2 * TILE, TILE), (2 * TILE, 2 * TILE)  # one tile, two and a thumbnail, four and a thumbnail
HELD_OUT_SHARE = 10  # one description of two shapes in so many is never trained on


@dataclass(frozen=True)
class Shape:
    """One shape, its middle and half side in pixels."""

    colour: str
    form: str
    x: float
    y: float
    half: float


@dataclass(frozen=True)
class Picture:
    """A scene: a background, its size and one or two shapes from left to right."""

    size: tuple[int, int]
    background: tuple[int, int, int]
    shapes: tuple[Shape, ...]

    @property
    def answer(self) -> str:
        """What the picture shows, left to right."""
        return " and ".join(f"a {shape.colour} {shape.form}" for shape in self.shapes)

    @property
    def held_out(self) -> bool:
        """Whether this pair of shapes belongs to the evaluation side; single shapes belong to both, at other places."""
        return len(self.shapes) > 1 and zlib.crc32(self.answer.encode()) % HELD_OUT_SHARE == 0

    def draw(self) -> Image.Image:
        """The picture in RGB."""
        image = Image.new("RGB", self.size, self.background)
        pen = ImageDraw.Draw(image)
        for shape in self.shapes:
            draw_shape(pen, shape)
        return image


def draw_shape(pen: ImageDraw.ImageDraw, shape: Shape) -> None:
    """Draw one shape, without smoothing so that the file stays tiny."""
    x, y, half, fill = shape.x, shape.y, shape.half, COLOURS[shape.colour]
    box = (x - half, y - half, x + half, y + half)
    if shape.form == "circle":
        pen.ellipse(box, fill=fill)
    elif shape.form == "square":
        pen.rectangle(box, fill=fill)
    elif shape.form == "triangle":
        pen.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=fill)
    else:
        arm = half / 3
        pen.rectangle((x - arm, y - half, x + arm, y + half), fill=fill)
        pen.rectangle((x - half, y - arm, x + half, y + arm), fill=fill)


def draw_lots(rng: random.Random, size: tuple[int, int]) -> Picture:
    """A random picture of one or two shapes."""
    width, height = size
    count = rng.choice((1, 2, 2))
    shapes = []
    for place in range(count):
        half = rng.uniform(0.13, 0.2) * min(width / count * 1.2, height)
        room = width / count  # every shape has its own column of this width
        x = rng.uniform(place * room + half + 1, (place + 1) * room - half - 1)
        y = rng.uniform(half + 1, height - half - 1)
        shapes.append(Shape(rng.choice(list(COLOURS)), rng.choice(SHAPES), round(x), round(y), round(half)))
    return Picture(size, rng.choice(BACKGROUNDS), tuple(shapes))


def pictures(rng: random.Random, held_out: bool, size: tuple[int, int] = SMALL) -> Iterator[Picture]:
    """An endless stream of pictures of a size from one side of the held-out rule."""
    while True:
        picture = draw_lots(rng, size)
        if picture.held_out == held_out or len(picture.shapes) == 1:
            yield picture
