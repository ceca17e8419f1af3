"""How do samples become tars whose bytes depend on nothing but the samples?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import pyarrow as pa

from vtrap_data.files import atomic_file, canonical_json
from vtrap_data.media.tars import tar_members
from vtrap_data.shards.index import SCHEMA, index_rows, index_table
from vtrap_data.shards.manifest import DATA, Shard
from vtrap_data.shards.stored import StoredSample
from vtrap_data.shards.tokens import frame_tokens, images_tokens


class Written(NamedTuple):
    """The tars and the index of everything inside them."""

    shards: tuple[Shard, ...]
    index: pa.Table


def sample_key(number: int, sample_id: str) -> str:
    """Key of a sample: its place in the source, then a readable piece of its id. Never a dot, never a slash.

    Example:
        >>> sample_key(7, "clips/Café at 9.30.mp4")
        '00000007-clips-caf-at-9-30-mp4'
    """
    slug = re.sub(r"[^a-z0-9]+", "-", sample_id.lower()).strip("-")[:40].strip("-")
    return f"{number:08d}-{slug}" if slug else f"{number:08d}"


class ShardLimits(NamedTuple):
    """When a tar is full. One sample that is beyond a limit alone gets a tar of its own.

    Attributes:
        samples: Samples.
        bytes: Bytes of members, without the headers of the tar; None: no limit.
        tokens: Visual tokens of the items (`shards.tokens`); None: no limit.
    """

    samples: int
    bytes: int | None = None
    tokens: int | None = None


def write_shards(out: Path, samples: Iterable[StoredSample], *, split: str, limits: ShardLimits) -> Written:
    """Write `out/data/<split>-00000.tar` and on; each appears under its name only when it is whole.

    Args:
        out: The corpus folder.
        samples: In order. Read once, and never more than one at a time.
        split: Part of the file name.
        limits: When the next tar begins.
    """
    shards: list[Shard] = []
    tables: list[pa.Table] = []  # one per shard: a million rows as dicts would take gigabytes
    todo = _Ahead(iter(samples))
    while todo.next is not None:
        name = f"{DATA}/{split}-{len(shards):05d}.tar"
        facts = []
        with atomic_file(out / name) as file:
            sink = _Hashed(file)
            for stored in _write_tar(sink, _fill(todo, limits)):
                facts.append((stored.sample, stored.frames))
        shards.append(Shard(path=name, bytes=sink.size, sha256=sink.digest.hexdigest(), samples=len(facts)))
        members = dict(tar_members(out / name))
        rows: list[dict[str, Any]] = []
        for sample, frames in facts:
            rows += index_rows(sample, shard=name, split=split, members=members, frames=frames)
        tables.append(index_table(rows))
    return Written(tuple(shards), pa.concat_tables(tables) if tables else SCHEMA.empty_table())


def stored_tokens(stored: StoredSample) -> int:
    """Visual tokens that the items of a sample show a model, all together."""
    sample, size = stored.sample, stored.frames
    if size is not None:
        return sum(frame_tokens(len(item.frame_ids), size.width, size.height) for item in sample.items)
    return len(sample.items) * images_tokens([(image.width, image.height) for image in sample.images])


def remove_other_shards(out: Path, shards: Sequence[Shard]) -> None:
    """Remove tars of an earlier attempt that are not part of this one."""
    keep = {out / shard.path for shard in shards}
    for path in (out / DATA).glob("*"):
        if path not in keep and path.suffix == ".tar":
            path.unlink()


class _Ahead:
    """An iterator whose next sample can be looked at: it may belong into the next tar."""

    def __init__(self, samples: Iterator[StoredSample]) -> None:
        self._samples = samples
        self.next = next(samples, None)

    def take(self) -> StoredSample:
        taken = self.next
        assert taken is not None
        self.next = next(self._samples, None)
        return taken


def _fill(todo: _Ahead, limits: ShardLimits) -> Iterator[tuple[StoredSample, bytes]]:
    """The samples of one tar, each with its JSON member."""
    count = size = tokens = 0
    while (ahead := todo.next) is not None:
        text = canonical_json(ahead.sample.to_json())
        size += len(text) + sum(len(data) for data in ahead.members.values())
        tokens += stored_tokens(ahead) if limits.tokens is not None else 0
        full = (
            count >= limits.samples
            or (limits.bytes is not None and size > limits.bytes)
            or (limits.tokens is not None and tokens > limits.tokens)
        )
        if count and full:
            return
        count += 1
        yield todo.take(), text


def _write_tar(sink: _Hashed, samples: Iterable[tuple[StoredSample, bytes]]) -> Iterator[StoredSample]:
    # webdataset loads torch where torch is installed, which takes seconds: only the process that writes pays for it.
    from webdataset.writer import TarWriter

    # Whole-second mtime, no names: nothing of this machine, and no PAX header before each member.
    with TarWriter(sink, user="", group="", mtime=0, encoder=False) as tar:
        for stored, text in samples:
            # One call per member: TarWriter sorts the members of a call, and the facts should come before the frames.
            tar.write({"__key__": stored.sample.key, "json": text})
            for extension, data in sorted(stored.members.items()):
                tar.write({"__key__": stored.sample.key, extension: data})
            yield stored


class _Hashed:
    """A file that hashes what is written to it, so that the shard need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self._file.write(data)
