"""What must be known about a model family? One record of small functions; each family's file fills in one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vtrap_data.media.size import Size

if TYPE_CHECKING:
    from torch import Tensor

FamilyName = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "llava_next_video", "llava_onevision"]
Modality = Literal["image", "video"]


class Bounds(NamedTuple):
    """Which sizes of video frames the family takes as they are: both sides multiples, pixels from least to most."""

    multiple: int
    least: int
    most: int


class Shown(NamedTuple):
    """What a sample shows, as far as its tokens depend on it.

    Attributes:
        images: Size of each image, in order.
        frames: Of the video; 0 if there is none.
        frame_size: Of every frame.
        times: Seconds, one per frame. Only families that write the times out (qwen3_vl) read them.
    """

    images: tuple[Size, ...] = ()
    frames: int = 0
    frame_size: Size = Size(0, 0)
    times: tuple[float, ...] = ()


class Row(NamedTuple):
    """The pixels of one sample, as they were decoded.

    Attributes:
        images: uint8 [3, height, width] each.
        video: uint8 [frames, 3, height, width] or None.
        seconds_per_grid: Seconds between temporal grid steps of the video.
    """

    images: tuple[Tensor, ...]
    video: Tensor | None
    seconds_per_grid: float = 1.0


def one_video_part(shown: Shown) -> list[dict[str, str]]:
    """A video is one part of a message. For families whose chat template knows videos."""
    return [{"type": "video"}]


def as_it_is(text: str, shown: Shown, processor: Any) -> str:
    """The template's text needs no change."""
    return text


def nothing(model: Any) -> None:
    """The stock model is right as it is."""


def no_bytes(model: Any, processor: Any) -> None:
    """The pixels of the family are numbers from the beginning."""


def one_frame(processor: Any) -> int:
    """Every frame is a step in time."""
    return 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """How a family turns a sample into inputs. `processor` stands for the family's own Hugging Face processor.

    Attributes:
        name: Also the `model_type` of its configurations.
        processor: Class name of its processor.
        modalities: What it has tokens of its own for. ("image",): videos are shown as images.
        image_tokens: (shown, processor) -> number of tokens of each image placeholder, in order.
        video_tokens: (shown, processor) -> number of tokens of each video placeholder, in order.
        pixels: (rows, processor) -> what the model is given of the pixels of a batch. Bytes (uint8) only where the
            model can be made to accept them.
        dummy_side: (processor) -> side in pixels of a picture that the family shows with few tokens.
        video_parts: (shown) -> the parts of a message that stand for the video, in the form that chat templates take.
        spell: (text, shown, processor) -> the template's text with one placeholder token for each entry of
            `image_tokens` and `video_tokens`.
        install: (model) -> None; changes what the stock model gets wrong.
        accept_bytes: (model, processor) -> None; makes the model turn bytes of `pixels` into numbers itself.
        frames_per_grid: (processor) -> frames that share one step of the temporal grid.
        frame_bounds: (frames, processor) -> the bounds of a video of up to so many frames. None: all frames are scaled
            to one size, or cut.
        marks_first: The chat template puts images and videos before the words of a message. Line breaks around the
            marks are then dropped: the template writes its own.
        token_types: Whether the model is given `mm_token_type_ids`.
        rules: Decisions of ours that can change a result; they go into the preprocessing manifest.
    """

    name: FamilyName
    processor: str
    image_tokens: Callable[[Shown, Any], list[int]]
    video_tokens: Callable[[Shown, Any], list[int]]
    pixels: Callable[[Sequence[Row], Any], dict[str, Tensor]]
    dummy_side: Callable[[Any], int]
    modalities: tuple[Modality, ...] = ("image", "video")
    video_parts: Callable[[Shown], list[dict[str, str]]] = one_video_part
    spell: Callable[[str, Shown, Any], str] = as_it_is
    install: Callable[[Any], None] = nothing
    accept_bytes: Callable[[Any, Any], None] = no_bytes
    frames_per_grid: Callable[[Any], int] = one_frame
    frame_bounds: Callable[[int, Any], Bounds] | None = None
    marks_first: bool = False
    token_types: bool = False
    rules: Mapping[str, Any] = field(default_factory=dict)
