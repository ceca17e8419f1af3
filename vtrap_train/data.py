"""Which samples does a run train on, and how often is each seen in an epoch?

`--data A,B:0.5,C:2` is a mixture of packed datasets. The weight is the number of times an epoch sees each item of that
dataset: 2 sees everything twice, 0.5 a random half of it (the same half in every epoch; which one follows from the
seed). TRL gets a plain table of row numbers, so that shuffling, sharding over ranks and resuming stay its own
business; media are opened by the collator, in the loader's workers.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.samples import Example, Message, PackedSample

Frames = int | Literal["hybrid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One `DIR_OR_ID[:weight]` of `--data`."""

    location: str
    weight: float = 1.0


def parse_frames(text: str) -> Frames:
    """`hybrid` or a number of frames. Raises UsageError for anything else."""
    if text == "hybrid":
        return "hybrid"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise UsageError(f"--frames {text!r} is neither 'hybrid' nor a positive number of frames")


def parse_data(text: str) -> tuple[Part, ...]:
    """Parse `--data`. Raises UsageError for an empty part or a weight that is not a positive number."""
    parts = []
    for piece in text.split(","):
        location, colon, tail = piece.strip().rpartition(":")
        if not colon:
            location, tail = tail, "1"
        try:
            weight = float(tail)
        except ValueError:
            location, weight = piece.strip(), 1.0  # the colon belongs to the path
        if not location or not 0 < weight < float("inf"):
            raise UsageError(f"--data {piece!r} is not DIR_OR_ID[:weight] with a weight above 0")
        parts.append(Part(location=location, weight=weight))
    return tuple(parts)


def locate(location: str) -> Path:
    """The directory of a packed dataset: a local one, or one that is downloaded from the Hub."""
    path = Path(location).expanduser()
    if (path / "index.parquet").is_file():
        return path
    if path.exists() or location.count("/") != 1 or location.startswith((".", "/", "~")):
        raise UsageError(
            f"--data {location!r} is no packed dataset (a directory with index.parquet, as `vtrap_data pack` writes "
            "it) and no Hub id of the form owner/name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(location, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"--data {location!r} is not a local directory and could not be downloaded from the Hub "
            f"({type(error).__name__}): check the name, the network and `hf auth login`"
        ) from error


class Mixture:
    """Packed datasets behind one row number, in the order and multiplicity of `--data`.

    Attributes:
        parts: As given.
        datasets: One per part.
        rows: int64 [items in an epoch, 2]: number of the part, number of the item in its dataset.
        sources: Names of the corpora in all parts, sorted.
    """

    def __init__(self, parts: Sequence[Part], *, frames: Frames, seed: int) -> None:
        self.parts = tuple(parts)
        self.roots = tuple(locate(p.location) for p in parts)
        self.datasets = tuple(PackedDataset(root, frames=frames) for root in self.roots)
        rows = []
        for number, (part, dataset) in enumerate(zip(self.parts, self.datasets, strict=True)):
            if len(dataset) == 0:
                raise UsageError(f"--data {part.location!r} holds no items")
            rows.append([(number, item) for item in _repeat(len(dataset), part.weight, seed=seed + number)])
        self.rows = np.asarray([row for group in rows for row in group], dtype=np.int64).reshape(-1, 2)
        self._places: tuple[list[int], ...] = tuple(d.column("item_index") for d in self.datasets)
        self._sources: tuple[list[str], ...] = tuple(d.column("source") for d in self.datasets)
        self.sources = tuple(sorted({name for names in self._sources for name in names}))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Example:
        part, item = self.rows[row].tolist()
        example: Example = self.datasets[part][item]
        return example

    def source_of(self, row: int) -> str:
        """Corpus of a row, without opening it."""
        part, item = self.rows[row].tolist()
        return str(self._sources[part][item])

    def messages_of(self, row: int) -> tuple[Message, ...]:
        """The conversation of a row, without opening its media."""
        part, item = self.rows[row].tolist()
        sample: PackedSample = self.datasets[part].sample(item)
        return sample.items[int(self._places[part][item])].messages

    def column(self, name: str) -> np.ndarray[Any, Any]:
        """One column of the indices for every row of an epoch, in row order."""
        columns = [np.asarray(d.column(name)) for d in self.datasets]
        return np.concatenate([columns[p][self.rows[self.rows[:, 0] == p, 1]] for p in range(len(columns))])

    def describe(self) -> list[dict[str, Any]]:
        """What goes into the training summary: location, weight, items, how many an epoch sees, content hash."""
        seen = Counter(self.rows[:, 0].tolist())
        return [
            {
                "data": part.location,
                "weight": part.weight,
                "items": len(dataset),
                "per_epoch": seen[number],
                "index_sha256": hashlib.sha256((root / "index.parquet").read_bytes()).hexdigest(),
            }
            for number, (part, root, dataset) in enumerate(zip(self.parts, self.roots, self.datasets, strict=True))
        ]


def _repeat(items: int, weight: float, *, seed: int) -> list[int]:
    whole, rest = divmod(weight, 1)
    extra = np.random.default_rng(seed).permutation(items)[: round(rest * items)]
    return [i for _ in range(int(whole)) for i in range(items)] + sorted(extra.tolist())
