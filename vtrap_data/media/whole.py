"""Is a video file whole? Compares what its container says about its own length with what is there.

MP4, Matroska (WebM) and AVI say how many bytes they have; GIF has an end, and MPEG-TS packets of one size. Other
containers say nothing: what is there counts as whole.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, BinaryIO

_BOXES = frozenset({b"mdat", b"moof", b"moov"})
"""Of an MP4, those that hold frames or the index of them. What else is behind them may be anything."""
_MOST_BOXES = 100_000
"""A fragment of an MP4 has two, a gigabyte of AVI one."""
_RIFF_SLACK = 8
"""Some programs count the 8 bytes before a RIFF chunk's contents as contents."""
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"

_GIF_END = b"\x3b"
_TS, _M2TS = 188, 192
"""Bytes of a packet."""

_DURATION_TAG = re.compile(r"(\d{1,4}):(\d\d):(\d\d(?:\.\d{1,9})?)", re.ASCII)


def missing_bytes(path: Path, container: str) -> int:
    """How many bytes of a video lie behind the end of its file, at least.

    An MP4 that breaks off just between two fragments looks whole, and an MPEG-TS between two packets.

    Args:
        path: The file.
        container: FFmpeg's name of its format ("matroska,webm", say).
    """
    measure = next((f for start, f in _LENGTHS.items() if container.startswith(start)), None)
    if measure is None:
        return 0
    with path.open("rb") as file:
        return max(0, measure(file, path.stat().st_size))


def _mp4(file: BinaryIO, end: int) -> int:
    start = 0
    for _ in range(_MOST_BOXES):
        file.seek(start)
        head = file.read(16)
        size = int.from_bytes(head[:4], "big")
        if size == 1:  # then the size is the next 8 bytes behind the name
            size = int.from_bytes(head[8:], "big")
        if size < 8:  # 0: to the end of the file; or no box
            return 0
        start += size
        if start > end:
            return start - end if head[4:8] in _BOXES else 0
    return 0


def _avi(file: BinaryIO, end: int) -> int:
    start = 0
    for _ in range(_MOST_BOXES):
        file.seek(start)
        head = file.read(8)
        if head[:4] != b"RIFF" or len(head) < 8:
            return 0
        start += 8 + int.from_bytes(head[4:], "little")
        if start > end:
            return start - end if start - end > _RIFF_SLACK else 0
    return 0


def _matroska(file: BinaryIO, end: int) -> int:
    """RFC 8794: an element is its id, its size, its contents; of a recording that went on, the size is not known."""
    if file.read(4) != _EBML:
        return 0
    head = _element_size(file) or 0
    if head > end:  # not one that was read; a seek to there may be an error
        return 0
    file.seek(head, 1)
    if file.read(4) != _SEGMENT:
        return 0
    size = _element_size(file)
    return 0 if size is None else file.tell() + size - end


def _gif(file: BinaryIO, end: int) -> int:
    """GIF89a, 17 to 27: a header, then blocks, which end in chains of up to 255 bytes a link, then the end."""
    head = file.read(13)
    if len(head) < 13:
        return 13 - len(head)
    file.seek(_colours(head[10]), 1)
    while (kind := file.read(1)) not in (b"", _GIF_END):
        if kind == b"\x21":
            file.seek(1, 1)
        elif kind == b"\x2c":
            place = file.read(9)
            file.seek((_colours(place[8]) if len(place) == 9 else 0) + 1, 1)
        else:
            return 0  # damaged, which is another matter
        while size := int.from_bytes(file.read(1)):
            file.seek(size, 1)
    return 0 if kind else max(1, file.tell() - end)


def _colours(flags: int) -> int:
    """Bytes of the table of colours that these say there is."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _mpegts(file: BinaryIO, end: int) -> int:
    head = file.read(2 * _M2TS)
    for size in (_TS, _M2TS):
        first = size - _TS  # of one in M2TS, 4 bytes are before
        if len(head) > first + size and head[first] == head[first + size] == 0x47:
            return -end % size
    return 0


def _element_size(file: BinaryIO) -> int | None:
    """A whole number of 1 to 8 bytes, whose first says how many; None where all bits of the number are set."""
    first = int.from_bytes(file.read(1), "big")
    length = 9 - first.bit_length()
    if length > 8:  # no size
        return None
    number = int.from_bytes(bytes([first & (0xFF >> length)]) + file.read(length - 1), "big")
    return None if number == (1 << 7 * length) - 1 else number


_LENGTHS = {"mov,": _mp4, "matroska,": _matroska, "avi": _avi, "gif": _gif, "mpeg": _mpegts}
"""By how FFmpeg's name of the container begins. The start of an MPEG-TS alone it may take for what is inside."""


def stated_duration(stream: Any, first: int) -> float:
    """How long the container says that this stream lasts: by it, one that breaks off can be told from a whole one.

    AVI says it in the stream's header, Matroska as a tag of the stream; a duration of the whole file may be that of
    the sound, and that of an MP4's stream includes what an edit list cuts away.

    Args:
        stream: As `open_video` gives it.
        first: Time of its first frame, in units of its time base.

    Returns:
        Seconds after the first frame. 0.0: it does not say.
    """
    if stream.container.format.name == "avi":
        return float(stream.frames * stream.time_base)
    found = _DURATION_TAG.fullmatch(stream.metadata.get("DURATION", ""))
    if found is None:
        return 0.0
    hours, minutes, seconds = (float(part) for part in found.groups())
    return max(0.0, 3600 * hours + 60 * minutes + seconds - float(first * stream.time_base))
