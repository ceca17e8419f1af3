"""How do several packed folders become one corpus with one order?"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vtrap_data.errors import UsageError
from vtrap_data.loading.dataset import PackedDataset
from vtrap_data.loading.order import Weight, counts, epoch_rows
from vtrap_data.samples import Example


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One packed folder of a corpus and how much of it an epoch takes.

    Attributes:
        root: The folder.
        weight: All of it, once an epoch, unless a `loading.order.Weight` says otherwise: `repeat` (times an epoch sees
            it), `choose` (items), or `proportion` (share of the epoch; then every part has one).
    """

    root: Path
    weight: Weight = field(default_factory=Weight)


class Realised(NamedTuple):
    """What an epoch really takes of a part.

    Attributes:
        root: Its folder.
        items: Items it holds.
        seen: Items that an epoch takes of it, repetitions counted.
        share: Of the epoch.
    """

    root: Path
    items: int
    seen: int
    share: float


class Corpus:
    """Packed folders behind one row number. Map-style: `corpus[row]` reads only the frames that its budget needs.

    Args:
        parts: A folder or several, each as it is or as a `Part` with a weight.
        frames: "hybrid": the packed budgets; a number: that budget for every video item.
        seed: Of the order.
        shuffle: False: part after part, in packed order.
        epoch_size: Items in an epoch where the parts have proportions.

    Raises:
        UsageError: A folder that is no packed corpus, a budget that is not stored, weights that do not fit.

    Example:
        >>> corpus = Corpus([Part(root=Path("a")), Part(root=Path("b"), weight=Weight(choose=500))])  # doctest: +SKIP
        >>> corpus[corpus.order(epoch=0)[0]].item.question  # doctest: +SKIP
        'Which door opens first?'
    """

    def __init__(
        self,
        parts: Path | str | Sequence[Part | Path | str],
        *,
        frames: int | Literal["hybrid"] = "hybrid",
        seed: int = 0,
        shuffle: bool = True,
        epoch_size: int | None = None,
    ) -> None:
        several = [parts] if isinstance(parts, (str, Path)) else parts
        self.parts = tuple(part if isinstance(part, Part) else Part(root=Path(part)) for part in several)
        if not self.parts:
            raise UsageError("a corpus needs at least one packed folder")
        if seed < 0:
            raise UsageError(f"seed must be 0 or more, not {seed}")
        self.seed = seed
        self.shuffle = shuffle
        self.datasets = tuple(PackedDataset(part.root, frames=frames) for part in self.parts)
        self._sizes = [len(data) for data in self.datasets]
        self._starts = [0, *accumulate(self._sizes)]
        self._taken = counts(self._sizes, [part.weight for part in self.parts], epoch_size=epoch_size)

    def __len__(self) -> int:
        """Items in all parts, each counted once."""
        return self._starts[-1]

    def __getitem__(self, row: int) -> Example:
        part, item = self._place(row)
        example: Example = self.datasets[part][item]
        return example

    @property
    def epoch_size(self) -> int:
        """Items in an epoch."""
        return sum(self._taken)

    def order(self, epoch: int) -> NDArray[np.int64]:
        """int64 [epoch_size]: the rows of an epoch, in order."""
        return epoch_rows(self._sizes, self._taken, seed=self.seed, epoch=epoch, shuffle=self.shuffle)

    def realised(self) -> tuple[Realised, ...]:
        """What an epoch takes of each part. The same in every epoch."""
        return tuple(
            Realised(part.root, size, seen, seen / self.epoch_size)
            for part, size, seen in zip(self.parts, self._sizes, self._taken, strict=True)
        )

    def column(self, name: str) -> list[Any]:
        """One column of the indices (`shards.index.SCHEMA`), a value per row."""
        return [value for data in self.datasets for value in data.column(name)]

    def fingerprint(self) -> str:
        """Hash of what decides which item a row is and what an epoch takes: two corpora that differ have two."""
        digest = hashlib.sha256()
        for data, taken in zip(self.datasets, self._taken, strict=True):
            digest.update(f"{data.manifest.index_sha256} {data.frames} {taken}\n".encode())
        digest.update(f"{self.seed} {self.shuffle}".encode())
        return digest.hexdigest()

    def _place(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        part = bisect_right(self._starts, row) - 1
        return part, int(row) - self._starts[part]
