"""How do the chosen frames become images? Decodes exactly the frames asked for, and as little else as possible.

Packets are grouped by keyframe interval; only intervals that hold a wanted frame are read, one seek each. In H.264,
frames that no other frame refers to are not decoded unless wanted (measured: 0.7x the CPU time of the next best
decoder). The images are bit-identical to those of decoding the whole file in order; where a file does not allow the
short way (no usable times, damaged, a demuxer that cannot seek), it is decoded in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, dropwhile
from typing import Any, Generic, NamedTuple, TypeVar

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.container import (
    Packets,
    decode_all,
    demux,
    open_video,
    packet_sum,
    quarter_turns,
    sample_errors,
)
from vtrap_data.media.probe import VideoInfo
from vtrap_data.media.size import Fit, Size, stored_size
from vtrap_data.media.tars import marks
from vtrap_data.samples import Frames

# Only in H.264 does "non-reference" mean that nothing at all refers to the frame. In HEVC it means nothing of the same
# temporal layer, so skipping there could change pixels.
_SKIPS_NONREF = frozenset({"h264"})

# Scaled as they are, which is half as many samples as RGB and no worse: a JPEG has coarse colour as well.
_SUBSAMPLED = frozenset({"yuv420p", "yuvj420p"})

_TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}

_LUMA_SAMPLES = 40
_BT601 = np.array([77, 150, 29], dtype=np.uint16)  # weights of red, green and blue in 1/256

T = TypeVar("T")


class _Segment(NamedTuple):
    """Packets `start`..`stop` (inclusive, positions in decode order); `start` is a keyframe."""

    start: int
    stop: int


def version() -> str:
    """The decoder and its version, for manifests: pixels may differ between versions."""
    return f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}"


def decode(info: VideoInfo, indices: Sequence[int], *, short_side: int | None, fit: Fit | None = None) -> Frames:
    """Decode the frames at `indices` of `info.pts`.

    Args:
        info: What `probe` said about the file.
        indices: Which frames, any order, repeats allowed; each in [0, len(info.pts)).
        short_side: Scale frames so that the shorter side is this many pixels; never enlarges. None: as they are.
        fit: And then to a size of a model: `stored_size`.

    Returns:
        Frames in time order, each once.

    Raises:
        IndexError: An index is out of range.
        SampleError: CORRUPT when a wanted frame cannot be decoded, TIMEOUT, or what `probe` raises when the file has
            changed.
    """
    arrays = decode_each(info, indices, short_side=short_side, fit=fit, make=np.array)
    times = tuple(float(info.pts[i]) for i in sorted({int(i) for i in indices}))
    return Frames(pixels=np.stack(arrays) if arrays else np.empty((0, 0, 0, 3), np.uint8), times=times)


def decode_each(
    info: VideoInfo,
    indices: Sequence[int],
    *,
    short_side: int | None,
    make: Callable[[Image.Image], T],
    fit: Fit | None = None,
) -> tuple[T, ...]:
    """The same, but of each image only what `make` makes of it is kept: a film's images do not lie in memory together.

    Args:
        info: As above.
        indices: As above.
        short_side: As above.
        make: Called with each image, whose memory is used again for the next one.
        fit: As above.

    Returns:
        One result per frame, in time order. Where a file turns out to be damaged, `make` may see a frame twice.
    """
    wanted = sorted({int(i) for i in indices})
    if wanted and not (wanted[0] >= 0 and wanted[-1] < info.pts.size):
        raise IndexError(f"{info.path}: frames {wanted[0]}..{wanted[-1]} asked for, there are 0..{info.pts.size - 1}")
    if not wanted:
        return ()
    size = stored_size(Size(info.width, info.height), short_side=short_side, fit=fit)
    with sample_errors(info.path):
        found = _decode(info, wanted, _Painter(size, make))
    return tuple(found[i] for i in wanted)


def _decode(info: VideoInfo, wanted: list[int], paint: _Painter[T]) -> dict[int, T]:
    now = marks(info.path)
    if now is not None and now != info.marks:
        detail = f"changed since it was probed: size and time are {tuple(now)}, not {tuple(info.marks or ())}"
        raise SampleError(str(info.path), Reason.CORRUPT, detail)
    packets = info.packets
    found: dict[int, T] = {}
    if packets.pts is None:
        _decode_by_order(info, set(wanted), paint, found)
    else:
        order = np.argsort(packets.pts)
        index_of = {int(packets.pts[order[i]]): i for i in wanted}
        _decode_segments(info, packets, _plan(packets, order[wanted]), index_of, paint, found)
        if len(found) < len(wanted):
            _decode_by_time(info, index_of, paint, found)
    if len(found) < len(wanted):
        lost = [i for i in wanted if i not in found]
        detail = f"{len(lost)} of {len(wanted)} frames cannot be decoded, the first at {info.pts[lost[0]]:.3f} s"
        raise SampleError(str(info.path), Reason.CORRUPT, detail)
    return found


def luma(image: Image.Image) -> NDArray[np.uint8]:
    """Brightness of an RGB image on a coarse grid of its pixels, for `budgets.coverage`.

    Pixels are picked, not averaged: that costs nothing, and the frame-to-frame differences are almost the same
    (measured correlation 0.999).

    Returns:
        uint8 [h, w], h and w between 1 and about twice 40.
    """
    width, height = image.size
    down, across = max(1, height // _LUMA_SAMPLES), max(1, width // _LUMA_SAMPLES)
    # Pixels down // 2, down // 2 + down, ... of each column, and so on; an array of the whole image would be a copy.
    picks = len(range(across // 2, width, across)), len(range(down // 2, height, down))
    steps = (across, 0, 0, 0, down, 0)
    grid = np.asarray(image.transform(picks, Image.Transform.AFFINE, steps, Image.Resampling.NEAREST))
    light: NDArray[np.uint16] = grid @ _BT601
    return (light >> 8).astype(np.uint8)


def _plan(packets: Packets, positions: NDArray[np.int64]) -> list[_Segment]:
    """Which runs of packets to decode for the wanted packets at `positions`."""
    assert packets.pts is not None
    keys = np.flatnonzero(packets.keys)
    segments: list[_Segment] = []
    for position in np.sort(positions):
        before = int(np.searchsorted(keys, position, side="right")) - 1
        # A frame shown before the keyframe that precedes it in the file also refers to the interval before that.
        if before > 0 and packets.pts[position] < packets.pts[keys[before]]:
            before -= 1
        start = int(keys[before]) if before >= 0 else 0
        if segments and start <= segments[-1].stop + 1:
            segments[-1] = _Segment(segments[-1].start, int(position))
        else:
            segments.append(_Segment(start, int(position)))
    return segments


def _decode_segments(
    info: VideoInfo,
    packets: Packets,
    segments: list[_Segment],
    index_of: dict[int, int],
    paint: _Painter[T],
    found: dict[int, T],
) -> None:
    """The short way. Leaves out of `found` what it could not get for certain; the caller then decodes in order."""
    assert packets.pts is not None
    position_of = {int(p): i for i, p in enumerate(packets.pts)}
    skips = info.codec in _SKIPS_NONREF
    try:
        with open_video(info.path) as (container, stream):
            context = stream.codec_context
            for segment in segments:
                before = None
                for packet in _packets_from(container, stream, packets, segment.start, position_of):
                    position = position_of.get(packet.pts)
                    if position is not None:
                        # Demuxers guess times that a file leaves out (MPEG program streams), and after a seek they
                        # may guess others: then this is not the packet that had this time.
                        if packet_sum(packet) != packets.sums[position] or before not in (None, position - 1):
                            return
                        before = position
                    if skips:
                        context.skip_frame = "DEFAULT" if packet.pts in index_of else "NONREF"
                    _keep(context.decode(packet), index_of, paint, found)
                    if position is not None and position >= segment.stop:
                        break
                _keep(context.decode(None), index_of, paint, found)
                context.flush_buffers()
    except (av.FFmpegError, ValueError, OverflowError, EOFError):
        found.clear()  # damaged: only decoding in order says what a player would show


def _packets_from(
    container: Any, stream: Any, packets: Packets, start: int, position_of: dict[int, int]
) -> Iterator[Any]:
    """The packets from the keyframe at `start` on; none if no seek gets there."""
    if start == 0:
        return demux(container, stream)
    assert packets.pts is not None
    # Matroska looks for a time of presentation; MP4 for one of decoding, moved so that the first frame has time 0.
    # Given less, both land an interval too early. What is right for them may be too late for others.
    pts, dts = int(packets.pts[start]), int(packets.dts[start])
    for stamp in (max(pts, dts + int(packets.pts.min()) - int(packets.dts[0])), dts):
        container.seek(stamp, stream=stream, backward=True)
        source = demux(container, stream)
        first = next(source, None)
        if first is not None and position_of.get(first.pts, start + 1) <= start:
            return dropwhile(lambda packet: position_of.get(packet.pts) != start, chain([first], source))
    return iter(())


def _keep(frames: list[Any], index_of: dict[int, int], paint: _Painter[T], found: dict[int, T]) -> None:
    for frame in frames:
        index = index_of.get(frame.pts)
        if index is not None and not frame.is_corrupt:
            found[index] = paint(frame)


def _decode_by_time(info: VideoInfo, index_of: dict[int, int], paint: _Painter[T], found: dict[int, T]) -> None:
    found.clear()
    with open_video(info.path) as (container, stream):
        for frame in decode_all(container, stream):
            index = index_of.get(frame.pts)
            if index is not None:
                found[index] = paint(frame)
                if len(found) == len(index_of):
                    return


def _decode_by_order(info: VideoInfo, wanted: set[int], paint: _Painter[T], found: dict[int, T]) -> None:
    with open_video(info.path) as (container, stream):
        for index, frame in enumerate(decode_all(container, stream)):
            if index in wanted:
                found[index] = paint(frame)
                if len(found) == len(wanted):
                    return


class _Painter(Generic[T]):
    """Makes upright RGB images of one size, even where a stream changes its own, and hands them on."""

    def __init__(self, size: tuple[int, int], make: Callable[[Image.Image], T]) -> None:
        self.size = size
        self.make = make
        # Kept from frame to frame: making their filter tables takes half as long as scaling a frame.
        self._scale: Any = VideoReformatter()
        self._colour: Any = VideoReformatter()
        self._images: dict[tuple[int, int], Image.Image] = {}  # fresh memory costs as much as filling it with pixels

    def __call__(self, frame: Any) -> T:
        turns = quarter_turns(frame)
        width, height = self.size[::-1] if turns % 2 else self.size
        how: dict[str, Any] = {"width": width, "height": height, "interpolation": "BICUBIC", "threads": 1}
        if frame.format.name in _SUBSAMPLED and (frame.width, frame.height) != (width, height):
            frame = self._scale.reformat(frame, **how)
        # Not "rgb0", which Pillow could use uncopied: at some widths swscale leaves its last columns unwritten.
        plane = self._colour.reformat(frame, format="rgb24", **how).planes[0]
        image = self._images.get((width, height)) or Image.new("RGB", (width, height), None)
        image.frombytes(plane, "raw", "RGB", plane.line_size, 1)
        self._images[width, height] = image
        return self.make(image.transpose(_TURNS[turns]) if turns else image)
