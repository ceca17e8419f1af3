"""Where is each item, and what must be known about it without opening a shard? (`index.parquet`, a row per item)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vtrap_data.errors import UsageError
from vtrap_data.files import atomic_file
from vtrap_data.media.select import FramesNotStoredError, frame_ids
from vtrap_data.media.tars import Member
from vtrap_data.samples import PackedSample
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
_MAY_LACK = frozenset({"redistributable", "ability", "category", "demand", "needs", "duration"})


class FrameFacts(NamedTuple):
    """What the index says about a video's frames and the sample's JSON does not."""

    width: int
    height: int
    distinct: int


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
    media = list(sample.media)
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


def index_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Rows as a table of `SCHEMA`: about a tenth of the memory that the dicts take."""
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def count_rows(index: pa.Table) -> dict[str, int]:
    """The counts of a manifest that follow from the index: samples, items, one per kind, frames, duplicates."""
    firsts = index.select(["kind", "pool", "media_sha256"]).filter(pc.equal(index["item_index"], 0))
    kinds = {pair["values"]: pair["counts"] for pair in firsts["kind"].value_counts().to_pylist()}
    # Piece by piece: beside each slot of a pool, its sample has to be named.
    frames = sum(_distinct_slots(batch.column("pool")) for batch in firsts.select(["pool"]).to_batches(_PIECE))
    media = pc.list_flatten(firsts["media_sha256"])
    return {
        "samples": firsts.num_rows,
        "items": index.num_rows,
        **{f"samples_{kind}": kinds.get(kind, 0) for kind in ("video", "images", "text")},
        "items_video": pc.sum(pc.equal(index["kind"], "video")).as_py() or 0,
        "frames_stored": frames,
        "frames_used": pc.sum(index["n_frames"]).as_py() or 0,
        "duplicate_media": len(media) - len(media.unique()),
    }


_PIECE = 65_536


def _distinct_slots(pools: pa.Array) -> int:
    """Stored frames that the pools point at, those of each pool counted once."""
    slots = pa.table({"sample": pc.list_parent_indices(pools), "frame": pc.list_flatten(pools)})
    slots = slots.filter(pc.greater_equal(slots["frame"], 0))  # -1: not stored
    return int(slots.group_by(["sample", "frame"]).aggregate([]).num_rows)


def count_values(table: pa.Table, *columns: str) -> dict[tuple[Any, ...], int]:
    """How often each combination of values occurs, in the order of first appearance."""
    groups = table.group_by(list(columns), use_threads=False).aggregate([([], "count_all")])
    return {tuple(group[name] for name in columns): group["count_all"] for group in groups.to_pylist()}


def frame_counts(index: pa.Table, budgets: int | NDArray[np.int64], *, smallest: int) -> NDArray[np.int64]:
    """How many stored frames a budget selects for each item.

    Args:
        index: With the columns `kind` and `pool`.
        budgets: One budget for all items, or int64 [items].
        smallest: The smallest candidate budget of the pack.

    Returns:
        int64 [items]; 0 where there is no video, -1 where frames of the budget are not stored.

    Raises:
        UsageError: The budget does not fit the pool.
    """
    wanted = np.broadcast_to(np.asarray(budgets, dtype=np.int64), (index.num_rows,)).tolist()
    videos = pc.equal(index["kind"], "video").to_pylist()
    pools = index["pool"].combine_chunks()
    starts, slots = pools.offsets.to_numpy().tolist(), pools.values.to_numpy()
    known: dict[tuple[bytes, int], int] = {}  # most pools are alike, and all items about a video have the same
    counts = np.zeros(index.num_rows, dtype=np.int64)
    for item, (video, frames) in enumerate(zip(videos, wanted, strict=True)):
        if not video:
            continue
        pool = slots[starts[item] : starts[item + 1]]
        key = (pool.tobytes(), frames)
        if key not in known:
            try:
                known[key] = len(frame_ids(pool.tolist(), frames, smallest=smallest))
            except FramesNotStoredError:
                known[key] = -1
        counts[item] = known[key]
    return counts


def write_index(root: Path, index: pa.Table) -> None:
    """Write `index.parquet`."""
    with atomic_file(root / INDEX) as file:
        # In one piece, so that the bytes do not depend on how the rows were gathered.
        pq.write_table(index.combine_chunks(), file, compression="zstd")


def read_index(root: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the index (or some of its columns).

    Raises:
        UsageError: It is missing, damaged or of another version.
    """
    path = root / INDEX
    try:
        # Not Python's file: a thread of Arrow's may still let go of it when the interpreter has gone, and aborts.
        with pa.OSFile(str(path)) as file:
            table = pq.read_table(file, columns=None if columns is None else [*columns, "version"])
            table = table.select(SCHEMA.names if columns is None else [*columns, "version"])
        for field in table.schema:
            if field.type != (wanted := SCHEMA.field(field.name).type):
                raise pa.ArrowInvalid(f"column {field.name} holds {field.type}, not {wanted}")
            if table[field.name].null_count and field.name not in _MAY_LACK:
                raise pa.ArrowInvalid(f"column {field.name} has gaps")
    # OSError is also what damaged pages raise; the rest comes out of hostile schemas.
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise UsageError(f"{path} cannot be read ({' '.join(str(error).split())}): pack again") from error
    versions = set(table["version"].unique().to_pylist())
    if versions - {INDEX_VERSION}:
        raise UsageError(f"{path} has version {versions}, this vtrap reads version {INDEX_VERSION}: pack again")
    return table.drop_columns(["version"])
