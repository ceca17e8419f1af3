"""What can go wrong, sorted by who has to act.

`UsageError`: the caller (exit code 2). `SampleError`: one sample is bad; it goes to the quarantine list or the ledger
and work goes on. `FatalSampleError`, `UnreachableError`: too many samples are bad, or nothing comes any more, so work
stops (exit code 1).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from enum import StrEnum


def storage_full(error: BaseException) -> bool:
    """Whether nothing more can be written: the disk is full, a quota used up, or a file too large for either."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def wrong_path(error: OSError) -> bool:
    """Whether a path that was given cannot be used, which is wrong use, rather than a disk that is full or broken."""
    return error.filename is not None and not storage_full(error) and error.errno != errno.EIO


def printable(text: object) -> str:
    r"""Text for a terminal: on one line, control characters shown instead of obeyed. File names may hold any.

    Example:
        >>> print(printable("a\nb \x1b[2Jc"))
        a b \x1b[2Jc
    """
    line = " ".join(str(text).split())
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def printable_lines(text: str) -> str:
    r"""Text of several lines for a terminal, with its spaces; control characters shown instead of obeyed.

    Example:
        >>> print(printable_lines("a  b\n\x1b[2Jc"))
        a  b
        \x1b[2Jc
    """
    return "".join(c if c == "\n" or c.isprintable() else ascii(c)[1:-1] for c in text)


def nearest(name: str, known: Iterable[str]) -> str:
    """What a name that is not known may have been meant for, to end a message with; nothing where none is near.

    Example:
        >>> nearest("--mean_frames", ["--mean-frames", "--out"])
        "; did you mean '--mean-frames'?"
    """
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that some libraries add; its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def cut(text: str, most: int = 60) -> str:
    """Text of at most `most` characters; what is left out is told by a last "…"."""
    return text if len(text) <= most else text[: most - 1] + "…"


class VtrapError(Exception):
    """Base of the errors that vtrap raises on purpose, but for those of `hub_cards` and ValueErrors."""


class UsageError(VtrapError):
    """Wrong use: the message says what was given, what is allowed and which setting to change. Exit code 2."""


class Reason(StrEnum):
    """Why a sample was set aside. A closed set, so that reasons can be counted."""

    MISSING = "missing"
    """The media file does not exist."""
    UNREADABLE = "unreadable"
    """It exists but cannot be opened: permissions, a FIFO, a device, a directory."""
    OUTSIDE_ROOT = "outside-root"
    """The path, or the link it is, leaves the media root."""
    EMPTY = "empty"
    """Zero bytes."""
    NOT_MEDIA = "not-media"
    """The bytes are no video or image that the decoders know."""
    NO_VIDEO = "no-video"
    """A container without a video stream (audio only, say) or without a single frame."""
    TRUNCATED = "truncated"
    """A video that breaks off: shorter than its container says."""
    CORRUPT = "corrupt"
    """Frames that were asked for cannot be decoded."""
    TOO_LARGE = "too-large"
    """More pixels than the bomb limit."""
    TIMEOUT = "timeout"
    """Decoding took longer than the per-file limit."""
    BAD_ROW = "bad-row"
    """The source row itself: missing keys, marks that do not match the media, no assistant turn."""
    TOO_LONG = "too-long"
    """More tokens than the ceiling of the model."""


class SampleError(VtrapError):
    """One sample is bad.

    Attributes:
        sample: Id of the sample (or the path of the medium) it happened to.
        reason: Why, from the closed set.
        detail: One sentence for a person.
    """

    def __init__(self, sample: str, reason: Reason, detail: str) -> None:
        super().__init__(f"{sample}: {reason.value}: {detail}")
        self.sample = sample
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[SampleError], tuple[str, Reason, str]]:
        # Exceptions with more than one argument do not survive the way back from a worker process by themselves.
        return type(self), (self.sample, self.reason, self.detail)


class UnreachableError(VtrapError):
    """Data that lie elsewhere could not be fetched: no sample is to blame. The same command goes on later."""


class FatalSampleError(VtrapError):
    """More samples were bad than the caller allows.

    Attributes:
        bad: Which, where they are known.
    """

    def __init__(self, message: str, *, bad: Sequence[SampleError] = ()) -> None:
        super().__init__(message)
        self.bad = tuple(bad)
