"""How does a toy scene look? Pillow drawing at twice the size, then reduced, so that edges are smooth."""

from __future__ import annotations

import functools

from PIL import Image, ImageDraw, ImageFont

from vtrap_data.sources.toyworld.scene import COLOURS, SIDE, Scene, Thing

_SCALE = 2


def draw(scene: Scene, t: float = 0.0) -> Image.Image:
    """The scene at time `t` (share of the duration in [0, 1)): an RGB image of SIDE x SIDE pixels."""
    image = Image.new("RGB", (SIDE * _SCALE, SIDE * _SCALE), scene.background)
    pen = ImageDraw.Draw(image)
    for thing in scene.things:
        centre = thing.at(t)
        if centre is not None:
            _thing(pen, thing, centre[0] * _SCALE, centre[1] * _SCALE, thing.size * _SCALE)
    return image.reduce(_SCALE)


def _thing(pen: ImageDraw.ImageDraw, thing: Thing, x: float, y: float, s: float) -> None:
    fill = COLOURS[thing.colour]
    box = (x - s, y - s, x + s, y + s)
    match thing.shape:
        case "circle":
            pen.ellipse(box, fill=fill)
        case "ring":
            pen.ellipse(box, outline=fill, width=max(2, round(s * 0.4)))
        case "square":
            pen.rectangle(box, fill=fill)
        case "triangle":
            pen.polygon([(x, y - s), (x - s, y + s), (x + s, y + s)], fill=fill)
        case "cross":
            w = s * 0.35
            pen.rectangle((x - w, y - s, x + w, y + s), fill=fill)
            pen.rectangle((x - s, y - w, x + s, y + w), fill=fill)
        case digit:
            pen.text((x, y), digit, fill=fill, font=_font(round(2 * s)), anchor="mm")


@functools.lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # the outline font inside Pillow: the same everywhere
