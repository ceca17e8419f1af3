"""The LLaVA-OneVision family: one image is shown whole and in tiles, several plainly; a video ends with a line break.

The stock model wants videos of one length in a batch, because it appends one learned line break to each. Here shorter
ones are filled up with frames of NaN, and `install` makes the model drop those before its vision tower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from vtrap_data.encoding.family import Family, Row, Shown
from vtrap_data.encoding.llava_next_video import prepare


def image_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of each image: of one alone the family's own count from its size; of several one picture and a break."""
    default = processor.vision_feature_select_strategy == "default"
    if len(shown.images) > 1:
        return [processor.num_image_tokens + 1 - default] * len(shown.images)
    side = dummy_side(processor)
    return [
        int(processor._get_number_of_features(size.height, size.width, side, side)) - default for size in shown.images
    ]


def video_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of the video: a quarter of a picture's per frame, rounded up, and a line break."""
    side = math.ceil(math.isqrt(processor.num_image_tokens) / 2)
    return [shown.frames * side**2 + 1] if shown.frames else []


def pixels(rows: Sequence[Row], processor: Any) -> dict[str, Tensor]:
    """The pixels of a batch.

    Returns:
        pixel_values: float [images, tiles, 3, side, side], image_sizes: int64 [images, 2] (height, width),
        batch_num_images: int64 [samples with images], and pixel_values_videos: float [videos, most frames, 3, side,
        side], NaN where a video has fewer, where there are any.
    """
    out: dict[str, Tensor] = {}
    images = [list(row.images) for row in rows if row.images]
    videos = [row.video for row in rows if row.video is not None]
    if images:
        done = processor.image_processor(images=images, return_tensors="pt")
        out |= {name: done[name] for name in ("pixel_values", "image_sizes", "batch_num_images")}
    if videos:
        out["pixel_values_videos"] = torch.nn.utils.rnn.pad_sequence(
            prepare(videos, processor), batch_first=True, padding_value=math.nan
        )
    return out


def install(model: Any) -> None:
    """Make `model` take videos of different lengths in one batch, padded with frames of NaN."""
    inner = model.model
    # Of the class, not of the instance: installing twice must not nest.
    stock = type(inner).get_video_features

    def get_video_features(self: Any, pixel_values_videos: Tensor, **options: Any) -> Any:
        real = ~pixel_values_videos[:, :, 0, 0, 0].isnan()
        # Each frame as a video of its own: [all frames, its tokens and a line break, width].
        found = stock(self, pixel_values_videos[real][:, None], **{**options, "return_dict": True})
        parts: list[Tensor] = []
        for frames in found.pooler_output.split(real.sum(dim=1).tolist()):
            parts += [frames[:, :-1].flatten(0, 1), frames[-1, -1:]]
        found.pooler_output = torch.cat(parts)[None]
        return found

    inner.get_video_features = MethodType(get_video_features, inner)


def dummy_side(processor: Any) -> int:
    """One picture."""
    return int(processor.image_processor.size["height"])


FAMILY = Family(
    name="llava_onevision",
    processor="LlavaOnevisionProcessor",
    image_tokens=image_tokens,
    video_tokens=video_tokens,
    pixels=pixels,
    dummy_side=dummy_side,
    install=install,
    marks_first=True,
    rules={"answer_begins_with": "the generation prompt"},
)
