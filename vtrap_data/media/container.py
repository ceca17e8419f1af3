"""When does each frame of a video file appear? Opens containers safely and reads their packets without decoding."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from vtrap_data.errors import Reason, SampleError
from vtrap_data.media.files import check_file, check_pixels
from vtrap_data.media.limits import check_time

# Containers that hold their own bytes. Playlists (HLS, DASH, concat) are left out: a "video" must not be able to name
# other files or addresses for us to open.
_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,flv,ogg,asf,"  # FFmpeg's names
    "gif,h264,hevc,ivf,obu,nut,mxf,m4v,mjpeg"
)

# Other errors that hostile bytes bring about on their way through PyAV and the arithmetic behind it.
_DECODER_ERRORS = (av.FFmpegError, OSError, ValueError, TypeError, LookupError, ArithmeticError)

# AVI stores the order of decoding only; the presentation times that come with its packets are guesses.
_WITHOUT_TIMES = frozenset({"avi"})


class Packets(NamedTuple):
    """The packets of a video stream in decode order, without those that show nothing.

    `pts` and `dts` are int64 in units of the stream's time base. `pts` is None when the container's timestamps cannot
    be trusted (missing, repeated, or AVI): then frames can only be told apart by decoding all of them in order.
    `sums` are checksums of their bytes (`packet_sum`), by which a packet is known again.
    """

    pts: NDArray[np.int64] | None
    dts: NDArray[np.int64]
    durations: NDArray[np.int64]
    keys: NDArray[np.bool_]
    sums: NDArray[np.uint32]


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open a video file and yield (PyAV container, its first real video stream), decoding in one thread.

    Raises:
        SampleError: MISSING, UNREADABLE, EMPTY, NOT_MEDIA, NO_VIDEO or TOO_LARGE.
    """
    check_file(path)
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        # "file:" so that a name such as "concat:a|b" stays a name.
        container = av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, ValueError, OSError) as error:
        raise SampleError(str(path), Reason.NOT_MEDIA, f"no known video container ({error})") from None
    with container:
        covers = av.stream.Disposition.attached_pic  # cover art is a video stream of one picture
        streams = [s for s in container.streams.video if not s.disposition & covers]
        if not streams:
            raise SampleError(str(path), Reason.NO_VIDEO, "has no video stream")
        stream = streams[0]
        if stream.codec_context is None:
            raise SampleError(str(path), Reason.NOT_MEDIA, "has a video stream in a codec that the decoder lacks")
        check_pixels(str(path), stream.codec_context.width, stream.codec_context.height)
        stream.codec_context.thread_count = 1  # packing runs one process per core; threads save no CPU time
        yield container, stream


@contextmanager
def sample_errors(path: Path) -> Iterator[None]:
    """Whatever a decoder raises inside the block is a fault of the file: SampleError CORRUPT."""
    try:
        yield
    except _DECODER_ERRORS as error:
        detail = f"cannot be decoded ({type(error).__name__}: {error})"
        raise SampleError(str(path), Reason.CORRUPT, detail) from error


def read_packets(container: Any, stream: Any, see: Callable[[Any], None] | None = None) -> Packets:
    """Read every packet of `stream` from where the container stands (the start), without decoding.

    Args:
        container: As `open_video` gives it.
        stream: Its video stream.
        see: Shown every packet, also those that are left out.
    """
    pts: list[int | None] = []
    dts: list[int] = []
    durations: list[int] = []
    keys: list[bool] = []
    sums: list[int] = []
    vp8 = stream.codec_context.name == "vp8"
    for packet in demux(container, stream):
        if see is not None:
            see(packet)
        # Cut off by an edit list, or kept back by the encoder: decoded for reference, never shown.
        if packet.is_discard or (vp8 and _is_hidden(packet)):
            continue
        pts.append(packet.pts)
        dts.append(packet.dts if packet.dts is not None else packet.pts or 0)
        durations.append(packet.duration or 0)
        keys.append(packet.is_keyframe)
        sums.append(packet_sum(packet))
    known = [p for p in pts if p is not None]
    timed = container.format.name not in _WITHOUT_TIMES
    usable = timed and len(known) == len(pts) and len(set(known)) == len(known)
    return Packets(
        pts=np.array(known, dtype=np.int64) if usable else None,
        dts=np.array(dts, dtype=np.int64),
        durations=np.array(durations, dtype=np.int64),
        keys=np.array(keys, dtype=np.bool_),
        sums=np.array(sums, dtype=np.uint32),
    )


def packet_sum(packet: Any) -> int:
    """Checksum of a packet's bytes: costs next to nothing beside decoding them."""
    return zlib.crc32(packet)


def _is_hidden(packet: Any) -> bool:
    """Whether a VP8 packet is an "alternate reference frame": bit 4 of a frame's first byte says that it is shown."""
    return not memoryview(packet)[0] & 0x10


def demux(container: Any, stream: Any) -> Iterator[Any]:
    """The packets from here to the end. A file that breaks off in the middle ends there, as it does in a player."""
    try:
        for packet in container.demux(stream):
            check_time(str(container.name).removeprefix("file:"))
            if packet.size:  # the last, empty one only tells a decoder to flush
                yield packet
    except (av.FFmpegError, OSError):
        return


def decode_all(container: Any, stream: Any) -> Iterator[Any]:
    """Every frame that can be decoded, in presentation order. Undecodable packets are passed over."""
    for packet in chain(demux(container, stream), (None,)):
        yield from decode_packet(stream.codec_context, packet)


def decode_packet(context: Any, packet: Any) -> Sequence[Any]:
    """The frames that a packet brings out of a decoder, none where it cannot be decoded. None as a packet flushes."""
    try:
        found: Sequence[Any] = context.decode(packet)
    except (av.FFmpegError, ValueError, EOFError):
        return ()
    return found


def quarter_turns(frame: Any) -> int:
    """How many quarter turns counter-clockwise bring this frame upright (from its display matrix)."""
    degrees: float = frame.rotation
    return round(degrees / 90) % 4
