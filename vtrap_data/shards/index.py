"""Where is each item, and what must be known about it without opening a shard? (`index.parquet`, a row per item)."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vtrap_data.errors import UsageError
from vtrap_data.samples import PackedSample
from vtrap_data.shards.files import atomic_file
from vtrap_data.shards.manifest import INDEX
from vtrap_data.shards.members import FRAMES, IMAGES

SCHEMA = pa.schema(
    [
        ("item_id", pa.string()),
        ("key", pa.string()),
        ("sample_id", pa.string()),
        ("shard", pa.string()),  # path of the tar relative to the folder
        ("split", pa.string()),
        ("item_index", pa.int32()),  # position in the sample's `items`
        ("kind", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("redistributable", pa.bool_()),
        ("ability", pa.string()),
        ("category", pa.string()),
        ("benchmark", pa.bool_()),  # a question to score: it has no assistant turn
        ("budget", pa.int32()),
        ("n_frames", pa.int32()),  # frames that the budget really selects
        ("demand", pa.float64()),
        ("needs", pa.int32()),
        ("duration", pa.float64()),  # seconds; null without a video
        ("distinct", pa.int32()),  # distinct frames in the pool of candidates
        ("pool", pa.list_(pa.int32())),  # as in PackedVideo
        ("json_offset", pa.int64()),  # bytes from the start of the tar
        ("json_size", pa.int64()),
        ("frames_offset", pa.int64()),
        ("frames_size", pa.int64()),
        ("images_offset", pa.int64()),
        ("images_size", pa.int64()),
        ("width", pa.int32()),  # of a stored frame, or of the first image
        ("height", pa.int32()),
        ("n_images", pa.int32()),
        ("text_chars", pa.int64()),
        ("media_sha256", pa.list_(pa.string())),
        ("version", pa.int32()),
    ]
)
"""Columns of the index. `version` is the version of the index itself."""

INDEX_VERSION = 1


class Member(NamedTuple):
    """Where a member's bytes lie in its tar."""

    offset: int
    size: int


class FrameFacts(NamedTuple):
    """What the index says about a video's frames and the sample's JSON does not."""

    width: int
    height: int
    distinct: int


def tar_members(path: Path) -> dict[str, Member]:
    """Every member of a tar by name, in order, found by reading its headers only."""
    with tarfile.open(path, "r:") as tar:
        return {info.name: Member(info.offset_data, info.size) for info in tar}


def index_rows(
    sample: PackedSample, *, shard: str, split: str, members: Mapping[str, Member], frames: FrameFacts | None
) -> list[dict[str, Any]]:
    """The rows of one sample: one per item.

    Args:
        sample: As stored.
        shard: Path of its tar relative to the folder.
        split: Its split.
        members: Members of that tar.
        frames: Facts about the frames of a video, else None.
    """
    nowhere = Member(-1, 0)
    text = members[f"{sample.key}.json"]
    video = members.get(f"{sample.key}.{FRAMES}", nowhere)
    images = members.get(f"{sample.key}.{IMAGES}", nowhere)
    width, height = (0, 0)
    if frames is not None:
        width, height = frames.width, frames.height
    elif sample.images:
        width, height = sample.images[0].width, sample.images[0].height
    media = [sample.video.sha256] if sample.video else [image.sha256 for image in sample.images]
    return [
        {
            "item_id": item.id,
            "key": sample.key,
            "sample_id": sample.id,
            "shard": shard,
            "split": split,
            "item_index": number,
            "kind": sample.kind,
            "source": sample.source,
            "licence": sample.licence,
            "redistributable": sample.redistributable,
            "ability": item.ability,
            "category": item.category,
            "benchmark": all(message.role != "assistant" for message in item.messages),
            "budget": item.budget,
            "n_frames": len(item.frame_ids),
            "demand": item.demand,
            "needs": item.needs,
            "duration": sample.video.duration if sample.video else None,
            "distinct": frames.distinct if frames else 0,
            "pool": list(sample.video.pool) if sample.video else [],
            "json_offset": text.offset,
            "json_size": text.size,
            "frames_offset": video.offset,
            "frames_size": video.size,
            "images_offset": images.offset,
            "images_size": images.size,
            "width": width,
            "height": height,
            "n_images": len(sample.images),
            "text_chars": sum(len(message.content) for message in item.messages),
            "media_sha256": media,
            "version": INDEX_VERSION,
        }
        for number, item in enumerate(sample.items)
    ]


def write_index(root: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write `index.parquet`."""
    table = pa.Table.from_pylist(list(rows), schema=SCHEMA)
    with atomic_file(root / INDEX) as file:
        pq.write_table(table, file, compression="zstd")


def read_index(root: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the index (or some of its columns).

    Raises:
        UsageError: It is missing, damaged or of another version.
    """
    path = root / INDEX
    try:
        with path.open("rb") as file:
            table = pq.read_table(file, columns=None if columns is None else [*columns, "version"])
    except (OSError, pa.ArrowException, KeyError) as error:
        raise UsageError(f"{path} cannot be read ({error}): pack again") from error
    versions = set(table["version"].unique().to_pylist())
    if versions - {INDEX_VERSION}:
        raise UsageError(f"{path} has version {versions}, this vtrap reads version {INDEX_VERSION}: pack again")
    return table.drop_columns(["version"])
