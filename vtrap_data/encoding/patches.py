"""How do images and frames become patches, in the least memory? As the Qwen processors do it, to the bit.

They make 32-bit numbers of whole pictures, then copy them into patches, then join those of the batch: three
times the size of the result in fresh memory, most of their time. Here each step in time is put in order as bytes, by
NumPy, which copies strided memory several times faster than torch, and becomes numbers once, where they are to lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vtrap_data import buffers


class Patches(NamedTuple):
    """What a model takes.

    Attributes:
        values: float32 [patches, values].
        grid: int64 [pictures or videos, 3]: patches along time, rows and columns.
    """

    values: Tensor
    grid: Tensor


def image_patches(images: Sequence[Tensor], p: Any) -> Patches:
    """Patches of images.

    Args:
        images: uint8 [3, height, width] each.
        p: An image processor of the Qwen families. One whose steps are not those known here does it itself.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    if type(p) is not Qwen2VLImageProcessor or not _usual(p):
        done = p(images=list(images), return_tensors="pt")
        return Patches(done["pixel_values"], done["image_grid_thw"])
    steps = []
    for image in images:
        sized = p.resize(images=image[None], size=_bounds(p), resample=p.resample, factor=p.patch_size * p.merge_size)
        steps.append([sized.expand(p.temporal_patch_size, -1, -1, -1)])
    return _patches(steps, p)


def video_patches(videos: Sequence[Tensor], p: Any) -> Patches:
    """Patches of videos.

    Args:
        videos: uint8 [frames, 3, height, width] each.
        p: A video processor of the Qwen families. One whose steps are not those known here does it itself.
    """
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    if type(p) not in (Qwen2VLVideoProcessor, Qwen3VLVideoProcessor) or not _usual(p):
        done = p(videos=list(videos), return_tensors="pt", do_sample_frames=False)
        return Patches(done["pixel_values_videos"], done["video_grid_thw"])
    steps = []
    for video in videos:
        (sized,) = p.resize(
            videos=video[None],
            size=_bounds(p),
            resample=p.resample,
            factor=p.patch_size * p.merge_size,
            temporal_factor=p.temporal_patch_size,
            cap_pixels_per_frame=bool(p.cap_pixels_per_frame),
        )
        *whole, last = torch.split(sized, p.temporal_patch_size)
        steps.append([*whole, filled(last, p.temporal_patch_size)])
    return _patches(steps, p)


def filled(video: Tensor, frames: int) -> Tensor:
    """A video of at least so many frames: the last one is shown again, as the families do."""
    lacking = frames - len(video)
    return torch.cat([video, video[-1:].expand(lacking, -1, -1, -1)]) if lacking > 0 else video


def _usual(p: Any) -> bool:
    return bool(p.do_resize and p.do_rescale and p.do_normalize)


def _bounds(p: Any) -> Any:
    from transformers.image_utils import SizeDict

    return SizeDict(shortest_edge=p.size["shortest_edge"], longest_edge=p.size["longest_edge"])


def _patches(media: Sequence[Sequence[Tensor]], p: Any) -> Patches:
    """Of images and videos, each given as its steps in time: uint8 [frames of a step, 3, height, width]."""
    # As `rescale_and_normalize` fuses the two.
    mean, std = (torch.tensor(v)[:, None] * (1.0 / p.rescale_factor) for v in (p.image_mean, p.image_std))
    shapes = [steps[0].shape for steps in media]
    grid = [[len(steps), s[2] // p.patch_size, s[3] // p.patch_size] for steps, s in zip(media, shapes, strict=True)]
    wide = shapes[0][0] * shapes[0][1] * p.patch_size**2
    values = torch.from_numpy(buffers.empty((sum(t * h * w for t, h, w in grid), wide), np.float32))
    start = 0
    for steps in media:
        for step in steps:
            ordered = _ordered(step, p)
            own = values[start : (start := start + len(ordered))].copy_(ordered)
            own.view(len(own), len(mean), -1).sub_(mean).div_(std)  # a patch holds its colours one after the other
    return Patches(values, torch.tensor(grid))


def _ordered(step: Tensor, p: Any) -> Tensor:
    """uint8 [patches, values] of a step in time, patches that are merged into one token side by side."""
    frames, colours, height, width = step.shape
    side, merged = p.patch_size, p.merge_size
    rows, columns = height // (side * merged), width // (side * merged)
    pixels = step.numpy().reshape(frames, colours, rows, merged, side, columns, merged, side)
    ordered = np.ascontiguousarray(pixels.transpose(2, 5, 3, 6, 1, 0, 4, 7))
    return torch.from_numpy(ordered.reshape(rows * columns * merged**2, -1))
