"""The LLaVA-NeXT-Video family: an image is shown whole and in tiles, a frame in a quarter of a picture's tokens.

The stock model wants videos of one length in a batch. It treats each frame by itself, though, so the frames of all
videos go in as one long video: their tokens come out in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from vtrap_data.encoding.family import Family, Row, Shown
from vtrap_data.media.size import Size


def image_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of each image, from its size: the family's own count."""
    crop = _square(processor.image_processor)
    default = processor.vision_feature_select_strategy == "default"
    return [
        int(processor._get_number_of_features(size.height, size.width, crop.height, crop.width)) - default
        for size in shown.images
    ]


def video_tokens(shown: Shown, processor: Any) -> list[int]:
    """Tokens of the video: a quarter of the patches of each frame."""
    crop = _square(processor.video_processor)
    patches = (crop.height // processor.patch_size) * (crop.width // processor.patch_size)
    return [shown.frames * (patches // 4)] if shown.frames else []


def pixels(rows: Sequence[Row], processor: Any) -> dict[str, Tensor]:
    """The pixels of a batch.

    Returns:
        pixel_values: float [images, tiles, 3, side, side], image_sizes: int64 [images, 2] (height, width), and
        pixel_values_videos: float [1, frames of all videos, 3, side, side], where there are any.
    """
    out: dict[str, Tensor] = {}
    images = [image for row in rows for image in row.images]
    videos = [row.video for row in rows if row.video is not None]
    if images:
        done = processor.image_processor(images=images, return_tensors="pt")
        out |= {name: done[name] for name in ("pixel_values", "image_sizes")}
    if videos:
        frames = prepare(videos, processor)
        out["pixel_values_videos"] = torch.cat(frames)[None]
    return out


def prepare(videos: Sequence[Tensor], processor: Any) -> list[Tensor]:
    """Normalised frames of each video, float [frames, 3, side, side]; those of one size are prepared together."""
    done: list[Tensor | None] = [None] * len(videos)
    for size in sorted({v.shape[-2:] for v in videos}):
        places = [i for i, v in enumerate(videos) if v.shape[-2:] == size]
        together = torch.cat([videos[i] for i in places])
        values = processor.video_processor(videos=[together], return_tensors="pt", do_sample_frames=False)
        parts = values["pixel_values_videos"][0].split([len(videos[i]) for i in places])
        for place, part in zip(places, parts, strict=True):
            done[place] = part
    return [frames for frames in done if frames is not None]


def load_processor(path: str, *, trust_remote_code: bool, **where: Any) -> Any:
    """The processor of a checkpoint. What may be said of where it lies: as of `from_pretrained`.

    AutoProcessor cannot load the form in which these checkpoints were released: from `LlavaNextImageProcessor` in
    preprocessor_config.json transformers 5.23 infers a video processor called `LlavaNextVideoProcessor`, which is the
    whole processor's name, and so loads itself until the stack is full.
    """
    from transformers import (
        AutoImageProcessor,
        AutoTokenizer,
        LlavaNextVideoProcessor,
        LlavaNextVideoVideoProcessor,
    )

    parts = {
        "video_processor": LlavaNextVideoVideoProcessor.from_pretrained(path, **where),
        "image_processor": AutoImageProcessor.from_pretrained(path, trust_remote_code=trust_remote_code, **where),
        "tokenizer": AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **where),
    }
    settings, rest = LlavaNextVideoProcessor.get_processor_dict(path, **where)
    in_order = [parts[name] for name in LlavaNextVideoProcessor.get_attributes()]
    return LlavaNextVideoProcessor.from_args_and_dict(in_order, settings, **rest)


def dummy_side(processor: Any) -> int:
    """One picture."""
    return _square(processor.image_processor).height


def _square(part: Any) -> Size:
    """What the processor cuts every picture to."""
    edges = part.crop_size if part.do_center_crop else part.size
    return Size(edges["width"], edges["height"])


FAMILY = Family(
    name="llava_next_video",
    processor="LlavaNextVideoProcessor",
    image_tokens=image_tokens,
    video_tokens=video_tokens,
    pixels=pixels,
    dummy_side=dummy_side,
    marks_first=True,
    rules={"answer_ends_with": "the end-of-text token"},
)
