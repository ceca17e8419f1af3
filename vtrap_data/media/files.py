"""Is this path a file we may read? The checks that come before any decoder sees a byte."""

from __future__ import annotations

import stat
from pathlib import Path

from vtrap_data.errors import Reason, SampleError

MAX_PIXELS = 80_000_000
"""Pixels of one image or one video frame above which a file is refused: 10 kB can claim to be 30 GB."""


def check_file(path: Path) -> int:
    """Check that `path` is a readable, regular, non-empty file and return its size in bytes.

    A FIFO, a device or a directory is refused before it is opened: opening a FIFO would wait for ever.

    Raises:
        SampleError: MISSING, UNREADABLE or EMPTY.
    """
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise SampleError(str(path), Reason.MISSING, "there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise SampleError(str(path), Reason.UNREADABLE, f"cannot be looked at: {error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise SampleError(str(path), Reason.UNREADABLE, "is not a regular file")
    if status.st_size == 0:
        raise SampleError(str(path), Reason.EMPTY, "has zero bytes")
    try:
        path.open("rb").close()
    except OSError as error:
        raise SampleError(str(path), Reason.UNREADABLE, f"cannot be opened: {error.strerror}") from None
    return status.st_size


MAX_SIDE = 65_500
"""Longest side of a video frame: what a JPEG can hold."""


def check_frame(name: str, width: int, height: int) -> None:
    """Refuse video frames with more than `MAX_PIXELS` or a side above `MAX_SIDE` (SampleError TOO_LARGE)."""
    if max(width, height) > MAX_SIDE:
        detail = f"{width}x{height} has a side above {MAX_SIDE} pixels: scale it down first"
        raise SampleError(name, Reason.TOO_LARGE, detail)
    check_pixels(name, width, height)


def check_pixels(name: str, width: int, height: int) -> None:
    """Refuse more pixels than `MAX_PIXELS` (SampleError TOO_LARGE), before anything of that size is allocated."""
    if width * height > MAX_PIXELS:
        detail = f"{width}x{height} is {width * height} pixels; at most {MAX_PIXELS} are allowed: scale it down first"
        raise SampleError(name, Reason.TOO_LARGE, detail)
