"""How is a packed corpus walked through, sample by sample, with the bytes of its members?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from vtrap_data.errors import UsageError, VtrapError
from vtrap_data.samples import PackedSample
from vtrap_data.shards.index import FrameFacts, read_index
from vtrap_data.shards.members import FRAMES, IMAGES, Span, unpack_list
from vtrap_data.shards.reader import ShardReader

_COLUMNS = (
    *("item_index", "shard", "json_offset", "json_size", "frames_offset", "frames_size"),
    *("images_offset", "images_size", "width", "height", "distinct"),
)


class StoredSample(NamedTuple):
    """A sample with the bytes of its members, as they lie in a shard or are to be written into one.

    Attributes:
        sample: Its facts and items.
        members: Bytes of `frames.mp` and `images.mp`, where it has them; empty when they were not asked for.
        frames: Facts of its video from the index; None without a video.
    """

    sample: PackedSample
    members: dict[str, bytes]
    frames: FrameFacts | None

    def blobs(self, name: str) -> list[bytes]:
        """The byte strings in a member. Raises UsageError where it is missing or damaged."""
        try:
            return unpack_list(self.members[name])
        except (KeyError, ValueError) as error:
            raise UsageError(f"{name} of {self.sample.key} is damaged ({error}): run `doctor`") from error


def read_stored(root: Path, *, members: bool) -> Iterator[StoredSample]:
    """Every sample of a corpus, in order.

    Args:
        root: The corpus folder.
        members: Read the frames and images too.
    """
    index = read_index(root, _COLUMNS)
    reader = ShardReader(root)
    firsts = index.filter(pc.equal(index["item_index"], 0))
    for batch in firsts.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield _read(reader, row, members)


class Unread(NamedTuple):
    """A sample that cannot be read out of its shard, as the index has it."""

    id: str
    items: tuple[str, ...]
    media: tuple[str, ...]


def read_what_can_be(root: Path) -> Iterator[StoredSample | Unread]:
    """As `read_stored` with members, but damage ends nothing: members that cannot be read are missing."""
    index = read_index(root, (*_COLUMNS, "item_id", "sample_id", "media_sha256"))
    reader = ShardReader(root)
    starts = np.flatnonzero(index["item_index"].to_numpy() == 0)
    for start, end in pairwise([*starts.tolist(), len(index)]):
        rows = index.slice(start, end - start).to_pylist()
        for members in (True, False):
            with suppress(VtrapError):
                yield _read(reader, rows[0], members)
                break
        else:
            ids = tuple(row["item_id"] for row in rows)
            yield Unread(rows[0]["sample_id"], ids, tuple(rows[0]["media_sha256"]))


def read_sample(reader: ShardReader, shard: str, span: Span) -> PackedSample:
    """The JSON of a sample. Raises UsageError where it is damaged."""
    (text,) = reader.read(shard, [span])
    try:
        return PackedSample.parse(text)
    except ValueError as error:
        raise UsageError(f"{reader.root / shard}: a sample is damaged ({error}): run `doctor`") from error


def _read(reader: ShardReader, row: dict[str, Any], members: bool) -> StoredSample:
    sample = read_sample(reader, row["shard"], Span(row["json_offset"], row["json_size"]))
    found = {}
    for name, kind in ((FRAMES, "frames"), (IMAGES, "images")):
        if members and row[f"{kind}_offset"] >= 0:
            (found[name],) = reader.read(row["shard"], [Span(row[f"{kind}_offset"], row[f"{kind}_size"])])
    frames = FrameFacts(row["width"], row["height"], row["distinct"]) if sample.video else None
    return StoredSample(sample, found, frames)
