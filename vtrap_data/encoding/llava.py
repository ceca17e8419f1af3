"""The LLaVA-1.5 family: one picture is one square of patches. It knows no videos, so their frames are tiled.

A video becomes pictures of tiles, left to right and top to bottom: one frame fills a picture, up to four share one
two by two, up to nine three by three, up to sixteen four by four; beyond that there are several pictures of four by
four (cf. Kim et al., "An Image Grid Can Be Worth a Video", arXiv 2403.18406). Sixteen tiles keep six by six patches
each and let 64 frames fit the model's 4096 positions (4 x 576 tokens); a picture per frame would fill them with seven.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtrap_data.encoding.family import Family, Row, Shown

SIDE = 4
"""Most tiles along one side of a picture."""


def grid_side(frames: int) -> int:
    """Tiles along each side of a picture."""
    return min(SIDE, math.ceil(math.sqrt(frames)))


def pictures(frames: int) -> int:
    """Pictures that show a video."""
    return -(-frames // SIDE**2)


def tile(video: Tensor, side: int) -> list[Tensor]:
    """Tile a video.

    Args:
        video: uint8 [frames, 3, height, width].
        side: Of the pictures, in pixels. One frame alone is left as it is: the processor treats it as any image.

    Returns:
        uint8 [3, side, side] each; frames are spread evenly over them, centred in their tiles, black around.
    """
    across = grid_side(len(video))
    if across == 1:
        return [video[0]]
    cell = side // across
    height, width = video.shape[-2:]
    scale = cell / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = torch.nn.functional.interpolate(video.float(), size=size, mode="bicubic", antialias=True)
    small = small.round().clamp(0, 255).to(torch.uint8)
    top, left = (cell - size[0]) // 2, (cell - size[1]) // 2
    out = []
    for part in small.tensor_split(pictures(len(video))):
        picture = torch.zeros(3, side, side, dtype=torch.uint8)
        for number, frame in enumerate(part):
            row, column = divmod(number, across)
            y, x = row * cell + top, column * cell + left
            picture[:, y : y + size[0], x : x + size[1]] = frame
        out.append(picture)
    return out


def video_parts(shown: Shown) -> list[dict[str, str]]:
    """As many images as the video is tiled into."""
    return [{"type": "image"}] * pictures(shown.frames)


def image_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of each image, or of each picture of tiles. They do not depend on sizes."""
    crop = processor.image_processor.crop_size
    count = (crop["height"] // processor.patch_size) * (crop["width"] // processor.patch_size)
    count += processor.num_additional_image_tokens - (processor.vision_feature_select_strategy == "default")
    return [count] * (len(shown.images) + pictures(shown.frames))


def video_tokens(shown: Shown, processor: Any) -> list[int]:
    """None: a video is shown as images."""
    return []


def pixels(rows: Sequence[Row], processor: Any) -> dict[str, Tensor]:
    """pixel_values: float [pictures, 3, side, side]."""
    side = processor.image_processor.crop_size["height"]
    images: list[Tensor] = []
    for row in rows:
        images += row.images if row.video is None else tile(row.video, side)
    if not images:
        return {}
    return {"pixel_values": processor.image_processor(images=images, return_tensors="pt")["pixel_values"]}


def dummy_side(processor: Any) -> int:
    """One picture."""
    return int(processor.image_processor.crop_size["height"])


FAMILY = Family(
    name="llava",
    processor="LlavaProcessor",
    modalities=("image",),
    image_tokens=image_tokens,
    video_tokens=video_tokens,
    pixels=pixels,
    dummy_side=dummy_side,
    video_parts=video_parts,
    marks_first=True,
    rules={"video_tiles": SIDE**2, "answer_ends_with": "the end-of-text token"},
)
