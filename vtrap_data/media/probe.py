"""What does this video file hold? Checks it and reads its facts; pixels are decoded for the first frame only."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrap_data.errors import Reason, SampleError
from vtrap_data.files import sha256_file
from vtrap_data.media.container import (
    Packets,
    decode_all,
    decode_packet,
    open_video,
    quarter_turns,
    read_packets,
    sample_errors,
)
from vtrap_data.media.files import check_frame
from vtrap_data.media.tars import Marks, marks
from vtrap_data.media.whole import missing_bytes, stated_duration

_LAST_RESORT = 1 / 25  # seconds that a lone frame is shown when nothing in the file says how long


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoInfo:
    """The facts of one video file.

    Attributes:
        path: The file.
        sha256: Of its bytes, hex.
        codec: FFmpeg's name of the codec ("h264", "mpeg4", ...).
        width: Pixels as shown, after rotation.
        height: Pixels as shown, after rotation.
        duration: Seconds from the first frame's appearance to the last one's disappearance.
        stated: What its container says that would be; 0.0 where it does not say.
        missing: Bytes, at least, that are not there, because it breaks off.
        fps: Frames per second on average: number of frames / duration.
        pts: float64 [n], n >= 1: when each frame appears, in seconds after the first, ascending.
        packets: What lies where in the file: `decode` need not read it again.
        marks: Size and time of the file, by which `decode` notices that it has changed.
    """

    path: Path
    sha256: str
    codec: str
    width: int
    height: int
    duration: float
    stated: float
    missing: int
    fps: float
    pts: NDArray[np.float64]
    packets: Packets = field(repr=False, compare=False)
    marks: Marks | None


def probe(path: Path) -> VideoInfo:
    """Check a video file and read its facts.

    The times come from the packets, which costs about 1 % of decoding. Where a container has no usable times they come
    from decoding everything once.

    Raises:
        SampleError: MISSING, UNREADABLE, EMPTY, NOT_MEDIA, NO_VIDEO, TOO_LARGE, TIMEOUT, or CORRUPT when no frame
            decodes or the times are impossible.
    """
    with sample_errors(path):
        return _probe(path)


def _probe(path: Path) -> VideoInfo:
    known = marks(path)
    with open_video(path) as (container, stream):
        first = _First(stream.codec_context)
        packets = read_packets(container, stream, first)
        codec = str(stream.codec_context.codec.canonical_name)
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        time_base = float(stream.time_base)
        if packets.keys.size == 0:
            raise SampleError(str(path), Reason.NO_VIDEO, "its video stream has no frame")
        stated = stated_duration(stream, 0 if packets.pts is None else int(packets.pts.min()))
        missing = missing_bytes(path, container.format.name)
        width, height = _size(first.finish(), path)
    check_frame(str(path), width, height)
    if packets.pts is not None:
        pts, last = _times(packets.pts, packets, time_base)
    else:
        pts, last = _times_by_decoding(path, packets, rate, time_base)
    if not last > 0:
        # The typical gap; a single frame has only the nominal rate to go by.
        last = float(np.median(np.diff(pts))) if pts.size > 1 else 1 / rate if rate > 0 else _LAST_RESORT
    duration = float(pts[-1]) + last
    if not (np.isfinite(duration) and (np.diff(pts) > 0).all()):
        raise SampleError(str(path), Reason.CORRUPT, f"its times do not ascend, or end at {duration} s")
    return VideoInfo(
        path=path,
        sha256=sha256_file(path),
        codec=codec,
        width=width,
        height=height,
        duration=duration,
        stated=stated,
        missing=missing,
        fps=pts.size / duration,
        pts=pts,
        packets=packets,
        marks=known,
    )


class _First:
    """Decodes packets until there is a first frame: what `decode_all` would give, without a pass of its own."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.frame: Any = None

    def __call__(self, packet: Any) -> None:
        if self.frame is None:
            self.frame = next(iter(decode_packet(self.context, packet)), None)

    def finish(self) -> Any:
        """The frame; None if not one can be decoded."""
        self(None)
        return self.frame


def _size(frame: Any, path: Path) -> tuple[int, int]:
    if frame is None:
        raise SampleError(str(path), Reason.CORRUPT, "not one frame of it can be decoded")
    return (frame.height, frame.width) if quarter_turns(frame) % 2 else (frame.width, frame.height)


def _times(raw: NDArray[np.int64], packets: Packets, time_base: float) -> tuple[NDArray[np.float64], float]:
    """Times in presentation order and how long the last frame stays (0: not known), in seconds."""
    order = np.argsort(raw)
    # Before the subtraction: hostile times may lie more than 2**63 ticks apart.
    first, last = int(raw[order[0]]), int(raw[order[-1]])
    if last - first >= 1 << 62:
        raise OverflowError(f"times from {first} to {last}")
    pts = (raw[order] - first).astype(np.float64) * time_base
    return pts, float(packets.durations[order[-1]]) * time_base


def _times_by_decoding(
    path: Path, packets: Packets, rate: float, time_base: float
) -> tuple[NDArray[np.float64], float]:
    """The same, for containers without usable times: those of the frames, else of decoding, else the nominal rate."""
    with open_video(path) as (container, stream):
        raw = [frame.pts for frame in decode_all(container, stream)]
    dts = np.unique(packets.dts).tolist()
    for times in ([p for p in raw if p is not None], dts):
        if len(times) == len(raw) and all(a < b for a, b in pairwise(times)):
            return (np.array(times, dtype=np.int64) - times[0]).astype(np.float64) * time_base, 0.0
    step = 1 / rate if rate > 0 else _LAST_RESORT
    return np.arange(len(raw), dtype=np.float64) * step, step
