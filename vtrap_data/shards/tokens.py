"""Roughly how many visual tokens is this? For sizing shards and for statistics, where no model has been chosen yet.

One token per 28x28 pixels of an image, or of a pair of frames: what the Qwen2-VL and Qwen2.5-VL families count before
their limits on pixels. The exact number depends on the family and is `encoding.cost`'s to say.
"""

from __future__ import annotations

from collections.abc import Sequence

_SIDE = 28
_FRAMES = 2


def frame_tokens(frames: int, width: int, height: int) -> int:
    """Tokens of `frames` frames of `width` x `height` pixels; 0 for none."""
    return -(-frames // _FRAMES) * image_tokens(width, height) if frames else 0


def image_tokens(width: int, height: int) -> int:
    """Tokens of one image; at least 1."""
    return max(1, round(width / _SIDE)) * max(1, round(height / _SIDE))


def images_tokens(sizes: Sequence[tuple[int, int]]) -> int:
    """Tokens of several images, given (width, height) of each."""
    return sum(image_tokens(width, height) for width, height in sizes)
