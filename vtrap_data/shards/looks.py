"""Which pictures look alike, and how are those found among millions without comparing every pair?

A picture is known by a difference hash of 256 bits: each pixel of a 17 x 16 grey miniature against its neighbour
(Krawetz 2013). Two are alike if few bits differ. A picture with hardly any contrast is like every other such one, so
it has no hash.

Cut two hashes that differ in at most d bits into d + 1 pieces: at least one is equal. Cut them into half as many: at
least one differs in a bit at most, so is equal without one of its bits (Norouzi, Punjani, Fleet 2012). Longer pieces
are shared by fewer hashes, but there are more of them to sort by: `cost` chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vtrap_data.errors import UsageError

DISTANCE = 20
"""Bits of 256 that may differ. Encoding anew moves a handful; unrelated pictures differ in about 128."""
MIN_CONTRAST = 6.0
"""Standard deviation of the grey miniature (0 to 255) below which a picture looks like any other."""

_GRID = (17, 16)
_BLOCK = 1 << 18
"""Pairs that are compared at once."""
_SORT = 8
"""What sorting by a piece takes for each hash, in comparisons of a pair."""

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


def picture_hash(image: Image.Image) -> Words | None:
    """The difference hash of a picture: uint64 [4], or None if it has too little contrast to be told apart."""
    grey = np.asarray(image.convert("L").resize(_GRID, Image.Resampling.BOX), dtype=np.int16)
    if float(grey.std()) < MIN_CONTRAST:
        return None
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return bits.view(np.uint64)


def check_distance(distance: int) -> None:
    """Raise UsageError for a distance that finds pictures alike which are not."""
    if not 0 <= distance <= 64:
        raise UsageError(f"--distance {distance} must be between 0 and 64 (of 256 bits)")


class Plan(NamedTuple):
    """How near pairs are found.

    Attributes:
        pieces: Numbers of the bits of each piece.
        spare: Bits of a piece that may differ: 0 or 1.
    """

    pieces: tuple[Numbers, ...]
    spare: int


def plans(distance: int) -> tuple[Plan, ...]:
    """Ways that overlook no pair: compare all; pieces that are equal; longer ones that are equal but for a bit."""
    every = Plan((np.arange(0),), 0)
    # Every n-th bit, not n bits in a row: neighbours mostly say the same.
    cut = [tuple(np.arange(first, 256, n)[:64] for first in range(n)) for n in (distance + 1, distance // 2 + 1)]
    return every, Plan(cut[0], 0), Plan(cut[1], 1)


def cost(plan: Plan, n: int, *, of: int = 0) -> float:
    """What a plan takes for n hashes of which no bits go together, in comparisons of a pair; `of`: as in `near`."""
    sorts = [len(piece) if plan.spare else 1 for piece in plan.pieces]
    pairs = of * (n - of) if of else n * n / 2
    shared = [pairs * 0.5 ** (len(piece) - plan.spare) for piece in plan.pieces]
    return sum(count * (_SORT * n + pair) for count, pair in zip(sorts, shared, strict=True))


def near(keys: Words, distance: int, *, of: int = 0, plan: Plan | None = None) -> Iterator[Numbers]:
    """Pairs of hashes that are near each other.

    Args:
        keys: uint64 [n, 4].
        distance: Bits that may differ.
        of: Only pairs of one of the first `of` hashes and one of the others; 0: all pairs.
        plan: How; None: whatever takes least.

    Yields:
        int64 [2, pairs], some pairs more than once; with `of` the one of the first is in the first row.
    """
    n = len(keys)
    plan = plan or min(plans(distance), key=lambda one: cost(one, n, of=of))
    words = keys.T.copy()
    bits = np.ascontiguousarray(np.unpackbits(keys.view(np.uint8), axis=1).T)  # [256, n]
    for piece in tqdm(plan.pieces, "compare", unit="piece", delay=2, disable=None):
        label = np.zeros(n, np.min_scalar_type((1 << len(piece)) - 1))  # a small type is sorted faster
        for place, bit in enumerate(piece):
            label |= bits[bit].astype(label.dtype) << label.dtype.type(place)
        masks = [1 << place for place in range(len(piece))] if plan.spare else [0]
        for mask in masks:
            for a, b in _equal(label & ~label.dtype.type(mask), of):
                apart: NDArray[np.uint8] = np.zeros(len(a), np.uint8)
                for word in words:  # after the first few are left
                    apart = apart + np.bitwise_count(word[a] ^ word[b])
                    few = apart <= distance
                    a, b, apart = a[few], b[few], apart[few]
                if len(a):
                    yield np.stack([a, b])


def bits_apart(a: Words, b: Words) -> Numbers:
    """How many bits differ, for hashes uint64 [..., 4]."""
    apart: Numbers = np.bitwise_count(a ^ b).sum(axis=-1, dtype=np.int64)
    return apart


def _equal(labels: NDArray[np.unsignedinteger], of: int) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of places where labels are equal, about `_BLOCK` of them at a time; `of`: as in `near`."""
    order = np.argsort(labels, kind="stable")
    bounds = np.concatenate([[0], np.flatnonzero(np.diff(labels[order])) + 1, [len(order)]])
    sizes = np.diff(bounds)
    ends = np.repeat(bounds[1:], sizes)
    begins = np.arange(len(order)) + 1  # those that come later
    if of:  # within equal labels the sort keeps the order, so those of the first `of` come first
        first = order < of
        begins = np.repeat(np.add.reduceat(first, bounds[:-1], dtype=np.int64) + bounds[:-1], sizes)
        begins[~first] = ends[~first]
    after = ends - begins
    firsts = np.flatnonzero(after)
    begins, after = begins[firsts], after[firsts]
    total = np.append(0, np.cumsum(after))
    start = 0
    while start < len(firsts):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + _BLOCK, "right")) - 1)
        some = after[start:stop]
        place = np.arange(some.sum()) - np.repeat(total[start:stop] - total[start], some)
        yield order[np.repeat(firsts[start:stop], some)], order[np.repeat(begins[start:stop], some) + place]
        start = stop
