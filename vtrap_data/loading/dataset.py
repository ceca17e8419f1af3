"""How does one item come back, with exactly the frames that its budget selects? Map-style, by random access."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from PIL.Image import Image

from vtrap_data.errors import UsageError
from vtrap_data.media import images, jpeg
from vtrap_data.media.select import check_frames, frame_ids
from vtrap_data.samples import Example, Frames, PackedItem, PackedSample, PackedVideo
from vtrap_data.shards.index import frame_counts, read_index
from vtrap_data.shards.manifest import Manifest, read_manifest
from vtrap_data.shards.members import IMAGES, Span, spans, unpack_list
from vtrap_data.shards.reader import ShardReader
from vtrap_data.shards.stored import read_sample


class _Row(NamedTuple):
    """The cells of the index that reading an item takes."""

    item_id: str
    key: str
    shard: str
    item_index: int
    json_offset: int
    json_size: int
    frames_offset: int
    images_offset: int
    images_size: int


class _Cells:
    """The columns of a `_Row`, read where they lie: a cell as a scalar of pyarrow costs several times as much.

    Args:
        index: Whose columns they are.
    """

    def __init__(self, index: pa.Table) -> None:
        shards = _whole(index["shard"]).dictionary_encode()
        self._shards: list[str] = shards.dictionary.to_pylist()
        self._shard = memoryview(shards.indices.to_numpy())
        self._item_id, self._key = _Texts(index["item_id"]), _Texts(index["key"])
        self._numbers = [memoryview(_whole(index[name]).to_numpy()) for name in _Row._fields[3:]]

    def __getitem__(self, number: int) -> _Row:
        shard = self._shards[self._shard[number]]
        return _Row(self._item_id[number], self._key[number], shard, *[column[number] for column in self._numbers])


class _Texts:
    """A column of strings without gaps, read where they lie."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        if column.num_chunks != 1:
            column = column.cast(pa.large_string())  # more than 2 GiB do not fit into one piece otherwise
        texts = _whole(column)
        _, ends, data = texts.buffers()
        self._ends = memoryview(ends or b"").cast("q" if pa.types.is_large_string(texts.type) else "i")[texts.offset :]
        self._data = memoryview(data or b"")

    def __getitem__(self, number: int) -> str:
        return str(self._data[self._ends[number] : self._ends[number + 1]], "utf-8")


def _whole(column: pa.ChunkedArray) -> pa.Array:
    """In one piece; as it is, without a copy, where it is in one already."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


class _Media(NamedTuple):
    """Decoded, and whose: shard, key and frames."""

    of: tuple[str, str, tuple[int, ...]]
    frames: Frames | None
    images: tuple[Image, ...]


class PackedDataset:
    """The items of a packed corpus, map-style.

    Opening reads the manifest and the index; `dataset[i]` reads one JSON member and only the JPEGs that the item's
    budget selects, by position. Picklable, so that it can be handed to DataLoader workers.

    Args:
        root: Folder of the corpus.
        frames: "hybrid": the budgets that it was packed with. A number: that fixed budget for every video item.
        fetch: Brings a shard that is about to be read into the folder (`remote.Remote.fetch`); None: all are there.
        keep_last: Keep the media of the item that was read last in memory, for a reader that goes through them in
            order: several questions about the same video or picture follow each other, and it is decoded once.

    Raises:
        UsageError: No packed corpus there; or `frames` is no number, does not fit its pool, or frames are not stored.

    Example:
        >>> data = PackedDataset("corpus", frames=8)  # doctest: +SKIP
        >>> len(data), data[0].frames.times  # doctest: +SKIP
        (1200, (0.52, 1.56, ...))
    """

    def __init__(
        self,
        root: Path | str,
        *,
        frames: int | Literal["hybrid"] = "hybrid",
        fetch: Callable[[str], None] | None = None,
        keep_last: bool = False,
    ) -> None:
        check_frames(frames)
        self.root = Path(root)
        self.frames = frames
        self.keep_last = keep_last
        self._last: _Media | None = None
        self.manifest: Manifest = read_manifest(self.root)
        self._reader = ShardReader(self.root, fetch=fetch)
        index = read_index(self.root)
        if frames != "hybrid":
            index = _with_budget(index, frames, smallest=self.manifest.settings.smallest, root=self.root)
        self._index: pa.Table = index.combine_chunks()

    def __len__(self) -> int:
        return int(self._index.num_rows)

    def __getitem__(self, number: int) -> Example:
        """Item `number`, its media decoded: frames with their times, or images; nothing for text."""
        row = self._row(number)
        return self._example(row, self._sample(row))

    def example(self, number: int, sample: PackedSample) -> Example:
        """As `self[number]`, for whoever has read `self.sample(number)` already."""
        return self._example(self._row(number), sample)

    def _example(self, row: _Row, sample: PackedSample) -> Example:
        if row.item_index >= len(sample.items) or sample.items[row.item_index].id != row.item_id:
            raise UsageError(f"{self.root}: the index and {row.shard} are of different packs: run `doctor` on it")
        item = sample.items[row.item_index]
        if sample.video is not None and self.frames != "hybrid":
            item = replace(item, budget=self.frames, frame_ids=self._chosen(item, sample.video))
        media = self._media(row, sample.video, item.frame_ids)
        if len(media.images) != len(sample.images):
            raise UsageError(
                f"{self.root}: {row.key} has {len(media.images)} images of {len(sample.images)}: run `doctor`"
            )
        return Example(
            item=item,
            key=sample.key,
            source=sample.source,
            kind=sample.kind,
            frames=media.frames,
            images=media.images,
        )

    def __iter__(self) -> Iterator[Example]:
        return (self[number] for number in range(len(self)))

    @property
    def remote(self) -> bool:
        """Whether its shards are fetched when they are needed."""
        return self._reader.fetch is not None

    @property
    def rows(self) -> pa.Table:
        """The index (columns: `shards.index.SCHEMA`); `budget` and `n_frames` are those of the chosen setting."""
        return self._index

    def column(self, name: str) -> list[Any]:
        """One column of `rows` as Python values, one per item."""
        values: list[Any] = self._index[name].to_pylist()
        return values

    def sample(self, number: int) -> PackedSample:
        """What is stored about the media item of item `number`, without its frames."""
        return self._sample(self._row(number))

    def frame_ids(self, number: int) -> tuple[int, ...]:
        """The stored frames that the budget of item `number` selects; empty without a video."""
        row = self._row(number)
        sample = self._sample(row)
        return () if sample.video is None else self._chosen(sample.items[row.item_index], sample.video)

    def image_bytes(self, number: int) -> list[bytes]:
        """The original bytes of the images of item `number`; empty for video and text."""
        return self._images(self._row(number))

    def frame_bytes(self, number: int, ids: Sequence[int]) -> list[bytes]:
        """The stored JPEGs `ids` of the video of item `number`."""
        row = self._row(number)
        video = self._sample(row).video
        return [] if video is None else self._jpegs(row, video, ids)

    def _row(self, number: int) -> _Row:
        items = len(self)
        if not -items <= number < items:
            raise IndexError(f"item {number} of {items}")
        return self._cells[number % items]

    @cached_property
    def _cells(self) -> _Cells:
        return _Cells(self._index)

    def __getstate__(self) -> dict[str, Any]:
        # Without a second copy of the index, and without pixels.
        return {**{name: value for name, value in self.__dict__.items() if name != "_cells"}, "_last": None}

    def _chosen(self, item: PackedItem, video: PackedVideo) -> tuple[int, ...]:
        if self.frames == "hybrid":
            return item.frame_ids
        return frame_ids(video.pool, self.frames, smallest=self.manifest.settings.smallest)

    def _sample(self, row: _Row) -> PackedSample:
        return read_sample(self._reader, row.shard, Span(row.json_offset, row.json_size))

    def _images(self, row: _Row) -> list[bytes]:
        if row.images_offset < 0:
            return []
        try:
            (data,) = self._reader.read(row.shard, [Span(row.images_offset, row.images_size)])
            return unpack_list(data)
        except ValueError as error:
            raise UsageError(f"{self.root}: {IMAGES} of {row.key} is damaged ({error}): run `doctor`") from error

    def _jpegs(self, row: _Row, video: PackedVideo, ids: Sequence[int]) -> list[bytes]:
        try:
            stored = max(0, len(video.frame_bytes) - 1)
            if stored != len(video.frame_times) or min(ids, default=0) < 0:
                raise ValueError(f"{stored} frames for {len(video.frame_times)} times")
            wanted = [Span(row.frames_offset + start, length) for start, length in spans(video.frame_bytes, ids)]
        except (ValueError, IndexError) as error:
            raise UsageError(f"{self.root}: frames of {row.key} are damaged ({error}): run `doctor`") from error
        return self._reader.read(row.shard, wanted)

    def _media(self, row: _Row, video: PackedVideo | None, ids: tuple[int, ...]) -> _Media:
        of = (row.shard, row.key, ids)
        last = self._last
        if last is not None and last.of == of:
            return last
        media = _Media(
            of,
            None if video is None else self._frames(row, video, ids),
            tuple(images.load_image(data, name=row.key) for data in self._images(row)),
        )
        if self.keep_last:
            self._last = media
        return media

    def _frames(self, row: _Row, video: PackedVideo, ids: Sequence[int]) -> Frames:
        pixels = jpeg.decode_all(self._jpegs(row, video, ids), name=row.key)
        return Frames(pixels=pixels, times=tuple(video.frame_times[i] for i in ids))


def _with_budget(index: pa.Table, frames: int, *, smallest: int, root: Path) -> pa.Table:
    """The index as if every video item had been granted `frames`."""
    counts = frame_counts(index, frames, smallest=smallest)
    lacking = np.flatnonzero(counts < 0)
    if lacking.size:
        raise UsageError(
            f"{root} does not store {frames} frames for {lacking.size} of its items "
            f"(the first: {index['item_id'][int(lacking[0])].as_py()}): "
            f"pack it with --store {frames}, or use frames='hybrid'"
        )
    for name, values in (("budget", np.where(counts > 0, frames, 0)), ("n_frames", counts)):
        place = index.schema.get_field_index(name)
        index = index.set_column(place, index.schema.field(name), pa.array(values, index.schema.field(name).type))
    return index
