"""How do images and frames become patches, in the least memory? As the Qwen processors do it, to the bit.

They make 32-bit numbers of whole pictures, then copy them into patches, then join those of the batch: three
times the size of the result in fresh memory, most of their time. Here patches are bytes until a model has them, a
quarter of the memory on the way to it, and become numbers on its device (`numbers`, see `pixels`).

Bytes lie as in the picture, token by token: all that is done to them here is to move runs as long as a token is wide.
To put the values of a patch in order colour by colour, as a processor does, costs a CPU several times as much; that,
too, is left to `numbers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vtrap_data import buffers

TOKENS_AT_ONCE = 64
"""That become numbers on a CPU before the next do: so many stay in its cache."""


class Patches(NamedTuple):
    """What a model takes, or `numbers` makes it of.

    Attributes:
        values: uint8 [patches, values]. The patches that are merged into a token share their rows, in which its piece
            of the picture lies: [frames of a step, height, width, 3]. Of a processor whose steps are not those known
            here: its own float32 [patches, values].
        grid: int64 [pictures or videos, 3]: patches along time, rows and columns.
    """

    values: Tensor
    grid: Tensor


def image_patches(images: Sequence[Tensor], p: Any) -> Patches:
    """Patches of images.

    Args:
        images: uint8 [3, height, width] each.
        p: An image processor of the Qwen families.
    """
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor

    if type(p) is not Qwen2VLImageProcessor or not _usual(p):
        done = p(images=list(images), return_tensors="pt")
        return Patches(done["pixel_values"], done["image_grid_thw"])
    sized = [
        p.resize(images=image[None], size=_bounds(p), resample=p.resample, factor=p.patch_size * p.merge_size)
        for image in images
    ]
    return _patches([image.expand(p.temporal_patch_size, -1, -1, -1) for image in sized], p)


def video_patches(videos: Sequence[Tensor], p: Any) -> Patches:
    """Patches of videos.

    Args:
        videos: uint8 [frames, 3, height, width] each.
        p: A video processor of the Qwen families.
    """
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    if type(p) not in (Qwen2VLVideoProcessor, Qwen3VLVideoProcessor) or not _usual(p):
        done = p(videos=list(videos), return_tensors="pt", do_sample_frames=False)
        return Patches(done["pixel_values_videos"], done["video_grid_thw"])
    clips = []
    for video in videos:
        (sized,) = p.resize(
            videos=video[None],
            size=_bounds(p),
            resample=p.resample,
            factor=p.patch_size * p.merge_size,
            temporal_factor=p.temporal_patch_size,
            cap_pixels_per_frame=bool(p.cap_pixels_per_frame),
        )
        clips.append(filled(sized, -(-len(sized) // p.temporal_patch_size) * p.temporal_patch_size))
    return _patches(clips, p)


def numbers(values: Tensor, p: Any) -> Tensor:
    """float32 [patches, values], to the bit those that a processor makes, on the device where `values` are.

    Args:
        values: Of `Patches`. Numbers are given back as they are.
        p: The image or video processor that they were made for.
    """
    if values.dtype != torch.uint8:
        return values
    # As `rescale_and_normalize` fuses the two.
    scale = 1.0 / p.rescale_factor
    facts = (torch.tensor(v, dtype=torch.float32)[:, None] * scale for v in (p.image_mean, p.image_std))
    mean, std = (fact.to(values.device) for fact in facts)
    frames, merged, side = p.temporal_patch_size, p.merge_size, p.patch_size
    here = values.is_cpu
    if here:
        made = torch.from_numpy(buffers.empty(values.shape, np.float32))
    else:
        made = torch.empty(values.shape, dtype=torch.float32, device=values.device)
    some = TOKENS_AT_ONCE * merged**2 if here else len(values)
    for piece, own in zip(torch.split(values, some), torch.split(made, some), strict=True):
        ordered = piece.view(-1, frames, merged, side, merged, side, len(mean)).permute(0, 2, 4, 6, 1, 3, 5)
        if here:  # NumPy copies strided memory several times faster than torch
            ordered = torch.from_numpy(np.ascontiguousarray(ordered.numpy()))
        own.view(ordered.shape).copy_(ordered)
        own.view(len(own), len(mean), -1).sub_(mean).div_(std)  # a patch holds its colours one after the other
    return made


def filled(video: Tensor, frames: int) -> Tensor:
    """A video of at least so many frames: the last one is shown again, as the families do."""
    lacking = frames - len(video)
    return torch.cat([video, video[-1:].expand(lacking, -1, -1, -1)]) if lacking > 0 else video


def _usual(p: Any) -> bool:
    return bool(p.do_resize and p.do_rescale and p.do_normalize)


def _bounds(p: Any) -> Any:
    from transformers.image_utils import SizeDict

    return SizeDict(shortest_edge=p.size["shortest_edge"], longest_edge=p.size["longest_edge"])


def _patches(media: Sequence[Tensor], p: Any) -> Patches:
    """Of images and videos, uint8 [frames, 3, height, width] each, frames in whole steps of time."""
    sizes = [(len(m) // p.temporal_patch_size, m.shape[2] // p.patch_size, m.shape[3] // p.patch_size) for m in media]
    wide = p.temporal_patch_size * media[0].shape[1] * p.patch_size**2
    values = buffers.empty((sum(t * h * w for t, h, w in sizes), wide), np.uint8)
    start = 0
    for medium, (t, h, w) in zip(media, sizes, strict=True):
        _lay(medium.permute(0, 2, 3, 1).numpy(), values[start : (start := start + t * h * w)], p)
    return Patches(torch.from_numpy(values), torch.from_numpy(np.array(sizes, np.int64)))


def _lay(frames: NDArray[np.uint8], out: NDArray[np.uint8], p: Any) -> None:
    """Copy frames, uint8 [frames, height, width, 3], step by step in time and token by token."""
    count, height, width, colours = frames.shape
    step, side = p.temporal_patch_size, p.patch_size * p.merge_size
    run = np.dtype((np.void, side * colours))  # what lies side by side both here and there is moved at once
    given = frames.reshape(count, height, -1).view(run).reshape(-1, step, height // side, side, width // side)
    there = out.reshape(-1).view(run).reshape(-1, height // side, width // side, step, side)
    there[:] = given.transpose(0, 2, 4, 1, 3)
