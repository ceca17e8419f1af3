"""In which order are samples seen? A pure function of (seed, epoch, position), whatever the workers or the ranks.

1. `draw`      how many items of each source an epoch takes, and which: a source is an endless row of shuffled passes
               over its items, and every epoch takes the next `count` of it. So no item comes a second time before all
               have come once, over epochs too.
2. `shuffle`   all of them together
3. `group`     optional: inside windows of some batches, items of about one length share a batch

Random numbers come from a hash written out below (`_hash`), not from a library's generator, whose stream may change
between versions. A change here gives another order: bump `ORDER_VERSION` and say so in CHANGELOG under ORDER.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vtrap_data.errors import UsageError

ORDER_VERSION = 1
"""Version of the order; states of loaders record it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """How much of a source an epoch takes: exactly one of the three, or nothing for all of it once.

    Attributes:
        repeat: Times the source is seen in an epoch; 0.5 is half of it, the other half in the next epoch.
        choose: Number of items.
        proportion: Share of the epoch, in units of any size. All sources of a mixture have one, or none has.
    """

    repeat: float | None = None
    choose: int | None = None
    proportion: float | None = None

    def __post_init__(self) -> None:
        given = {n: v for n in ("repeat", "choose", "proportion") if (v := getattr(self, n)) is not None}
        if len(given) > 1:
            raise UsageError(f"a source has one of repeat, choose and proportion, not {given}")
        for name, value in given.items():
            if not (np.isfinite(value) and value > 0):
                raise UsageError(f"{name} of a source must be above 0, not {value}")
        if self.choose is not None and self.choose != int(self.choose):
            raise UsageError(f"choose is a number of items, not {self.choose}: for a share of them give repeat")


def counts(sizes: Sequence[int], weights: Sequence[Weight], *, epoch_size: int | None = None) -> tuple[int, ...]:
    """How many items of each source an epoch takes.

    Args:
        sizes: Items of each source.
        weights: One per source.
        epoch_size: Items in an epoch, for proportions; all items of all sources together unless given.

    Raises:
        UsageError: Proportions for some sources only, an `epoch_size` without proportions, or a source of which no
            epoch takes anything.
    """
    if len(sizes) != len(weights) or not sizes:
        raise UsageError(f"{len(sizes)} sources and {len(weights)} weights: there must be one for each, at least one")
    if min(sizes) < 1:
        raise UsageError(f"source {list(sizes).index(min(sizes))} holds no items")
    shares = [weight.proportion for weight in weights]
    if all(share is None for share in shares):
        if epoch_size is not None:
            raise UsageError("epoch_size goes with proportions; repeat and choose fix the size of an epoch themselves")
        return _some_of_each(tuple(map(_count, sizes, weights)), sizes, "a larger repeat, or choose")
    if any(share is None for share in shares):
        raise UsageError("give every source a proportion, or none: a share of the epoch and a count do not add up")
    total = sum(sizes) if epoch_size is None else epoch_size
    if total < 1:
        raise UsageError(f"epoch_size must be at least 1, not {epoch_size}")
    taken = _apportion(total, [float(share or 0) for share in shares])
    return _some_of_each(taken, sizes, "a larger proportion, or a larger epoch_size")


def epoch_rows(
    sizes: Sequence[int], taken: Sequence[int], *, seed: int, epoch: int, shuffle: bool = True
) -> NDArray[np.int64]:
    """The rows of one epoch: source s, item i is row `sum(sizes[:s]) + i`.

    Args:
        sizes: Items of each source.
        taken: Items that an epoch takes of each (`counts`).
        seed: Of everything random.
        epoch: Which one, from 0.
        shuffle: False: source after source, each in its own order.

    Returns:
        int64 [sum(taken)].
    """
    starts = np.concatenate([[0], np.cumsum(sizes)])
    drawn = [
        start + _draw(size, count, seed=seed, source=source, epoch=epoch, shuffle=shuffle)
        for source, (start, size, count) in enumerate(zip(starts[:-1], sizes, taken, strict=True))
    ]
    rows = np.concatenate(drawn)
    return rows[permutation(len(rows), seed, 1, epoch)] if shuffle else rows


def group_by_length(
    rows: NDArray[np.int64], lengths: NDArray[np.int64], *, batch: int, window: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """Reorder an epoch so that the rows of a batch are about equally long.

    Args:
        rows: int64 [n]: the epoch.
        lengths: int64: length of every row of the corpus, indexed by row.
        batch: Rows in a batch, over all ranks.
        window: Batches among which rows may move. The longer, the less padding and the less random.
        seed: Of the order in which the batches of a window come.
        epoch: Which one.

    Returns:
        int64 [n]: the same rows. A short last batch stays last.
    """
    out = []
    for number, start in enumerate(range(0, len(rows), batch * window)):
        piece = rows[start : start + batch * window]
        piece = piece[np.argsort(-lengths[piece], kind="stable")]
        whole = len(piece) // batch
        batches = piece[: whole * batch].reshape(whole, batch)
        out += [*batches[permutation(whole, seed, 2, epoch, number)], piece[whole * batch :]]
    return np.concatenate(out) if out else rows


def stream_rows(
    shards: Sequence[NDArray[np.int64]], *, window: int, seed: int, epoch: int, shuffle: bool = True
) -> NDArray[np.int64]:
    """The rows of one epoch in an order that is inside few shards at a time: source s, row i is `sum(sizes[:s]) + i`.

    The shards of a source start one after the other, in random order, and the rows of each are spread evenly over the
    time in which the next `window` start. So at any moment rows come from at most `window` + 1 shards of a source.
    Sources are mixed as in a plain shuffle, whatever the number of their shards.

    Args:
        shards: For each source int64 [rows]: number of the shard that holds the row. Where an epoch sees a source
            several times, a shard has another number each time, and so is visited at several times.
        window: Shards that are mixed.
        seed: Of everything random.
        epoch: Which one.
        shuffle: False: as they are.

    Returns:
        int64 [all rows].
    """
    sizes = [len(numbers) for numbers in shards]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if not shuffle:
        return np.arange(starts[-1])
    source = np.repeat(np.arange(len(sizes)), sizes)[permutation(int(starts[-1]), seed, 7, epoch)]
    out = np.empty(starts[-1], dtype=np.int64)
    for number, held in enumerate(shards):
        names, visit = np.unique(held, return_inverse=True)
        turn = np.empty(len(names))
        turn[permutation(len(names), seed, 5, number, epoch)] = np.arange(len(names))
        late = window * permutation(len(held), seed, 6, number, epoch) / max(1, len(held))
        out[source == number] = starts[number] + np.argsort(turn[visit] + late, kind="stable")
    return out


def check_state(state: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Refuse a state of another order, with which the rest of an epoch would be another.

    Args:
        state: What is to be gone on from.
        identity: What decides the order here, by name; a state holds it, too.

    Raises:
        UsageError: They differ.
    """
    other = [name for name, value in identity.items() if state.get(name) != value]
    if other:
        told = ", ".join(f"{name} was {state.get(name)}, is {identity[name]}" for name in other)
        raise UsageError(f"this state belongs to another order of samples ({told}): start the epoch anew")


def permutation(n: int, *words: int) -> NDArray[np.int64]:
    """A permutation of range(n) that depends on the words alone: int64 [n]."""
    state = np.uint64(0)
    for word in words:
        state = _hash(np.array([np.uint64(word & (2**64 - 1)) ^ state]))[0]
    return np.argsort(_hash(np.arange(n, dtype=np.uint64) ^ state), kind="stable").astype(np.int64)


def _hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64 (Steele, Lea, Flood 2014): a bijection of the 64-bit numbers that leaves no pattern."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


def _draw(size: int, count: int, *, seed: int, source: int, epoch: int, shuffle: bool) -> NDArray[np.int64]:
    """The next `count` items of the endless row of passes, at its place for this epoch."""
    first, last = epoch * count, (epoch + 1) * count
    passes = range(first // size, -(-last // size))
    items = [permutation(size, seed, 0, source, number) for number in passes]
    drawn = np.concatenate(items)[first - passes.start * size :][:count] if items else np.empty(0, dtype=np.int64)
    return drawn if shuffle else np.sort(drawn)


def _count(size: int, weight: Weight) -> int:
    if weight.choose is not None:
        return int(weight.choose)
    return round(size * (1.0 if weight.repeat is None else weight.repeat))


def _some_of_each(taken: tuple[int, ...], sizes: Sequence[int], remedy: str) -> tuple[int, ...]:
    """The counts, if none is 0: every epoch takes as many, so that source would never be seen."""
    if 0 in taken:
        source = taken.index(0)
        raise UsageError(
            f"source {source} ({sizes[source]} items) has so small a weight that an epoch would be empty of it: "
            f"give it {remedy}"
        )
    return taken


def _apportion(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers that add up to `total`, each within 1 of its share (largest remainders)."""
    exact = [total * share / sum(shares) for share in shares]
    whole = [int(value) for value in exact]
    rest = sorted(range(len(shares)), key=lambda i: (whole[i] - exact[i], i))
    for i in rest[: total - sum(whole)]:
        whole[i] += 1
    return tuple(whole)
