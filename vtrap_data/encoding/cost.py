"""How many tokens will a sample cost? Answered from sizes alone, without pixels."""

from __future__ import annotations

from typing import Any, NamedTuple


class Grid(NamedTuple):
    """Patches along time, rows and columns, before merging."""

    t: int
    h: int
    w: int

    def tokens(self, merge_size: int) -> int:
        """Tokens the language model sees."""
        return self.t * self.h * self.w // merge_size**2


def image_grid(width: int, height: int, processor: Any) -> Grid:
    """Grid of one image of `width` x `height` pixels under the processor's settings."""
    p = processor.image_processor
    return Grid(1, *_spatial(width, height, p, max_pixels=p.size["longest_edge"]))


def video_grid(frames: int, width: int, height: int, processor: Any) -> Grid:
    """Grid of a video of `frames` frames. An odd number is padded by repeating the last frame, as the family does."""
    p = processor.video_processor
    max_pixels = p.size["longest_edge"]
    if p.cap_pixels_per_frame:
        # The bound of qwen-vl-utils: each frame gets an even share of 90 % of the model's context.
        total = int(p.max_video_tokens * (p.patch_size * p.merge_size) ** 2 * 0.9)
        max_pixels = max(min(max_pixels, total * p.temporal_patch_size // frames), int(p.size["shortest_edge"] * 1.05))
    return Grid(-(-frames // p.temporal_patch_size), *_spatial(width, height, p, max_pixels=max_pixels))


def _spatial(width: int, height: int, p: Any, *, max_pixels: int) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    h, w = smart_resize(
        height, width, factor=p.patch_size * p.merge_size, min_pixels=p.size["shortest_edge"], max_pixels=max_pixels
    )
    return h // p.patch_size, w // p.patch_size
