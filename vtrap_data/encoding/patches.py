"""How do frames become patches, in the least memory? As the Qwen2-VL video processor does it, to the bit.

The processor makes 32-bit numbers of whole frames, then copies them into patches, then joins the videos of the batch:
three times the size of its result in fresh memory, most of its time. Here frames are put in order as bytes and
become numbers once, where they are to lie.
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
        grid: int64 [videos, 3]: patches along time, rows and columns.
    """

    values: Tensor
    grid: Tensor


def video_patches(videos: Sequence[Tensor], p: Any) -> Patches:
    """Patches of videos.

    Args:
        videos: uint8 [frames, 3, height, width] each.
        p: A video processor of the Qwen families. One whose steps are not those known here does it itself.
    """
    from transformers.image_utils import SizeDict
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    if type(p) is not Qwen2VLVideoProcessor or not (p.do_resize and p.do_rescale and p.do_normalize):
        done = p(videos=list(videos), return_tensors="pt", do_sample_frames=False)
        return Patches(done["pixel_values_videos"], done["video_grid_thw"])
    size = SizeDict(**{name: p.size[name] for name in ("shortest_edge", "longest_edge")})
    ordered, grid = [], []
    for video in videos:
        sized = p.resize(
            videos=video[None],
            size=size,
            resample=p.resample,
            factor=p.patch_size * p.merge_size,
            temporal_factor=p.temporal_patch_size,
            cap_pixels_per_frame=bool(p.cap_pixels_per_frame),
        )
        steps = {name: getattr(p, name) for name in ("patch_size", "merge_size", "temporal_patch_size")}
        patches, *shape = p.patchify(sized.contiguous(), **steps)  # whatever lay side by side in memory
        ordered.append(patches[0])
        grid.append(shape)
    # As `rescale_and_normalize` fuses them; a patch holds its colours one after the other.
    mean, std = (torch.tensor(v)[:, None] * (1.0 / p.rescale_factor) for v in (p.image_mean, p.image_std))
    values = torch.empty(sum(len(o) for o in ordered), ordered[0].shape[1])
    for own, patches in zip(torch.split(values, [len(o) for o in ordered]), ordered, strict=True):
        colours = own.view(len(own), len(mean), -1)
        torch.sub(patches.view(colours.shape), mean, out=colours).div_(std)
    return Patches(values, torch.tensor(grid))
