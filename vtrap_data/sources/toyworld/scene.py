"""What is in a toy scene, and what is on screen at time t?

Everything random about a scene is drawn from one `random.Random`; everything after that is a pure function of time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

SIDE = 64
"""Width and height of images and videos, in pixels. A multiple of 16, as H.264 macroblocks are."""
FPS = 8
"""Source frames per second of a clip, unless its questions take more than twice 16."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 225),
    "yellow": (240, 205, 40),
    "purple": (150, 60, 190),
    "white": (250, 250, 250),
}
SHAPES = ("circle", "square", "triangle", "cross", "ring")
QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


class Motion(NamedTuple):
    """A straight way of (dx, dy) pixels, between `start` and `end` (both as a share of the duration)."""

    dx: float
    dy: float
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A coloured shape or digit.

    Attributes:
        shape: One of SHAPES, or a digit "0" to "9".
        colour: One of COLOURS.
        x: Centre, pixels, before any motion.
        y: Centre, pixels.
        size: Half extent in pixels.
        motion: How it moves, if it does.
        shown: Half-open intervals (share of the duration) in which it is on screen.
    """

    shape: str
    colour: str
    x: float
    y: float
    size: float
    motion: Motion | None = None
    shown: tuple[tuple[float, float], ...] = ((0.0, 1.0),)

    def at(self, t: float) -> tuple[float, float] | None:
        """Centre at time `t` (share of the duration in [0, 1)), or None while it is hidden."""
        if not any(a <= t < b for a, b in self.shown):
            return None
        if self.motion is None:
            return self.x, self.y
        m = self.motion
        done = min(max((t - m.start) / (m.end - m.start), 0.0), 1.0)
        return self.x + m.dx * done, self.y + m.dy * done


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A still picture or a clip.

    Attributes:
        things: In drawing order.
        background: RGB.
        frames: Source frames of the clip; 1 for a picture.
        fps: Of the clip.
    """

    things: tuple[Thing, ...]
    background: tuple[int, int, int]
    frames: int = 1
    fps: int = FPS


def background(rng: random.Random) -> tuple[int, int, int]:
    """A dark greyish tone, so that every colour stands out."""
    base = rng.randint(20, 80)
    return tuple(max(0, min(255, base + rng.randint(-12, 12))) for _ in range(3))  # type: ignore[return-value]


def scatter(rng: random.Random, count: int, *, size: tuple[float, float]) -> list[tuple[float, float, float]]:
    """`count` places (x, y, size) that do not overlap, by rejection; sizes shrink when it gets crowded."""
    low, high = size
    while True:
        places: list[tuple[float, float, float]] = []
        for _ in range(200):
            s = rng.uniform(low, high)
            x, y = rng.uniform(s + 1, SIDE - s - 1), rng.uniform(s + 1, SIDE - s - 1)
            if all(max(abs(x - a), abs(y - b)) > s + c + 2 for a, b, c in places):
                places.append((x, y, s))
                if len(places) == count:
                    return places
        high = max(low, high * 0.9)
