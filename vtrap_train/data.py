"""Which samples does a run train on, and how often is each seen in an epoch?

`--data A,B:0.5,C:2` is a mixture of packed datasets. The weight is the number of times an epoch sees each item of that
dataset: 2 sees everything twice, 0.5 a random half of it (the same half in every epoch; which one follows from the
seed). `--data A:90%,B:10%` gives shares of an epoch instead, which sees the items of A once.

TRL gets a plain table of row numbers, so that shuffling, sharding over ranks and resuming stay its own business; media
are opened by the collator, in the loader's workers. With `--streaming` the same rows come in an order that is inside a
few shards at a time, and shards are fetched when they are needed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hub_cards.errors import Failed, redact
from hub_cards.reachable import snapshot, unreachable
from vtrap_data.encoding import Shown, Size, join
from vtrap_data.encoding.models import split_revision
from vtrap_data.encoding.turns import Turns
from vtrap_data.errors import UsageError
from vtrap_data.files import sha256_file
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.loading.order import stream_rows
from vtrap_data.loading.remote import open_remote
from vtrap_data.media.select import frame_ids
from vtrap_data.samples import Example, Message, PackedSample
from vtrap_data.shards.manifest import INDEX

Frames = int | Literal["hybrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One `DIR_OR_ID[:weight]` of `--data`.

    Attributes:
        location: Folder, Hub id or address.
        weight: Times an epoch sees each item.
        share: Of an epoch, in place of a weight; None: it has a weight.
    """

    location: str
    weight: float = 1.0
    share: float | None = None


class Streaming(NamedTuple):
    """How a mixture is read as a stream.

    Attributes:
        shards: Of each dataset, among which samples are shuffled.
        cache: Folder for those in use.
        seed: Of the order.
        shuffle: False: as packed, part after part.
    """

    shards: int
    cache: Path
    seed: int
    shuffle: bool = True


def parse_frames(text: str) -> Frames:
    """`hybrid` or a number of frames. Raises UsageError for anything else."""
    if text == "hybrid":
        return "hybrid"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--frames {text!r} is neither 'hybrid' nor a positive number of frames")


def parse_data(text: str) -> tuple[Part, ...]:
    """Parse `--data`. Raises UsageError for an empty part, a weight that is not above 0, shares that are not 100 %."""
    parts: list[Part] = []
    for piece in text.split(","):
        location, colon, tail = piece.strip().rpartition(":")
        if not colon:
            location, tail = tail, "1"
        percent = bool(colon) and tail.endswith("%")
        try:
            weight = float(tail.removesuffix("%")) / (100 if percent else 1)
        except ValueError:
            location, weight, percent = piece.strip(), 1.0, False  # the colon belongs to the path
        if re.fullmatch(r"\w+://[^/:]*", location):
            location, weight = piece.strip(), 1.0  # a port: http://host:8000
        if not location or not 0 < weight < float("inf"):
            raise UsageError(f"--data {redact(piece)!r} is not DIR_OR_ID[:weight] with a weight above 0")
        parts.append(Part(location=location, share=weight) if percent else Part(location=location, weight=weight))
    shares = [part.share for part in parts if part.share is not None]
    if shares and (len(shares) < len(parts) or abs(sum(shares) - 1) > 1e-3):
        raise UsageError(
            f"--data {redact(text)!r}: with one share in %, every dataset has one, and together they are 100 % "
            f"(here {len(shares)} of {len(parts)}, {sum(shares):.1%})"
        )
    return tuple(parts)


def locate(location: str, *, setting: str = "--data") -> Path:
    """The directory of a packed dataset: a local one, or one downloaded from the Hub (`@REVISION` may follow)."""
    path = Path(location).expanduser()
    if (path / INDEX).is_file():
        return path
    given = f"{setting} {redact(location)!r}"
    if "://" in location:
        raise UsageError(f"{given} is an address: read it with --streaming, or download it first")
    name, revision = split_revision(location)
    if path.exists() or name.count("/") != 1 or location.startswith((".", "/", "~")):
        raise UsageError(
            f"{given} is no packed dataset (a directory with {INDEX}, as `vtrap_data pack` writes it) and "
            "no Hub id of the form owner/name"
        )
    try:
        return snapshot(name, repo_type="dataset", revision=revision)
    except Failed as error:
        raise UsageError(
            f"{given} is not a local directory and could not be downloaded from the Hub "
            f"({error}): check the name, the network and `hf auth login`"
        ) from error


def opened(location: str, *, frames: Frames, streaming: Streaming | None) -> PackedDataset:
    """The dataset at a location; with `streaming`, one whose shards come when they are needed."""
    if streaming is None or (Path(location).expanduser() / INDEX).is_file():
        return PackedDataset(locate(location), frames=frames)
    if "://" not in location:
        name = split_revision(location).name
        if Path(location).expanduser().exists() or name.count("/") != 1 or location.startswith((".", "/", "~")):
            locate(location)  # says what is wrong
        location = _pinned(location)
    # What is in use, what the loader's workers read ahead, and some room to do so.
    remote = open_remote(location, cache=streaming.cache, keep=2 * streaming.shards + 2)
    return PackedDataset(remote.root, frames=frames, fetch=remote.fetch)


def _pinned(location: str) -> str:
    """The address of a dataset on the Hub, at the commit that is there now: it may change while training."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    name, revision = split_revision(location)
    away = unreachable()
    try:
        if away is not None:
            raise ConnectionError(away)
        return f"hf://datasets/{name}@{HfApi().dataset_info(name, revision=revision).sha}"
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UsageError(
            f"--data {redact(location)!r} is not a local directory and was not found on the Hub "
            f"({away or type(error).__name__}): check the name, the network and `hf auth login`"
        ) from error


class Outline(NamedTuple):
    """A row without its pixels: what is said, and the sizes of what is shown."""

    messages: tuple[Message, ...]
    shown: Shown


class Mixture:
    """Packed datasets behind one row number, in the order and multiplicity of `--data`.

    Attributes:
        parts: As given.
        datasets: One per part.
        turns: "separate": a row is an item. "joined": the items of a media item are one conversation.
        rows: int64 [rows in an epoch, 2]: number of the part, number of the item (or conversation) in its dataset.
        sources: Names of the corpora in all parts, sorted.
        streaming: How it is read as a stream; None: at random.
        weights: For each part how often an epoch sees each of its rows.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        *,
        frames: Frames,
        seed: int,
        turns: Turns = "separate",
        streaming: Streaming | None = None,
    ) -> None:
        self.parts = tuple(parts)
        self.turns = turns
        self.streaming = streaming
        self.datasets = tuple(opened(p.location, frames=frames, streaming=streaming) for p in parts)
        for part, dataset in zip(self.parts, self.datasets, strict=True):
            if len(dataset) == 0:
                raise UsageError(f"--data {part.location!r} holds no items")
        self._groups: list[list[tuple[int, ...]]] = [_groups(dataset, turns) for dataset in self.datasets]
        self.weights = _weights(self.parts, [len(groups) for groups in self._groups])
        rows = [
            [(number, item) for item in _repeat(len(groups), weight, seed=seed + number)]
            for number, (groups, weight) in enumerate(zip(self._groups, self.weights, strict=True))
        ]
        for part, weight, mine, groups in zip(self.parts, self.weights, rows, self._groups, strict=True):
            if not mine:
                raise UsageError(
                    f"--data {part.location!r} with weight {weight:.3g} adds none of its {len(groups)} rows to an "
                    f"epoch: take more than {0.5 / len(groups):.3g}, or leave it out"
                )
        self.rows = np.asarray([row for group in rows for row in group], dtype=np.int64).reshape(-1, 2)
        self._places: tuple[list[int], ...] = tuple(d.column("item_index") for d in self.datasets)
        self._sources: tuple[list[str], ...] = tuple(d.column("source") for d in self.datasets)
        self._ids: tuple[list[str], ...] = tuple(d.column("item_id") for d in self.datasets)
        self.sources = tuple(sorted({name for names in self._sources for name in names}))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        part, items = self._items(row)
        return join([self.datasets[part][item] for item in items])

    def order(self, epoch: int) -> NDArray[np.int64]:
        """int64 [rows]: the rows in the order in which a stream gives them."""
        assert self.streaming is not None
        visits = []
        for number, (dataset, groups) in enumerate(zip(self.datasets, self._groups, strict=True)):
            names, shard = np.unique(dataset.column("shard"), return_inverse=True)
            items = self.rows[self.rows[:, 0] == number, 1]
            first = np.asarray([groups[i][0] for i in items.tolist()], dtype=np.int64)
            passes = np.arange(len(items)) // len(groups)
            visits.append(passes * len(names) + shard[first])
        how = self.streaming
        return stream_rows(visits, window=how.shards, seed=how.seed, epoch=epoch, shuffle=how.shuffle)

    def at_hand(self) -> NDArray[np.bool_]:
        """Whether a row may be looked into without fetching much: of a remote dataset one shard may. bool [rows]."""
        fine = []
        for dataset, groups in zip(self.datasets, self._groups, strict=True):
            shards = dataset.column("shard")
            fine.append(np.asarray([not dataset.remote or shards[items[0]] == shards[0] for items in groups]))
        return np.asarray([fine[part][group] for part, group in self.rows.tolist()])

    def source_of(self, row: int) -> str:
        """Corpus of a row, without opening it."""
        part, items = self._items(row)
        return str(self._sources[part][items[0]])

    def id_of(self, row: int) -> str:
        """Item id of a row, without opening it."""
        part, items = self._items(row)
        return str(self._ids[part][items[0]])

    def shard_of(self, row: int) -> str:
        """File that a row is stored in."""
        part, items = self._items(row)
        dataset = self.datasets[part]
        return str(dataset.root / dataset.rows["shard"][items[0]].as_py())  # one cell: a column has as many as items

    def outline(self, row: int) -> Outline:
        """The conversation of a row and what it shows, without opening its media."""
        part, items = self._items(row)
        dataset = self.datasets[part]
        sample: PackedSample = dataset.sample(items[0])
        bare = [
            Example(
                item=sample.items[int(self._places[part][item])],
                key=sample.key,
                source=sample.source,
                kind=sample.kind,
                frames=None,
                images=(),
            )
            for item in items
        ]
        messages = join(bare).item.messages
        if sample.video is None:
            return Outline(messages, Shown(images=tuple(Size(i.width, i.height) for i in sample.images)))
        used: set[int] = set()
        for example in bare:
            ids = example.item.frame_ids
            if dataset.frames != "hybrid":
                smallest = dataset.manifest.settings.smallest
                ids = frame_ids(sample.video.pool, dataset.frames, smallest=smallest)
            used |= set(ids)
        size = Size(*(int(dataset.rows[name][items[0]].as_py()) for name in ("width", "height")))
        times = tuple(sample.video.frame_times[i] for i in sorted(used))
        return Outline(messages, Shown(frames=len(times), frame_size=size, times=times))

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One column of the indices for every row of an epoch, in row order.

        Of the items of one conversation: the sum of `text_chars`, the largest of `n_frames` and `budget`, as budgets
        nest, and the first of the others.
        """
        columns = []
        for dataset, groups in zip(self.datasets, self._groups, strict=True):
            values = dataset.column(name)
            columns.append(np.asarray([_together(name, [values[i] for i in items]) for items in groups]))
        return np.concatenate([columns[p][self.rows[self.rows[:, 0] == p, 1]] for p in range(len(columns))])

    def _items(self, row: int) -> tuple[int, tuple[int, ...]]:
        part, group = self.rows[row].tolist()
        return part, self._groups[part][group]

    def describe(self) -> list[dict[str, Any]]:
        """What goes into the training summary: location, weight, items, how many an epoch sees, content hash."""
        seen = Counter(self.rows[:, 0].tolist())
        return [
            {
                "data": redact(part.location),  # it is published
                "weight": self.weights[number],
                "items": len(dataset),
                "per_epoch": seen[number],
                "index_sha256": sha256_file(dataset.root / INDEX),
            }
            for number, (part, dataset) in enumerate(zip(self.parts, self.datasets, strict=True))
        ]

    def on_hub(self) -> list[dict[str, str | None] | None]:
        """For each part the `id` on the Hub that it came from and the `revision` (None: the newest); None: local."""
        found: list[dict[str, str | None] | None] = []
        for part, dataset in zip(self.parts, self.datasets, strict=True):
            name, revision = split_revision(part.location)
            local = "://" in part.location or (Path(part.location).expanduser() / INDEX).is_file()
            commit = dataset.root.name if dataset.root.parent.name == "snapshots" else revision
            found.append(None if local else {"id": name, "revision": commit})
        return found


def _groups(dataset: PackedDataset, turns: Turns) -> list[tuple[int, ...]]:
    """Numbers of the items that make up each row: one, or all about a medium, in the order they are stored in."""
    if turns == "separate":
        return [(item,) for item in range(len(dataset))]
    found: dict[str, list[int]] = {}
    for item, key in enumerate(dataset.column("key")):
        found.setdefault(key, []).append(item)
    return [tuple(items) for items in found.values()]


def _together(name: str, values: list[Any]) -> Any:
    if name == "text_chars":
        return sum(values)
    return max(values) if name in ("n_frames", "budget") else values[0]


def _weights(parts: Sequence[Part], sizes: Sequence[int]) -> list[float]:
    """Times an epoch sees each row. With shares, the rows of the first part once and of the others what fits to it."""
    if parts[0].share is None:
        return [part.weight for part in parts]
    total = sizes[0] / parts[0].share
    return [(part.share or 0.0) * total / size for part, size in zip(parts, sizes, strict=True)]


def _repeat(items: int, weight: float, *, seed: int) -> list[int]:
    whole, rest = divmod(weight, 1)
    extra = np.random.default_rng(seed).permutation(items)[: round(rest * items)]
    return [i for _ in range(int(whole)) for i in range(items)] + sorted(extra.tolist())
