"""What did pass 1 learn about one medium, kept on disk so that a killed pack does not decode it twice?

`.work/<hash>.json` holds the facts and `.work/<hash>.frames` the encoded frames (or the original images). The JSON is
written last and holds the hash of the other, so a torn pair is noticed and made again.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from vtrap_data.files import canonical_json, write_bytes
from vtrap_data.media.tars import marks
from vtrap_data.parsing import parse_json, typed
from vtrap_data.samples import PackedImage, SourceSample
from vtrap_data.shards.members import unpack_list


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoFacts:
    """A video after pass 1.

    Attributes:
        name: File name.
        sha256: Of the file.
        duration: Seconds.
        fps: Average frames per second.
        width: Of the original, after rotation.
        height: Of the original, after rotation.
        pool: For each slot the number of its frame in the original.
        decoded: Numbers of the frames that were decoded and encoded, ascending.
        times: Their presentation times in seconds.
        frame_width: Width of the encoded frames.
        frame_height: Height of the encoded frames.
        residuals: r(F) per candidate budget; empty when not measured.
    """

    name: str
    sha256: str
    duration: float
    fps: float
    width: int
    height: int
    pool: tuple[int, ...]
    decoded: tuple[int, ...]
    times: tuple[float, ...]
    frame_width: int
    frame_height: int
    residuals: tuple[float, ...]

    @property
    def distinct(self) -> int:
        """Number of distinct frames in the pool."""
        return len(set(self.pool))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One sample after pass 1; `video` and `images` are empty for text.

    Attributes:
        video: Facts of the video.
        images: Facts of the images.
        notes: What a reader of the manifest should know about the media: sentences.
        truncated: Its video breaks off.
    """

    video: VideoFacts | None = None
    images: tuple[PackedImage, ...] = ()
    notes: tuple[str, ...] = ()
    truncated: bool = False

    @property
    def media(self) -> tuple[str, ...]:
        """SHA-256 of each media file, in order; empty for text."""
        return (self.video.sha256,) if self.video else tuple(image.sha256 for image in self.images)


def spool_name(sample: SourceSample) -> str:
    """Name of the sample's files in the spool, without suffix."""
    return hashlib.sha256(f"{sample.kind}\0{sample.id}".encode()).hexdigest()


def write_spool(folder: Path, sample: SourceSample, measured: Measured, member: bytes) -> None:
    """Keep the result of pass 1. `member` is the msgpack list of frames or images (empty for text)."""
    name = spool_name(sample)
    # No fsync: what a power cut tears is found by the hash and made again, and thousands of small syncs are slow.
    write_bytes(folder / f"{name}.frames", member, sync=False)
    facts = _Spooled(
        sample=sample.id,
        media=_file_marks(sample),
        member_sha256=hashlib.sha256(member).hexdigest(),
        measured=measured,
    )
    write_bytes(folder / f"{name}.json", canonical_json(asdict(facts)), sync=False)


def is_spooled(folder: Path, sample: SourceSample) -> bool:
    """Whether there is a result, unread and unchecked."""
    return (folder / f"{spool_name(sample)}.json").is_file()


def read_facts(folder: Path, sample: SourceSample) -> Measured | None:
    """What is known about a sample; None when nothing is, or when its media files have changed since."""
    data = _read(folder, sample)
    return data.measured if data is not None and data.media == _file_marks(sample) else None


def read_spool(folder: Path, sample: SourceSample) -> tuple[Measured, list[bytes]] | None:
    """What is known about a sample, and its encoded frames or images; None when a file is torn."""
    data = _read(folder, sample)
    try:
        member = (folder / f"{spool_name(sample)}.frames").read_bytes()
    except OSError:
        return None
    if data is None or hashlib.sha256(member).hexdigest() != data.member_sha256:
        return None
    try:
        return data.measured, unpack_list(member) if member else []
    except ValueError:
        return None


def _file_marks(sample: SourceSample) -> tuple[tuple[int, ...] | None, ...]:
    """Size and time of each media file, by which a changed file is noticed; None for a missing one."""
    found = (marks(path) for path in sample.paths)
    return tuple(None if mark is None else tuple(mark) for mark in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spooled:
    """The content of a `.json` of the spool.

    Attributes:
        sample: Id of the sample.
        media: `_file_marks` of it when it was measured.
        member_sha256: Of the `.frames` beside it.
        measured: What was found.
    """

    sample: str
    media: tuple[tuple[int, ...] | None, ...]
    member_sha256: str
    measured: Measured


def _read(folder: Path, sample: SourceSample) -> _Spooled | None:
    try:
        data = typed(_Spooled, parse_json((folder / f"{spool_name(sample)}.json").read_bytes()))
    except (OSError, ValueError):
        return None
    return data if data.sample == sample.id else None
