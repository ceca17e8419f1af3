"""How do many JPEGs lie in one member, and where is each of them?

A `frames.mp` or `images.mp` member is a msgpack list of byte strings, which stock `datasets` and `webdataset` decode
by themselves. The offsets recorded beside it let a reader fetch single frames without touching the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgpack

FRAMES = "frames.mp"
IMAGES = "images.mp"


class Span(NamedTuple):
    """A run of bytes inside a member."""

    start: int
    length: int


class PackedList(NamedTuple):
    """A member and the offset of each of its byte strings, plus the end: one more than there are strings."""

    data: bytes
    offsets: tuple[int, ...]


def pack_list(blobs: Sequence[bytes]) -> PackedList:
    """Write byte strings as one msgpack list."""
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(len(blobs))
    offsets = []
    for blob in blobs:
        packer.pack(blob)
        offsets.append(len(packer.getbuffer()) - len(blob))
    data = packer.bytes()
    return PackedList(data, (*offsets, len(data)))


def unpack_list(data: bytes) -> list[bytes]:
    """Read the list back. Raises ValueError when the bytes are no msgpack list of byte strings."""
    try:
        blobs = msgpack.unpackb(data)
    except Exception as error:  # msgpack raises half a dozen unrelated types
        raise ValueError(f"not a msgpack list: {error}") from error
    if not isinstance(blobs, list) or not all(isinstance(blob, bytes) for blob in blobs):
        raise ValueError("not a msgpack list of byte strings")
    return blobs


def spans(offsets: Sequence[int], wanted: Sequence[int] | None = None) -> list[Span]:
    """Where each byte string lies, given `PackedList.offsets`; or only those of the numbers `wanted`.

    Between two strings stands the header of the second, whose size depends on that string's length: so lengths are
    worked out from the end.

    Example:
        >>> spans(pack_list([b"abc", b"d" * 300]).offsets)
        [Span(start=3, length=3), Span(start=9, length=300)]
    """
    lengths: list[int] = []
    end = offsets[-1] if offsets else 0
    for start in reversed(offsets[:-1]):
        length = end - start
        if length < 0:
            raise ValueError(f"offsets {list(offsets)} do not ascend")
        lengths.append(length)
        end = start - (2 if length < 1 << 8 else 3 if length < 1 << 16 else 5)
    lengths.reverse()
    return [Span(offsets[i], lengths[i]) for i in (range(len(lengths)) if wanted is None else wanted)]
