"""Which samples share a forward pass? With `--tokens_per_batch`, those of a step that are about equally long.

The samples of a step stay the ones that plain shuffling gives it; only inside the step are they sorted by length and
cut into batches of at most so many tokens, padding included. The loss of a step is the mean over all its tokens, so
what is learned stays the same up to rounding, and what is saved is the padding: a question about two frames no longer
costs as much as its neighbour with sixteen.

Everything is a function of (lengths, seed, epoch, step, processes). Each rank works out the batches of all ranks and
takes its own, so ranks agree on how many there are without talking, and a resumed run skips steps without loading
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler

from vtrap_train.collate import VideoCollator

MICRO = "micro_batches"
"""Key under which a step of `step_loader` holds its batches."""

Rows = tuple[int, ...]
Order = Callable[[int], NDArray[np.int64]]


class RowSampler(Sampler[int]):
    """Yields the rows of an epoch in a given order.

    Args:
        order: int64 [rows] for an epoch.
        rows: Their number.
    """

    def __init__(self, order: Order, *, rows: int) -> None:
        self.order = order
        self.rows = rows
        self.epoch = 0

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1  # as accelerate's sampler does; `set_epoch` overrides it
        return iter(self.order(epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is."""
        self.epoch = epoch


class StepSampler(Sampler[list[Rows]]):
    """Yields for each optimiser step the batches of one rank: tuples of row numbers, maybe empty ones.

    Args:
        lengths: int [rows]: tokens of every row.
        per_step: Rows of a step over all ranks. The last step of an epoch may have fewer.
        tokens: Most tokens of a batch: rows times the longest of them. A longer row is a batch of its own.
        seed: Of the shuffle.
        shuffle: False keeps the order of the rows.
        world_size: Number of ranks.
        rank: The one whose batches are yielded.
        packed: Rows of a batch are laid end to end, so it costs the sum of their tokens.
        order: int64 [rows] for an epoch: another order than the shuffled one.
    """

    def __init__(
        self,
        lengths: Sequence[int] | NDArray[Any],
        *,
        per_step: int,
        tokens: int,
        seed: int,
        shuffle: bool = True,
        world_size: int = 1,
        rank: int = 0,
        packed: bool = False,
        order: Order | None = None,
    ) -> None:
        self.own_order = order
        self.lengths = np.asarray(lengths, dtype=np.int64)
        self.per_step = per_step
        self.tokens = tokens
        self.seed = seed
        self.shuffle = shuffle
        self.world_size = world_size
        self.rank = rank
        self.packed = packed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.per_step)

    def __iter__(self) -> Iterator[list[Rows]]:
        order = self.order(self.epoch)
        self.epoch += 1  # as accelerate's sampler does; `set_epoch` overrides it
        for step in range(len(self)):
            rows = order[step * self.per_step : (step + 1) * self.per_step]
            yield self.split(rows)[self.rank]

    def split(self, rows: NDArray[Any]) -> list[list[Rows]]:
        """The batches of every rank for the rows of one step."""
        lengths = self.lengths[rows]
        return split(rows, lengths, tokens=self.tokens, world_size=self.world_size, packed=self.packed)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is."""
        self.epoch = epoch

    def order(self, epoch: int) -> NDArray[np.int64]:
        """int64 [rows]: the rows in the order of an epoch, the one that Trainer's own sampler has."""
        if self.own_order is not None:
            return self.own_order(epoch)
        if not self.shuffle:
            return np.arange(len(self.lengths))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        return torch.randperm(len(self.lengths), generator=generator).numpy()


def split(
    rows: NDArray[Any], lengths: NDArray[Any], *, tokens: int, world_size: int, packed: bool = False
) -> list[list[Rows]]:
    """Cut the rows of one step into batches, for each rank equally many, of about equal cost at each place.

    Args:
        rows: int [n]: row numbers.
        lengths: int [n]: their tokens.
        tokens: Most tokens of a batch, padding included.
        world_size: Number of ranks.
        packed: A batch costs the sum of its tokens: rows go where there is room, the longest first. Otherwise each row
            costs as much as the longest of its batch, and neighbours in length go together.

    Returns:
        For each rank its batches, longest rows first. Empty batches only where there are fewer rows than ranks.

    >>> split(np.array([7, 8, 9]), np.array([10, 90, 12]), tokens=100, world_size=1)
    [[(8,), (9, 7)]]
    """
    by_length = np.argsort(-lengths, kind="stable")
    batches: list[list[int]] = []
    for place in by_length.tolist():
        for batch in batches if packed else batches[-1:]:
            if _cost([*batch, place], lengths, packed=packed) <= tokens:
                batch.append(place)
                break
        else:
            batches.append([place])
    # Every rank runs the same number of batches: ZeRO and DDP wait for each other in each of them.
    while len(batches) % world_size:
        most = max(batches, key=lambda b: _cost(b, lengths, packed=packed) if len(b) > 1 else 0)
        if len(most) > 1:
            half = -(-len(most) // 2)
            batches.append(most[half:])
            del most[half:]
        else:
            batches.append([])
    batches.sort(key=lambda b: -_cost(b, lengths, packed=packed))
    numbers = [tuple(int(rows[p]) for p in b) for b in batches]
    return [numbers[rank::world_size] for rank in range(world_size)]


def _cost(batch: Sequence[int], lengths: NDArray[Any], *, packed: bool) -> int:
    if packed or not batch:
        return int(lengths[batch].sum())
    return len(batch) * int(lengths[batch[0]])  # the longest comes first


class Padding(NamedTuple):
    """What a way of batching costs.

    Attributes:
        tokens: Of the samples.
        computed: Padding included.
        batches: Forward passes of all ranks.
    """

    tokens: int
    computed: int
    batches: int

    @property
    def share(self) -> float:
        """Padding among what is computed."""
        return 1 - self.tokens / self.computed if self.computed else 0.0


def padding(sampler: StepSampler, *, epoch: int = 0) -> Padding:
    """Padding of one epoch of all ranks, from the lengths alone."""
    order = sampler.order(epoch)
    computed = batches = 0
    for step in range(len(sampler)):
        rows = order[step * sampler.per_step : (step + 1) * sampler.per_step]
        for rank in sampler.split(rows):
            batches += len(rank)
            for lengths in (sampler.lengths[list(b)] for b in rank if b):
                computed += int(lengths.sum() if sampler.packed else len(lengths) * lengths.max())
    return Padding(int(sampler.lengths.sum()), computed, batches)


class Numbers(Dataset[Any]):
    """What loaders fetch by: the row numbers themselves, of one row or of a batch. The collator opens them."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int | Rows) -> int | Rows:
        return number


class _Collate:
    """Collates each batch of a step."""

    def __init__(self, collator: VideoCollator) -> None:
        self.collator = collator

    def __call__(self, groups: Sequence[Rows]) -> dict[str, Any]:
        return {MICRO: [self.collator(rows) for rows in groups]}


class StepLoader(DataLoader[Any]):
    """A DataLoader whose items are steps: {MICRO: batches of this rank}.

    Args:
        sampler: Says which rows.
        collator: Makes their batches.
        workers: As `num_workers`.
        pin_memory: As in DataLoader.
        prefetch: As `prefetch_factor`; None: 1, as a step is many samples, and two ahead were a lot of pixels.
        persistent: As `persistent_workers`.
    """

    def __init__(
        self,
        sampler: StepSampler,
        collator: VideoCollator,
        *,
        workers: int,
        pin_memory: bool,
        prefetch: int | None = None,
        persistent: bool = False,
    ) -> None:
        super().__init__(
            Numbers(len(sampler.lengths)),
            batch_sampler=sampler,
            collate_fn=_Collate(collator),
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=(prefetch or 1) if workers else None,
            persistent_workers=persistent,
        )
        self.steps = sampler

    def set_epoch(self, epoch: int) -> None:
        """Which epoch the next iteration is."""
        self.steps.set_epoch(epoch)
