"""How does a corpus that lies elsewhere come back, without being downloaded first: http, the Hub, a bucket?

Through `datasets` in streaming mode, shard after shard. Whole samples travel, since tars are read from front to back;
of those only the frames that a budget needs are decoded. Where a corpus fits on the local disk, `Corpus` reads less
and shuffles better.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from hub_cards.dataset_card import features
from hub_cards.errors import redact
from vtrap_data.errors import SampleError, UnreachableError, UsageError, first_line
from vtrap_data.loading.order import ORDER_VERSION, check_state, permutation
from vtrap_data.loading.remote import read_small
from vtrap_data.media import images, jpeg
from vtrap_data.media.select import FramesNotStoredError, check_frames, frame_ids
from vtrap_data.samples import Example, Frames, PackedItem, PackedSample
from vtrap_data.shards.manifest import MANIFEST, Shard, parse_manifest
from vtrap_data.shards.members import FRAMES, IMAGES


class Stream:
    """The items of a corpus at an address. One iteration is what is left of one epoch.

    The order is a pure function of (seed, epoch): shards in random order, and the items of every `block` samples
    shuffled among themselves. The state is exact; going on reads the shard that was open from its start up to there.

    An iteration ends with a SampleError at an item with a frame or picture that cannot be decoded; the place is then
    behind that item, and another iteration goes on with the next. It ends with a UsageError where a shard is damaged,
    cut off or not the one that the manifest names, and with an UnreachableError where one does not come; the place
    then stays where it was.

    Args:
        location: A folder, or an address that fsspec knows: `https://...`, `hf://datasets/owner/name`, `s3://...`.
        frames: "hybrid": the packed budgets; a number: that budget for every video item.
        seed: Of the order.
        shuffle: False: as packed.
        block: Samples that are held and shuffled together; what is held is encoded.
        rank: Of this process, or number of this worker.
        ranks: How many share the shards. Each takes whole shards.
        storage_options: For fsspec: tokens, endpoints.

    Raises:
        UsageError: Nothing packed there, fewer shards than ranks, or a budget that does not fit.
    """

    def __init__(
        self,
        location: str | Path,
        *,
        frames: int | Literal["hybrid"] = "hybrid",
        seed: int = 0,
        shuffle: bool = True,
        block: int = 16,
        rank: int = 0,
        ranks: int = 1,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        check_frames(frames)
        self.location = str(location).rstrip("/")
        self.frames = frames
        self.seed, self.shuffle, self.block = seed, shuffle, block
        self.rank, self.ranks = rank, ranks
        self.storage_options = dict(storage_options or {})
        said = read_small(f"{self.location}/{MANIFEST}", self.storage_options)
        self.manifest = parse_manifest(said, where=f"{redact(self.location)}/{MANIFEST}")
        if block < 1 or seed < 0 or ranks < 1 or not 0 <= rank < ranks:
            raise UsageError(
                f"block {block} must be 1 or more, seed {seed} 0 or more, rank {rank} below ranks {ranks}"
            )
        if len(self.manifest.shards) < ranks:
            raise UsageError(
                f"{redact(self.location)} has {len(self.manifest.shards)} shards, too few for {ranks} ranks: "
                "pack it with a smaller --samples-per-shard, or download it and use Corpus"
            )
        if frames != "hybrid":
            frame_ids(range(self.manifest.settings.slots), frames, smallest=self.manifest.settings.smallest)
        self.epoch = 0
        self._begin: dict[str, Any] | None = None  # where `datasets` stood before the open block
        self._blocks = 0  # blocks of this epoch before it
        self._given = 0  # items of it that were handed out

    def __iter__(self) -> Iterator[Example]:
        rows = self._rows(self.epoch)
        if self._begin is None:
            self._begin = _state(rows)
        else:
            rows.load_state_dict(self._begin)  # which `rows` does not tell before it is iterated
        todo = self._whole(iter(rows), done=self._blocks * self.block)
        while held := list(islice(todo, self.block)):
            samples = [(row, self._sample(row)) for row in held]
            places = [(row, sample, number) for row, sample in samples for number in range(len(sample.items))]
            order = range(len(places))
            if self.shuffle:
                order = permutation(len(places), self.seed, 4, self.epoch, self.rank, self._blocks).tolist()
            for place in islice(order, self._given, None):
                try:
                    example = self._example(*places[place])
                except SampleError:
                    self._given += 1
                    raise
                self._given += 1
                yield example
            self._begin, self._blocks, self._given = _state(rows), self._blocks + 1, 0
        self.epoch, self._begin, self._blocks, self._given = self.epoch + 1, None, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, JSON-ready: after the last item that was handed out."""
        place = {"begin": self._begin, "blocks": self._blocks, "given": self._given}
        return {"epoch": self.epoch, **place, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            UsageError: The state is of another corpus or order.
        """
        check_state(state, self._identity())
        self.epoch, self._begin = state["epoch"], state["begin"]
        self._blocks, self._given = state["blocks"], state["given"]

    def shards(self, epoch: int) -> list[str]:
        """Addresses of the shards of this rank in the order of an epoch."""
        return [f"{self.location}/{shard.path}" for shard in self._shards(epoch)]

    def _shards(self, epoch: int) -> list[Shard]:
        shards = list(self.manifest.shards)
        if self.shuffle:
            shards = [shards[i] for i in permutation(len(shards), self.seed, 3, epoch)]
        return shards[self.rank :: self.ranks]

    def _identity(self) -> dict[str, Any]:
        return {
            "order_version": ORDER_VERSION,
            "corpus": self.manifest.index_sha256,
            "frames": self.frames,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "block": self.block,
            "rank": self.rank,
            "ranks": self.ranks,
        }

    def _rows(self, epoch: int) -> Any:
        """Rows of `datasets`, media as bytes."""
        from datasets import Features, Image, List, load_dataset

        if self.location.startswith("s3://"):
            _open_s3_for_datasets()
        files = self.shards(epoch)
        if "://" not in self.location:  # `datasets` looks for what names with brackets match
            files = [name.replace("[", "[[]") for name in files]
        # The features of the card: left to guess, `datasets` would drop and truncate what the first rows do not have.
        declared = Features._from_yaml_list(features())
        for name in (FRAMES, IMAGES):
            declared[name] = List(Image(decode=False))
        try:
            return load_dataset(
                "webdataset",
                data_files={"train": files},
                split="train",
                streaming=True,
                features=declared,
                storage_options=self.storage_options or None,
            )
        except FileNotFoundError as error:  # it names the shard; also where a server is too busy to say what it has
            raise UsageError(
                f"{redact(self.location)}: {redact(first_line(error))}: run `doctor` on it; try again if it is there"
            ) from None

    def _whole(self, rows: Iterator[Mapping[str, Any]], *, done: int) -> Iterator[Mapping[str, Any]]:
        """The rows behind the `done` first of the epoch, of each shard as many as the manifest says.

        To `datasets` a tar that was cut off after a sample ends there like one that is whole.
        """
        for shard in self._shards(self.epoch):
            for number in range(min(done, shard.samples), shard.samples):
                row = self._next(rows, shard, number)
                came = None if row is None else PurePosixPath(row["__url__"] or "").name
                if row is None or came != PurePosixPath(shard.path).name:
                    raise self._lacking(shard, number, "the stream ends" if row is None else f"then comes {came}")
                yield row
            done = max(0, done - shard.samples)
        if self._next(rows, shard, shard.samples) is not None:
            raise self._lacking(shard, shard.samples, "and more come")

    def _next(self, rows: Iterator[Mapping[str, Any]], shard: Shard, number: int) -> Mapping[str, Any] | None:
        try:
            return next(rows, None)
        except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise self._lacking(shard, number, first_line(error)) from error
        except Exception as error:  # every file system raises errors of its own, and few are OSErrors
            raise UnreachableError(
                f"{redact(self.location)}/{shard.path} did not come whole ({type(error).__name__}: "
                f"{redact(first_line(error))}): iterate again, or from the state as it is now, to go on"
            ) from error

    def _lacking(self, shard: Shard, number: int, why: str) -> UsageError:
        return UsageError(
            f"{redact(self.location)}: {shard.path} gives {number} of its {shard.samples} samples ({redact(why)}): "
            "it is cut off, damaged or of another pack; run `doctor` on it"
        )

    def _sample(self, row: Mapping[str, Any]) -> PackedSample:
        try:
            return PackedSample.from_json(_member(row, "json"))
        except ValueError as error:
            raise self._damaged(row, error) from error

    def _example(self, row: Mapping[str, Any], sample: PackedSample, number: int) -> Example:
        try:
            return self._read(sample, row, number)
        except (ValueError, IndexError) as error:
            raise self._damaged(row, error) from error

    def _damaged(self, row: Mapping[str, Any], error: Exception) -> UsageError:
        where = f"sample {row['__key__']} of {PurePosixPath(row['__url__'] or '').name}"
        return UsageError(f"{redact(self.location)}: {where} is damaged ({error}): run `doctor` on it")

    def _read(self, sample: PackedSample, row: Mapping[str, Any], number: int) -> Example:
        item = sample.items[number]
        frames = None
        if sample.video is not None:
            item = self._budgeted(item, sample)
            blobs = _blobs(row, FRAMES)
            if min(item.frame_ids, default=0) < 0:
                raise ValueError(f"item {item.id!r} has the frames {item.frame_ids}")
            frames = Frames(
                pixels=jpeg.decode_all([blobs[i] for i in item.frame_ids], name=sample.key),
                times=tuple(sample.video.frame_times[i] for i in item.frame_ids),
            )
        pictures = _blobs(row, IMAGES) if sample.images else []
        if len(pictures) != len(sample.images):
            raise ValueError(f"{len(pictures)} images of {len(sample.images)}")
        return Example(
            item=item,
            key=sample.key,
            source=sample.source,
            kind=sample.kind,
            frames=frames,
            images=tuple(images.load_image(data, name=sample.key) for data in pictures),
        )

    def _budgeted(self, item: PackedItem, sample: PackedSample) -> PackedItem:
        if self.frames == "hybrid" or sample.video is None:
            return item
        try:
            ids = frame_ids(sample.video.pool, self.frames, smallest=self.manifest.settings.smallest)
        except FramesNotStoredError as error:
            raise FramesNotStoredError(f"{redact(self.location)}: {item.id}: {error}") from None
        return replace(item, budget=self.frames, frame_ids=ids)


def _state(rows: Any) -> dict[str, Any]:
    """Where `datasets` stands, apart from what it goes on changing."""
    state: dict[str, Any] = json.loads(json.dumps(rows.state_dict()))
    return state


def _member(row: Mapping[str, Any], name: str) -> Any:
    if row[name] is None:  # as `datasets` gives a member that is missing
        raise ValueError(f"its {name} is missing")
    return row[name]


def _blobs(row: Mapping[str, Any], name: str) -> list[bytes]:
    """The byte strings of a member."""
    found = [blob and blob["bytes"] for blob in _member(row, name)]
    if not all(isinstance(one, bytes) for one in found):
        raise ValueError(f"its {name} holds what are no bytes")
    return found


@cache
def _open_s3_for_datasets() -> None:
    """`datasets` opens tars with a `block_size`, which s3fs takes for a setting of its session, and fails."""
    import fsspec  # type: ignore[import-untyped]
    from s3fs import S3FileSystem  # type: ignore[import-untyped]

    class Tolerant(S3FileSystem):  # type: ignore[misc]
        def __init__(self, *args: Any, block_size: int | None = None, **options: Any) -> None:
            super().__init__(*args, **options)

    fsspec.register_implementation("s3", Tolerant, clobber=True)
