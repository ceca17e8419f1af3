"""The Qwen2-VL family: images and videos at their own size, every two frames one step of the grid.

Its image and video processors serve Qwen2.5-VL, too; see `qwen2_5_vl`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from vtrap_data.encoding.family import Bounds, Family, Row, Shown
from vtrap_data.encoding.patches import image_patches, video_patches
from vtrap_data.encoding.pixels import accept_bytes, refuse_bytes
from vtrap_data.encoding.positions import install_positions
from vtrap_data.media.size import Size


class Grid(NamedTuple):
    """Patches along time, rows and columns, before merging."""

    t: int
    h: int
    w: int

    def tokens(self, merge_size: int) -> int:
        """Tokens the language model sees."""
        return self.t * self.h * self.w // merge_size**2


def image_grid(size: Size, processor: Any) -> Grid:
    """Grid of one image under the processor's settings."""
    p = processor.image_processor
    return Grid(1, *_spatial(size, p, max_pixels=p.size["longest_edge"]))


def video_grid(frames: int, size: Size, processor: Any) -> Grid:
    """Grid of a video of `frames` frames. An odd number is padded by repeating the last frame, as the family does."""
    p = processor.video_processor
    max_pixels = frame_bounds(frames, processor).most
    return Grid(-(-frames // p.temporal_patch_size), *_spatial(size, p, max_pixels=max_pixels))


def frame_bounds(frames: int, processor: Any) -> Bounds:
    """Of the frames of a video of `frames` frames. With fewer the most may be larger."""
    p = processor.video_processor
    multiple, least, most = p.patch_size * p.merge_size, p.size["shortest_edge"], p.size["longest_edge"]
    if p.cap_pixels_per_frame:
        # The bound of qwen-vl-utils: each frame gets an even share of 90 % of the model's context.
        total = int(p.max_video_tokens * multiple**2 * 0.9)
        most = max(min(most, total * p.temporal_patch_size // frames), int(least * 1.05))
    return Bounds(multiple, least, most)


def image_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of each image."""
    return [image_grid(size, processor).tokens(processor.image_processor.merge_size) for size in shown.images]


def video_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of the video."""
    if not shown.frames:
        return []
    return [video_grid(shown.frames, shown.frame_size, processor).tokens(processor.video_processor.merge_size)]


def pixels(
    rows: Sequence[Row], processor: Any, *, grid: Callable[[int, Size, Any], Grid] = video_grid
) -> dict[str, Tensor]:
    """Patches of a batch.

    Args:
        rows: In order.
        processor: Of the family.
        grid: Of a video, from frames and size: what the tokens were laid out for.

    Returns:
        pixel_values [patches, values], image_grid_thw [images, 3] and pixel_values_videos, video_grid_thw where there
        are any. The values are bytes: see `patches`.
    """
    out: dict[str, Tensor] = {}
    images = [image for row in rows for image in row.images]
    videos = [row.video for row in rows if row.video is not None]
    if images:
        patches = image_patches(images, processor.image_processor)
        _check(patches.grid, [image_grid(_size(i), processor) for i in images])
        out |= {"pixel_values": patches.values, "image_grid_thw": patches.grid}
    if videos:
        patches = video_patches(videos, processor.video_processor)
        _check(patches.grid, [grid(len(v), _size(v), processor) for v in videos])
        out |= {"pixel_values_videos": patches.values, "video_grid_thw": patches.grid}
    return out


def install(model: Any) -> None:
    """Positions by the original rule; and no bytes, until the model is told what they stand for."""
    install_positions(model)
    refuse_bytes(model)


def frames_per_grid(processor: Any) -> int:
    """Frames that share one step of the temporal grid."""
    return int(processor.video_processor.temporal_patch_size)


def dummy_side(processor: Any) -> int:
    """Two tokens by two."""
    return int(2 * processor.image_processor.patch_size * processor.image_processor.merge_size)


def _spatial(size: Size, p: Any, *, max_pixels: int) -> tuple[int, int]:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    h, w = smart_resize(
        size.height,
        size.width,
        factor=p.patch_size * p.merge_size,
        min_pixels=p.size["shortest_edge"],
        max_pixels=max_pixels,
    )
    return h // p.patch_size, w // p.patch_size


def _size(picture: Tensor) -> Size:
    return Size(picture.shape[-1], picture.shape[-2])


def _check(found: Tensor, expected: Sequence[Grid]) -> None:
    if found.tolist() != [list(grid) for grid in expected]:
        raise RuntimeError(
            f"the processor made grids {found.tolist()} where {[list(g) for g in expected]} were laid out"
        )


FAMILY = Family(
    name="qwen2_vl",
    processor="Qwen2VLProcessor",
    image_tokens=image_tokens,
    video_tokens=video_tokens,
    pixels=pixels,
    dummy_side=dummy_side,
    install=install,
    accept_bytes=accept_bytes,
    frames_per_grid=frames_per_grid,
    frame_bounds=frame_bounds,
    token_types=True,
)
