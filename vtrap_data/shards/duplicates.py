"""Which media of a corpus look alike, although their files differ? Found by looks, reported, never removed.

Equal files of one source are stored once when they are packed. This finds the rest: the same film encoded or scaled
anew. Each medium has up to eight pictures at fixed shares of its length; two media are alike when the middle ones are,
and at least half of all (`contamination.picture_hash` says what a picture looks like).

Not every pair is compared. Cut two hashes that differ in at most d bits into d + 1 pieces: at least one is equal. Cut
them into half as many: at least one differs in a bit at most, so is equal without one of its bits (Norouzi, Punjani,
Fleet 2012). Longer pieces are shared by fewer hashes, but there are more of them to sort by: `_cost` chooses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from vtrap_data.errors import SampleError, UsageError
from vtrap_data.media import images, jpeg
from vtrap_data.shards.contamination import DISTANCE, picture_hash
from vtrap_data.shards.manifest import read_manifest
from vtrap_data.shards.members import FRAMES, IMAGES
from vtrap_data.shards.stored import StoredSample, read_stored

PICTURES = 8
"""Pictures looked at per medium."""

_BLOCK = 1 << 18
"""Pairs that are compared at once."""
_SORT = 8
"""What sorting by a piece takes for each hash, in comparisons of a pair."""

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Media that look alike.

    Attributes:
        samples: Their ids, in the order of the corpus.
        exact: All of them are the same files (of several sources, or the corpus was packed before such were joined).
    """

    samples: tuple[str, ...]
    exact: bool


def near_duplicates(root: Path, *, distance: int = DISTANCE) -> list[Alike]:
    """Groups of media that look alike, in the order of the corpus.

    Args:
        root: A packed corpus.
        distance: Bits of 256 that may differ between pictures that are alike; 0 to 64.

    Raises:
        UsageError: No packed corpus, or a distance out of range.
    """
    if not 0 <= distance <= 64:
        raise UsageError(f"--distance {distance} must be between 0 and 64 (of 256 bits)")
    total = read_manifest(root).counts["samples"]
    names: list[str] = []
    files: list[tuple[str, ...]] = []
    looks: list[list[Words | None]] = []
    for stored in tqdm(read_stored(root, members=True), "look", total, unit="sample", disable=None):
        sample = stored.sample
        if sample.kind == "text":
            continue
        names.append(sample.id)
        files.append(sample.media)
        looks.append(_looks(stored))
    first: dict[tuple[str, ...], int] = {}
    leader = np.array([first.setdefault(file, number) for number, file in enumerate(files)], np.int64)
    _join(leader, looks, distance)
    groups: dict[int, list[int]] = defaultdict(list)
    for number, lead in enumerate(leader.tolist()):
        groups[lead].append(number)
    return [
        Alike(samples=tuple(names[n] for n in group), exact=len({files[n] for n in group}) == 1)
        for group in sorted(groups.values())
        if len(group) > 1
    ]


def _looks(stored: StoredSample) -> list[Words | None]:
    """Hashes of a medium's pictures; None for one with too little contrast or that cannot be read."""
    video = stored.sample.video
    if video is None:
        return [_look(data, images.load_image) for data in stored.blobs(IMAGES)[:PICTURES]]
    frames = stored.blobs(FRAMES)
    times = np.asarray(video.frame_times)
    # By time: copies of one film may be stored with different numbers of frames.
    wanted = (np.arange(PICTURES) + 0.5) / PICTURES * video.duration
    nearest = np.abs(times[None, :] - wanted[:, None]).argmin(axis=1)
    seen = {number: _look(frames[number], jpeg.decode) for number in set(nearest.tolist())}
    return [seen[number] for number in nearest.tolist()]


def _look(data: bytes, decode: Callable[[bytes], Image.Image]) -> Words | None:
    try:
        return picture_hash(decode(data))
    except SampleError:
        return None


def _join(leader: Numbers, looks: Sequence[Sequence[Words | None]], distance: int) -> None:
    """Give media that look alike one leader.

    Args:
        leader: int64 [media]: of each medium one of its group, and of that one itself; is changed.
        looks: What `_looks` says of each.
        distance: Bits that may differ.
    """
    counts = np.array([len(one) for one in looks], np.int64)
    known = np.zeros((len(looks), PICTURES), bool)
    hashes = np.zeros((len(looks), PICTURES, 4), np.uint64)
    for number, one in enumerate(looks):
        for place, look in enumerate(one):
            if look is not None:
                known[number, place], hashes[number, place] = True, look
    everyone = np.arange(len(looks))
    numbers = everyone[known[everyone, counts // 2]]
    for pair in _near(hashes[numbers, counts[numbers] // 2], distance):
        a, b = numbers[pair]
        todo = (leader[a] != leader[b]) & (counts[a] == counts[b])
        a, b = a[todo], b[todo]
        near = np.bitwise_count(hashes[a] ^ hashes[b]).sum(axis=2) <= distance
        alike = 2 * (near & known[a] & known[b]).sum(axis=1) >= counts[a]
        for x, y in zip(leader[a[alike]].tolist(), leader[b[alike]].tolist(), strict=True):
            while leader[x] != x:
                x = int(leader[x])
            while leader[y] != y:
                y = int(leader[y])
            leader[max(x, y)] = min(x, y)
        while alike.any() and (leader[leader] != leader).any():
            leader[:] = leader[leader]


class _Plan(NamedTuple):
    """How near pairs are found.

    Attributes:
        pieces: Numbers of the bits of each piece.
        spare: Bits of a piece that may differ: 0 or 1.
    """

    pieces: tuple[Numbers, ...]
    spare: int


def _plans(distance: int) -> tuple[_Plan, ...]:
    """Ways that overlook no pair: compare all; pieces that are equal; longer ones that are equal but for a bit."""
    every = _Plan((np.arange(0),), 0)
    # Every n-th bit, not n bits in a row: neighbours mostly say the same.
    cut = [tuple(np.arange(first, 256, n)[:64] for first in range(n)) for n in (distance + 1, distance // 2 + 1)]
    return every, _Plan(cut[0], 0), _Plan(cut[1], 1)


def _cost(plan: _Plan, n: int) -> float:
    """What a plan takes for n hashes of which no bits go together, in comparisons of a pair."""
    sorts = [len(piece) if plan.spare else 1 for piece in plan.pieces]
    pairs = [n * n * 0.5 ** (len(piece) - plan.spare + 1) for piece in plan.pieces]
    return sum(count * (_SORT * n + pair) for count, pair in zip(sorts, pairs, strict=True))


def _near(keys: Words, distance: int, plan: _Plan | None = None) -> Iterator[Numbers]:
    """Pairs of hashes, uint64 [n, 4], at most `distance` bits apart: int64 [2, pairs], some more than once."""
    n = len(keys)
    plan = plan or min(_plans(distance), key=lambda one: _cost(one, n))
    words = keys.T.copy()
    bits = np.ascontiguousarray(np.unpackbits(keys.view(np.uint8), axis=1).T)  # [256, n]
    for piece in tqdm(plan.pieces, "compare", unit="piece", delay=2, disable=None):
        label = np.zeros(n, np.min_scalar_type((1 << len(piece)) - 1))  # a small type is sorted faster
        for place, bit in enumerate(piece):
            label |= bits[bit].astype(label.dtype) << label.dtype.type(place)
        masks = [1 << place for place in range(len(piece))] if plan.spare else [0]
        for mask in masks:
            for a, b in _equal(label & ~label.dtype.type(mask)):
                apart: NDArray[np.uint8] = np.zeros(len(a), np.uint8)
                for word in words:  # after the first few are left
                    apart = apart + np.bitwise_count(word[a] ^ word[b])
                    few = apart <= distance
                    a, b, apart = a[few], b[few], apart[few]
                if len(a):
                    yield np.stack([a, b])


def _equal(labels: NDArray[np.unsignedinteger]) -> Iterator[tuple[Numbers, Numbers]]:
    """Pairs of places where labels are equal, about `_BLOCK` of them at a time."""
    order = np.argsort(labels, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(labels[order])) + 1, len(order))
    after = np.repeat(ends, np.diff(ends, prepend=0)) - np.arange(len(order)) - 1  # equal ones that come later
    firsts = np.flatnonzero(after)
    after = after[firsts]
    total = np.append(0, np.cumsum(after))
    start = 0
    while start < len(firsts):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + _BLOCK, "right")) - 1)
        some = after[start:stop]
        first = np.repeat(firsts[start:stop], some)
        second = first + 1 + np.arange(len(first)) - np.repeat(total[start:stop] - total[start], some)
        yield order[first], order[second]
        start = stop
