"""At which size is a frame stored?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """The sizes at which a model looks at frames: one that has such a size is not scaled again when it is encoded.

    Attributes:
        model: Which, as it was named; it decides nothing.
        multiple: Both sides are multiples of it.
        least: Pixels. The model enlarges smaller frames, so they are stored as they are.
        most: Pixels.
    """

    model: str
    multiple: int
    least: int
    most: int

    def __post_init__(self) -> None:
        if self.multiple < 1 or not self.multiple**2 <= self.most or self.least > self.most:
            raise ValueError(f"no frame is a multiple of {self.multiple} and has {self.least} to {self.most} pixels")


def stored_size(size: Size, *, short_side: int | None, fit: Fit | None = None) -> Size:
    """The size of stored frames.

    Args:
        size: Of the original.
        short_side: Make the shorter side this long; never enlarges. None: as it is.
        fit: Then to the nearest size of a model (`smart_resize` of Qwen2-VL's processor); sides may grow by half of
            `fit.multiple`.

    Example:
        >>> stored_size(Size(1280, 720), short_side=448)
        Size(width=796, height=448)
        >>> stored_size(Size(1280, 720), short_side=448, fit=Fit(model="", multiple=28, least=0, most=602112))
        Size(width=784, height=448)
    """
    short = min(size)
    if short_side is not None and short > short_side:
        size = Size(*(max(1, round(side * short_side / short)) for side in size))
    if fit is None:
        return size
    fitted = Size(*(max(1, round(side / fit.multiple)) * fit.multiple for side in size))
    if math.prod(fitted) > fit.most:
        shrink = math.sqrt(math.prod(size) / fit.most)
        fitted = Size(*(max(1, math.floor(side / shrink / fit.multiple)) * fit.multiple for side in size))
    return fitted if fit.least <= math.prod(fitted) <= fit.most else size
