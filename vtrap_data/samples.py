"""The types that travel through vtrap: a sample before packing, in the shards, and as the trainer receives it.

    SourceSample --pack--> PackedSample (+ JPEG frames) --load--> Example --encode--> tensors

All are frozen dataclasses that know their JSON form. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vtrap_data.files import canonical_json
from vtrap_data.parsing import parse_exact, parse_json, typed

FORMAT_VERSION = 1
"""Version of the shard format. A change that alters what is stored bumps it (CHANGELOG label FORMAT)."""

Kind = Literal["video", "images", "text"]
Role = Literal["system", "user", "assistant"]

VIDEO_MARK = "<video>"
IMAGE_MARK = "<image>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. `content` is text in which `<video>` and `<image>` stand where the media go."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One conversation (or one benchmark question) about a media item.

    Attributes:
        id: Unique within the corpus.
        messages: The turns. A benchmark item has the user turn only; its answer is in `answer`.
        question: The bare question, without marks and options: what the budget strategies and the benchmark read.
        options: Possible answers, in the order shown; empty for an open question.
        answer: The reference answer; for a multiple-choice item the text of the right option.
        ability: Which ability the item tests ("colour", "order", ...), for per-ability scores.
        category: Free second grouping (sub-task, duration group, ...).
        needs: How many frames the answer truly needs, where that is known (toyworld); otherwise None.
    """

    id: str
    messages: tuple[Message, ...]
    question: str = ""
    options: tuple[str, ...] = ()
    answer: str | None = None
    ability: str | None = None
    category: str | None = None
    needs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSample:
    """One media item as a source describes it, with every item about it. Nothing has been opened yet.

    Attributes:
        id: Stable id; the shard key is derived from it.
        kind: "video" (one path), "images" (one or more paths) or "text" (none).
        paths: Media files, already resolved against the media root.
        source: Name of the corpus it comes from.
        licence: SPDX id or a short name; "unknown" when the source does not say.
        redistributable: Whether it may be published. None: nobody knows, so publishing refuses.
    """

    id: str
    kind: Kind
    paths: tuple[Path, ...]
    items: tuple[Item, ...]
    source: str
    licence: str = "unknown"
    redistributable: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedItem(Item):
    """An item with its frame budget.

    Attributes:
        budget: Frames granted. 0 for images and text.
        frame_ids: Which stored frames the budget selects: indices into the sample's frames, ascending. May be fewer
            than `budget` when the video has fewer distinct frames.
        demand: Temporal demand d(q) in [0, 1] that the strategy used; None if it did not look at the question.
        scores: What a model said about each candidate budget, ascending: the answer loss (strategy `loss`) or its
            preference (`vlm`). Empty where no model was asked.
    """

    budget: int = 0
    frame_ids: tuple[int, ...] = ()
    demand: float | None = None
    scores: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedVideo:
    """What is stored about one video.

    Attributes:
        name: File name in the source, without directories.
        sha256: Of the original file.
        duration: Seconds.
        fps: Average frames per second of the original.
        width: Of the original, in pixels, after rotation.
        height: Of the original, in pixels, after rotation.
        frame_times: Presentation time in seconds of each stored frame, ascending.
        frame_bytes: Byte offset of each stored JPEG inside the `frames.mp` member, plus the end: len(frame_times) + 1.
        pool: For each pool slot the index of its stored frame, or -1 when that frame is not stored. Several slots
            share a frame when the video has fewer distinct frames than slots.
        residuals: r(F) for each candidate budget F, ascending in F; empty when coverage was not measured.
    """

    name: str
    sha256: str
    duration: float
    fps: float
    width: int
    height: int
    frame_times: tuple[float, ...]
    frame_bytes: tuple[int, ...]
    pool: tuple[int, ...]
    residuals: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedImage:
    """What is stored about one image: original bytes are kept as they are in the `images.mp` member."""

    name: str
    sha256: str
    width: int
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedSample:
    """The `<key>.json` member: one media item, its facts, and every item about it."""

    key: str
    id: str
    kind: Kind
    source: str
    licence: str
    redistributable: bool | None
    items: tuple[PackedItem, ...]
    video: PackedVideo | None = None
    images: tuple[PackedImage, ...] = ()
    format: int = FORMAT_VERSION

    @property
    def media(self) -> tuple[str, ...]:
        """SHA-256 of its media files, in order; empty for text."""
        return (self.video.sha256,) if self.video else tuple(image.sha256 for image in self.images)

    def to_json(self) -> dict[str, Any]:
        """The JSON form. Every key is always present, so that declared Arrow features fit every row."""
        data: dict[str, Any] = _lists(asdict(self))
        return data

    @classmethod
    def from_json(cls, data: Any) -> PackedSample:
        """Read the JSON form back. Raises ValueError for another format version, and for any field of another type."""
        if isinstance(data, dict) and (found := data.get("format")) != FORMAT_VERSION:
            raise ValueError(f"format {found!r} of sample {data.get('key')!r} is not {FORMAT_VERSION}: pack it again")
        return typed(cls, data)

    @classmethod
    def parse(cls, text: bytes) -> PackedSample:
        """As `from_json(parse_json(text))`, in a third of the time for what `pack` writes.

        Raises ValueError for halves of surrogate pairs, too, which JSON may hold: they could not be written again.
        """
        sample = parse_exact(cls, text)
        if sample and sample.format == FORMAT_VERSION:
            return sample
        data = parse_json(text)
        sample = cls.from_json(data)
        canonical_json(data)
        return sample


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frames:
    """Frames of one video, in time order: what `media.decode` returns and what a model is shown.

    Not compared by their pixels: two of them are equal if they are the same object.

    Attributes:
        pixels: uint8 [frames, height, width, 3], RGB. Several examples may share it: to be read only.
        times: Presentation times in seconds, ascending, one per frame.
    """

    pixels: NDArray[np.uint8]
    times: tuple[float, ...]

    @classmethod
    def of(cls, images: Sequence[Image.Image], *, times: Sequence[float]) -> Frames:
        """From RGB images of one size, at least one."""
        return cls(pixels=np.stack([np.asarray(image.convert("RGB")) for image in images]), times=tuple(times))

    @property
    def images(self) -> list[Image.Image]:
        """The frames as RGB images; copies."""
        return [Image.fromarray(one) for one in self.pixels]

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        # Not the pixels: in a notebook they would be pages.
        return f"Frames(pixels={self.pixels.dtype} {list(self.pixels.shape)}, times={self.times})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One item with its decoded media: what `loading` yields and `encoding` turns into tensors.

    Attributes:
        item: Its conversation, with the budget that it was packed with.
        key: Of the sample in its shard: several items about one medium share it.
        source: Corpus it comes from.
        kind: "video", "images" or "text".
        frames: Those of the video that its budget selects; None without a video.
        images: RGB; empty without.
    """

    item: PackedItem
    key: str
    source: str
    kind: Kind
    frames: Frames | None
    images: tuple[Image.Image, ...]


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lists(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [_lists(v) for v in value]
    return value
