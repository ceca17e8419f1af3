"""How do batches come out of worker processes, so that a killed run goes on with the very next sample?

Workers, prefetching and the way between processes are those of torch's DataLoader. What is added is the order, which
does not depend on them, and a state that counts what was handed out, not what was prefetched.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from vtrap_data.errors import SampleError, UsageError, VtrapError
from vtrap_data.loading.corpus import Corpus
from vtrap_data.loading.order import ORDER_VERSION, check_state, group_by_length
from vtrap_data.samples import Example

Batch = TypeVar("Batch")


class Loader(Generic[Batch]):
    """Batches of a corpus, epoch after epoch. One iteration is what is left of one epoch.

    An iteration ends with the error of a batch that cannot be made, in workers as without them. After a SampleError
    (one sample is bad: a frame of it, or what `transform` makes of it) the place is behind that batch, and another
    iteration goes on with the next. After any other (a shard that is missing or cut off) it is before that batch,
    which comes again.

    Args:
        corpus: What to read.
        batch_size: Samples in a batch over all ranks; each rank gets `batch_size / ranks` of them.
        transform: Makes a batch of examples what is wanted, in the worker: encode there and send tensors, which go
            through shared memory. None: the list of examples as it is.
        workers: Processes; 0: this one. Does not change the order.
        rank: Of this process.
        ranks: How many processes share every batch.
        lengths: int [rows of the corpus]: group rows of about equal length, such as token counts. None: plain shuffle.
        window: Batches among which length grouping may move rows.
        drop_last: Leave out a last batch that is not full.
        prefetch: Batches that each worker prepares in advance.

    Raises:
        UsageError: Numbers that do not fit each other.

    Example:
        >>> loader = Loader(Corpus("corpus"), batch_size=8, workers=4)  # doctest: +SKIP
        >>> for batch in loader:  # doctest: +SKIP
        ...     save(loader.state_dict())
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        batch_size: int,
        transform: Callable[[list[Example]], Batch] | None = None,
        workers: int = 0,
        rank: int = 0,
        ranks: int = 1,
        lengths: Sequence[int] | NDArray[Any] | None = None,
        window: int = 50,
        drop_last: bool = False,
        prefetch: int = 2,
    ) -> None:
        if batch_size < 1 or ranks < 1 or not 0 <= rank < ranks or batch_size % ranks:
            raise UsageError(
                f"batch_size {batch_size} is over all ranks and must be a multiple of ranks, {ranks}; "
                f"rank {rank} must be from 0 to {ranks - 1}"
            )
        if workers < 0 or prefetch < 1 or window < 1:
            raise UsageError(f"workers {workers} must be 0 or more, prefetch {prefetch} and window {window} 1 or up")
        if not drop_last and corpus.epoch_size % batch_size % ranks:
            raise UsageError(
                f"the last batch of {corpus.epoch_size % batch_size} does not split over {ranks} ranks: set drop_last"
            )
        if lengths is not None and len(lengths) != len(corpus):
            raise UsageError(f"{len(lengths)} lengths for {len(corpus)} rows: there must be one for each")
        self.corpus = corpus
        self.batch_size = batch_size
        self.rank, self.ranks = rank, ranks
        self.window = window
        self.drop_last = drop_last
        self._lengths = None if lengths is None else np.asarray(lengths, dtype=np.int64)
        # Made once: a state is asked for after every batch.
        self._lengths_hash = (
            None if self._lengths is None else hashlib.sha256(self._lengths.tobytes()).hexdigest()[:16]
        )
        self.epoch = 0
        self.batch = 0
        """Batches of this epoch that were handed out."""
        self._read = _Batches(corpus, transform)
        self._batches: DataLoader[Batch | _Failed] | None = None
        if workers:
            self._batches = DataLoader(
                self._read,
                batch_size=None,
                sampler=_Rest(self),
                num_workers=workers,
                collate_fn=_as_it_is,
                persistent_workers=True,
                prefetch_factor=prefetch,
            )

    def __len__(self) -> int:
        """Batches in an epoch."""
        whole, rest = divmod(self.corpus.epoch_size, self.batch_size)
        return whole + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._here() if self._batches is None else self._batches:
            if isinstance(batch, _Failed):
                self.batch += isinstance(batch.error, SampleError)
                raise batch.error
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def order(self, epoch: int) -> NDArray[np.int64]:
        """int64: the rows of an epoch over all ranks, in order."""
        rows = self.corpus.order(epoch)
        if self._lengths is not None:
            options = {"batch": self.batch_size, "window": self.window, "seed": self.corpus.seed, "epoch": epoch}
            rows = group_by_length(rows, self._lengths, **options)
        return rows

    def state_dict(self) -> dict[str, Any]:
        """Where the loader is, JSON-ready: after the last batch that was handed out."""
        return {"epoch": self.epoch, "batch": self.batch, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there, with any number of workers, and of ranks that divides the batch.

        Raises:
            UsageError: The state is of another corpus, order or batch size: the rest of the epoch would be another.
        """
        check_state(state, self._identity())
        self.epoch, self.batch = int(state["epoch"]), int(state["batch"])

    def _identity(self) -> dict[str, Any]:
        grouped = None if self._lengths is None else self.window
        return {
            "order_version": ORDER_VERSION,
            "corpus": self.corpus.fingerprint(),
            "batch_size": self.batch_size,
            "window": grouped,
            "lengths": self._lengths_hash,
            "drop_last": self.drop_last,
        }

    def _here(self) -> Iterator[Batch | _Failed]:
        """In this process: as a DataLoader does it, without the cost of its profiler and fetcher for every batch."""
        # It draws a seed for each epoch: what is random elsewhere is to go on as it would after that.
        torch.empty((), dtype=torch.int64).random_()
        for rows in self._rest():
            yield self._read[rows]

    def _rest(self) -> Iterator[list[int]]:
        """Rows of the batches of this rank that are still to come in this epoch."""
        order = self.order(self.epoch)
        for number in range(self.batch, len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size][self.rank :: self.ranks].tolist()


class _Rest(Sampler[list[int]]):
    def __init__(self, loader: Loader[Any]) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[list[int]]:
        return self.loader._rest()

    def __len__(self) -> int:
        return len(self.loader) - self.loader.batch


@dataclass(frozen=True, slots=True)
class _Failed:
    """In place of a batch. As a value, because a DataLoader makes errors of workers a RuntimeError."""

    error: VtrapError


class _Batches(Dataset[Any]):
    """What runs in the workers."""

    def __init__(self, corpus: Corpus, transform: Callable[[list[Example]], Any] | None) -> None:
        self.corpus = corpus
        self.transform = transform

    def __getitem__(self, rows: list[int]) -> Any:
        try:
            examples = [self.corpus[row] for row in rows]
            return examples if self.transform is None else self.transform(examples)
        except VtrapError as error:
            return _Failed(error)


def _as_it_is(batch: Batch | _Failed) -> Batch | _Failed:
    return batch
