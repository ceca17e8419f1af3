"""Where do bytes become numbers? In a model of the Qwen families, on its device, before anything else sees them.

A stock model would take bytes for numbers without a word, so only one that `encoding.install` has seen may be given
any: it refuses them, until `accept_bytes` says by which processor's mean and deviation they become numbers.

Both are done where all ways to the vision tower meet. A hook of the module's forward pass would be passed by:
`generate` asks for the features of pictures and videos before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from vtrap_data.encoding import patches


def as_numbers(batch: Mapping[str, Tensor], processor: Any) -> dict[str, Tensor]:
    """A batch whose pixels are numbers, to the bit those of the processor, where they were bytes."""
    parts = {"pixel_values": "image_processor", "pixel_values_videos": "video_processor"}
    given = {name: part for name, part in parts.items() if name in batch and batch[name].dtype == torch.uint8}
    return {**batch, **{name: patches.numbers(batch[name], getattr(processor, part)) for name, part in given.items()}}


def refuse_bytes(model: Any) -> None:
    """Make `model` (of any Qwen family) raise ValueError where pixels come as bytes."""
    _before_the_tower(model, images=_refuse, videos=_refuse)


def accept_bytes(model: Any, processor: Any) -> None:
    """Make `model` (of any Qwen family) turn bytes of `patches` into numbers. It still takes numbers as they are.

    Nothing is added to its parameters, buffers or configuration.

    Args:
        model: Not yet wrapped by PEFT, DDP or DeepSpeed.
        processor: That the batches are made with.
    """
    _before_the_tower(
        model,
        images=lambda pixels: patches.numbers(pixels, processor.image_processor),
        videos=lambda pixels: patches.numbers(pixels, processor.video_processor),
    )


def _refuse(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        raise ValueError(
            "these pixels are bytes, and the model has not been told how to make numbers of them: call "
            "vtrap_data.encoding.accept_bytes(model, processor), or collate without as_bytes=True"
        )
    return pixels


def _before_the_tower(model: Any, *, images: Callable[[Tensor], Tensor], videos: Callable[[Tensor], Tensor]) -> None:
    inner = model.model
    # Of the class, not of the instance: done twice it must not nest. `wraps`: `generate` reads their signatures.
    of_images, of_videos = type(inner).get_image_features, type(inner).get_video_features

    @wraps(of_images)
    def get_image_features(self: Any, pixel_values: Tensor, *args: Any, **options: Any) -> Any:
        return of_images(self, images(pixel_values), *args, **options)

    @wraps(of_videos)
    def get_video_features(self: Any, pixel_values_videos: Tensor, *args: Any, **options: Any) -> Any:
        return of_videos(self, videos(pixel_values_videos), *args, **options)

    inner.get_image_features = MethodType(get_image_features, inner)
    inner.get_video_features = MethodType(get_video_features, inner)
