"""How do images and frames become patches, in the least memory? As the Qwen2-VL processors do it, to the bit.

The processors make 32-bit numbers of whole pictures, then copy them into patches, then join those of the batch: three
times the size of the result in fresh memory, most of their time. Here pictures are put in order as bytes and become
numbers once, where they are to lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor


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
    ordered, grid = [], []
    for image in images:
        sized = p.resize(images=image[None], size=_bounds(p), resample=p.resample, factor=p.patch_size * p.merge_size)
        patches, *shape = p.patchify(sized.contiguous(), **_steps(p))
        ordered.append(patches[0])
        grid.append([1, *shape])
    return Patches(_numbers(ordered, p), torch.tensor(grid))


def video_patches(videos: Sequence[Tensor], p: Any) -> Patches:
    """Patches of videos.

    Args:
        videos: uint8 [frames, 3, height, width] each.
        p: A video processor of the Qwen families. One whose steps are not those known here does it itself.
    """
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    if type(p) is not Qwen2VLVideoProcessor or not _usual(p):
        done = p(videos=list(videos), return_tensors="pt", do_sample_frames=False)
        return Patches(done["pixel_values_videos"], done["video_grid_thw"])
    ordered, grid = [], []
    for video in videos:
        sized = p.resize(
            videos=video[None],
            size=_bounds(p),
            resample=p.resample,
            factor=p.patch_size * p.merge_size,
            temporal_factor=p.temporal_patch_size,
            cap_pixels_per_frame=bool(p.cap_pixels_per_frame),
        )
        patches, *shape = p.patchify(sized.contiguous(), **_steps(p))  # whatever lay side by side in memory
        ordered.append(patches[0])
        grid.append(shape)
    return Patches(_numbers(ordered, p), torch.tensor(grid))


def _usual(p: Any) -> bool:
    return bool(p.do_resize and p.do_rescale and p.do_normalize)


def _bounds(p: Any) -> Any:
    from transformers.image_utils import SizeDict

    return SizeDict(shortest_edge=p.size["shortest_edge"], longest_edge=p.size["longest_edge"])


def _steps(p: Any) -> dict[str, int]:
    return {name: getattr(p, name) for name in ("patch_size", "merge_size", "temporal_patch_size")}


def _numbers(ordered: Sequence[Tensor], p: Any) -> Tensor:
    """float32 [patches, values] of the uint8 patches of each picture, as `rescale_and_normalize` fuses the two steps."""
    mean, std = (torch.tensor(v)[:, None] * (1.0 / p.rescale_factor) for v in (p.image_mean, p.image_std))
    values = torch.empty(sum(len(o) for o in ordered), ordered[0].shape[1])
    for own, patches in zip(torch.split(values, [len(o) for o in ordered]), ordered, strict=True):
        colours = own.view(len(own), len(mean), -1)  # a patch holds its colours one after the other
        torch.sub(patches.view(colours.shape), mean, out=colours).div_(std)
    return values
