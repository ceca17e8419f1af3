from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vtrap_data.errors import UsageError
from vtrap_data.loading.order import Weight, counts, epoch_rows, group_by_length, permutation, stream_rows

sizes_of = st.lists(st.integers(1, 30), min_size=1, max_size=4)


@given(st.integers(0, 300), st.lists(st.integers(0, 2**63), max_size=4))
def test_a_permutation_has_everything_once_and_depends_on_every_word(n: int, words: list[int]) -> None:
    found = permutation(n, *words)
    assert sorted(found.tolist()) == list(range(n))
    assert (found == permutation(n, *words)).all()


def test_the_order_is_the_one_that_is_written_down() -> None:
    # Golden: if this fails, whoever resumes or reproduces a run gets other samples. Bump ORDER_VERSION.
    assert permutation(10, 0, 1).tolist() == GOLDEN_PERMUTATION
    assert epoch_rows([4, 3], [4, 6], seed=7, epoch=2).tolist() == GOLDEN_EPOCH
    shards = [np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0])]
    assert stream_rows(shards, window=1, seed=7, epoch=2).tolist() == GOLDEN_STREAM


GOLDEN_PERMUTATION = [8, 3, 0, 1, 5, 2, 7, 4, 9, 6]
GOLDEN_STREAM = [3, 2, 0, 5, 6, 7, 1, 4]
GOLDEN_EPOCH = [1, 4, 0, 6, 5, 2, 4, 6, 5, 3]


@given(
    sources=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=9), min_size=1, max_size=3),
    window=st.integers(1, 6),
    epoch=st.integers(0, 3),
)
def test_a_stream_has_every_row_once_and_is_inside_few_shards_at_a_time(
    sources: list[list[int]], window: int, epoch: int
) -> None:
    shards = [np.repeat(np.arange(len(sizes)), sizes) for sizes in sources]
    found = stream_rows(shards, window=window, seed=3, epoch=epoch)
    total = sum(len(held) for held in shards)
    assert sorted(found.tolist()) == list(range(total))
    assert stream_rows(shards, window=window, seed=3, epoch=epoch, shuffle=False).tolist() == list(range(total))
    owner = np.repeat(np.arange(len(shards)), [len(held) for held in shards])
    for number in range(len(shards)):
        mine = np.concatenate(shards)[found[owner[found] == number]].tolist()
        spans = [(mine.index(shard), len(mine) - 1 - mine[::-1].index(shard)) for shard in set(mine)]
        assert max(sum(a <= place <= b for a, b in spans) for place in range(len(mine))) <= window + 1


def test_a_source_of_one_shard_is_mixed_into_the_whole_epoch() -> None:
    found = stream_rows([np.repeat(np.arange(50), 20), np.zeros(100, np.int64)], window=4, seed=0, epoch=0)
    tenths = (found >= 1000).reshape(10, -1).sum(axis=1)
    assert tenths.min() > 2 and tenths.max() < 25
    assert Counter(np.diff(found[:1000]) == 1)[True] < 60  # neighbours are no longer neighbours


def test_permutations_are_uniform_and_unrelated() -> None:
    first = Counter(int(permutation(5, seed, 3)[0]) for seed in range(2000))
    assert all(320 < n < 480 for n in first.values()), first
    pairs = Counter(tuple(permutation(3, 1, epoch).tolist()) for epoch in range(3000))
    assert len(pairs) == 6 and all(400 < n < 600 for n in pairs.values()), pairs
    assert permutation(50, 1, 2).tolist() != permutation(50, 2, 1).tolist()


@given(sizes_of, st.data(), st.integers(0, 5), st.integers(0, 9))
def test_no_item_comes_again_before_all_have_come(
    sizes: list[int], data: st.DataObject, seed: int, epochs: int
) -> None:
    taken = [data.draw(st.integers(0, 3 * size)) for size in sizes]
    if not sum(taken):
        taken[0] = 1
    seen: Counter[int] = Counter()
    for epoch in range(epochs):
        rows = epoch_rows(sizes, taken, seed=seed, epoch=epoch)
        assert len(rows) == sum(taken)
        seen.update(rows.tolist())
    start = 0
    for size, count in zip(sizes, taken, strict=True):
        often = [seen[row] for row in range(start, start + size)]
        assert sum(often) == count * epochs
        assert max(often) - min(often) <= 1
        start += size


def test_weights_mean_what_they_say() -> None:
    half, twice = Weight(repeat=0.5), Weight(repeat=2)
    assert counts([10, 10, 10], [half, twice, Weight(choose=3)]) == (5, 20, 3)
    assert counts([7], [Weight()]) == (7,)
    shares = [Weight(proportion=p) for p in (1, 1, 2)]
    assert counts([100, 10, 1], shares, epoch_size=10) == (3, 2, 5)
    assert counts([100, 10, 2], shares) == (28, 28, 56)
    two = [set(epoch_rows([10], [5], seed=1, epoch=e).tolist()) for e in (0, 1)]
    assert two[0] | two[1] == set(range(10))


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=6), st.integers(1, 500))
def test_proportions_add_up_and_are_within_one(shares: list[float], total: int) -> None:
    try:
        found = counts([1] * len(shares), [Weight(proportion=s) for s in shares], epoch_size=total)
    except UsageError:  # nothing of some source
        assert total * min(shares) / sum(shares) < 1
        return
    assert sum(found) == total and min(found) > 0
    assert all(abs(n - total * s / sum(shares)) < 1 + 1e-9 for n, s in zip(found, shares, strict=True))


@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 6), st.integers(0, 3))
def test_grouping_keeps_the_rows_and_bounds_how_far_they_move(n: int, batch: int, window: int, epoch: int) -> None:
    lengths = np.random.default_rng(n).integers(1, 1000, n)
    rows = epoch_rows([n], [n], seed=0, epoch=epoch)
    found = group_by_length(rows, lengths, batch=batch, window=window, seed=0, epoch=epoch)
    assert sorted(found.tolist()) == sorted(rows.tolist())
    for start in range(0, n, batch * window):
        piece = slice(start, start + batch * window)
        assert sorted(found[piece].tolist()) == sorted(rows[piece].tolist())


def test_grouping_saves_padding_and_still_mixes_the_batches() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, 2000)
    rows = epoch_rows([2000], [2000], seed=0, epoch=0)
    found = group_by_length(rows, lengths, batch=8, window=25, seed=0, epoch=0)

    def waste(order: Any) -> float:
        batches = lengths[order].reshape(-1, 8)
        return 1 - batches.sum() / (8 * batches.max(axis=1)).sum()

    assert waste(rows) > 0.35 and waste(found) < 0.05
    means = lengths[found].reshape(-1, 8).mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2, "lengths of neighbouring batches are unrelated"


@pytest.mark.parametrize(
    ("said", "call"),
    [
        ("one of repeat, choose and proportion", lambda: Weight(repeat=1, choose=2)),
        ("repeat of a source must be above 0", lambda: Weight(repeat=0)),
        ("proportion of a source must be above 0", lambda: Weight(proportion=float("nan"))),
        ("every source a proportion", lambda: counts([1, 1], [Weight(proportion=1), Weight()])),
        ("goes with proportions", lambda: counts([1], [Weight()], epoch_size=5)),
        ("epoch_size must be at least 1", lambda: counts([1], [Weight(proportion=1)], epoch_size=0)),
        ("would be empty", lambda: counts([3], [Weight(repeat=0.01)])),
        # A source of which no epoch takes anything would be left out without a word.
        (r"source 0 \(1 items\) .* larger repeat", lambda: counts([1, 1000], [Weight(repeat=0.5), Weight()])),
        (
            r"source 1 \(9 items\) .* larger epoch_size",
            lambda: counts([9, 9], [Weight(proportion=999), Weight(proportion=1)], epoch_size=100),
        ),
        ("choose is a number of items, not 2.5", lambda: Weight(choose=2.5)),  # type: ignore[arg-type]
        ("source 1 holds no items", lambda: counts([3, 0], [Weight(), Weight()])),
        ("one for each", lambda: counts([3], [])),
    ],
)
def test_wrong_use_is_refused(said: str, call: Any) -> None:
    with pytest.raises(UsageError, match=said):
        call()
